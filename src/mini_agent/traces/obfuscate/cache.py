"""Results worth remembering, within a bound."""

from __future__ import annotations

# A service has a few hundred different queries.
_ENTRIES_MAX = 1024

# A longer text is mostly a list of values written out, and does not come again.
_TEXT_LENGTH_MAX = 8192


class ResultCache:
    """Remembers what became of texts; two generations, of which the older goes when one is full.

    What is asked for again moves to the younger, so that what is in use stays. Either holds
    1024 results at most.

    Args:
        characters_max: Most characters that both hold, texts and results together; 0 for none.
    """

    __slots__ = ("_characters", "_characters_max", "_old", "_young")

    def __init__(self, characters_max: int) -> None:
        self._characters_max = characters_max // 2
        self._young: dict[tuple[str, str], str] = {}
        self._old: dict[tuple[str, str], str] = {}
        self._characters = 0

    def get(self, key: tuple[str, str]) -> str | None:
        """What was put there, or None."""
        result = self._young.get(key)
        if result is None:
            result = self._old.get(key)
            if result is not None:
                self.put(key, result)
        return result

    def put(self, key: tuple[str, str], result: str) -> None:
        """Remember a result of a text of moderate length."""
        length = len(key[0]) + len(key[1]) + len(result)
        if length > min(2 * _TEXT_LENGTH_MAX, self._characters_max):
            return
        if len(self._young) >= _ENTRIES_MAX or self._characters + length > self._characters_max:
            self._old = self._young
            self._young = {}
            self._characters = 0
        self._young[key] = result
        self._characters += length
