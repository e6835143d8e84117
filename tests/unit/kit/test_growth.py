from __future__ import annotations

from kit.growth import growing


def looks_once(text: str) -> int:
    return sum(1 for _ in text)


def looks_twice(text: str) -> str:
    """Goes through all that is left for every thousand letters."""
    while text:
        text = text[1000:].replace("c", "d")
    return text


def test_one_look_is_in_order_and_two_are_not() -> None:
    def shapes(length: int) -> dict[str, str]:
        return {"one letter": "a" * length, "two letters": "ab" * (length // 2)}

    assert growing(looks_once, shapes) == {}
    assert set(growing(looks_twice, shapes)) == {"one letter", "two letters"}
