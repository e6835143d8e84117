"""Complaints that repeat: said once, then counted for a while."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.flow.clock import Clock

# Complaints remembered at a time. Keys are words of ours and reasons of errors; a few dozen.
KEYS_MAX = 256


class Repeated:
    """Lets each complaint through once in a while and counts the rest.

        suppressed = repeated.may("refused 403")
        if suppressed is not None:
            log.warning("the intake answers 403 (%d more since the last time)", suppressed)

    For one thread. Of more than KEYS_MAX different keys the one said longest ago is forgotten,
    which means that it may be said again at once.

    Args:
        every_s: How long a complaint that was said keeps quiet.
    """

    def __init__(self, clock: Clock, every_s: float = 60.0) -> None:
        self._clock = clock
        self._every_s = every_s
        # When each was said and how often it was suppressed since; the oldest first.
        self._said: dict[str, tuple[float, int]] = {}

    def may(self, key: str) -> int | None:
        """Whether to say it now.

        Returns:
            How often it was suppressed since it was said, or None to keep quiet.
        """
        now_s = self._clock.steady_s()
        said_s, suppressed = self._said.get(key, (now_s - self._every_s, 0))
        if now_s - said_s < self._every_s:
            self._said[key] = (said_s, suppressed + 1)
            return None
        self._said.pop(key, None)
        self._said[key] = (now_s, 0)
        if len(self._said) > KEYS_MAX:
            del self._said[next(iter(self._said))]
        return suppressed
