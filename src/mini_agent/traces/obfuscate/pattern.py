"""Patterns of Rust's `regex`, written as Python's `re` reads them.

Source: the syntax pages of both; reference-agent 5.10.
"""

from __future__ import annotations

# Classes with names of their own, inside of brackets.
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}

_DIGITS = "0123456789"


class Translation:
    """A pattern in Python's writing.

    Attributes:
        text: The pattern.
        repeats_repetition: A group that repeats without limit holds something that does too:
            on some texts Python then tries ways without end.

    Raises:
        ValueError: Python has no way to say it.
    """

    __slots__ = ("_open", "_pattern", "_position", "repeats_repetition", "text")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self.repeats_repetition = False
        # For each open group whether something in it repeats without limit; the first stands
        # for the pattern itself.
        self._open = [False]
        pieces = []
        # Without this flag, Python's dollar also matches before a last line break.
        is_multiline = _sets_multiline(pattern)
        while self._position < len(pattern):
            character = pattern[self._position]
            if character == "\\":
                pieces.append(self._take_escape())
            elif character == "[":
                pieces.append(self._take_class())
            elif character == "$" and not is_multiline:
                pieces.append(r"\Z")
                self._position += 1
            else:
                pieces.append(self._take_other(character))
        self.text = "".join(pieces)

    def _take_escape(self) -> str:
        escape = self._pattern[self._position : self._position + 2]
        self._position += 2
        if escape in (r"\p", r"\P"):
            raise ValueError("it asks for a Unicode class")
        return r"\Z" if escape == r"\z" else escape

    def _take_class(self) -> str:
        pattern = self._pattern
        start = self._position
        self._position += 1
        self._position += pattern.startswith("^", self._position)
        # The first bracket is one of the characters.
        self._position += pattern.startswith("]", self._position)
        pieces = [pattern[start : self._position]]
        while not pattern.startswith("]", self._position):
            if self._position >= len(pattern):
                raise ValueError("a bracket is not closed")
            if pattern.startswith(("&&", "--", "~~"), self._position):
                raise ValueError("it computes with classes")
            character = pattern[self._position]
            if character == "\\":
                pieces.append(self._take_escape())
            elif character == "[":
                pieces.append(self._take_named_class())
            else:
                pieces.append(character)
                self._position += 1
        self._position += 1
        return "".join(pieces) + "]"

    def _take_named_class(self) -> str:
        end = self._pattern.find(":]", self._position)
        name = self._pattern[self._position + 2 : end]
        if end < 0 or self._pattern[self._position + 1] != ":" or name not in _CLASSES:
            raise ValueError("a class stands in a class")
        self._position = end + 2
        return _CLASSES[name]

    def _take_other(self, character: str) -> str:
        pattern = self._pattern
        start = self._position
        self._position += 1
        if character == "(":
            self._open.append(False)
            if pattern.startswith("(?<", start) and not pattern.startswith(("(?<=", "(?<!"), start):
                self._position = start + 3
                return "(?P<"
        elif character == ")" and len(self._open) > 1:
            repeats = self._open.pop()
            if repeats:
                self._open[-1] = True
                self.repeats_repetition |= self._is_unlimited(self._position)
        elif self._is_unlimited(start):
            self._open[-1] = True
        return character

    def _is_unlimited(self, position: int) -> bool:
        """Whether a quantifier without upper limit stands there."""
        pattern = self._pattern
        if pattern.startswith(("*", "+"), position):
            return True
        if not pattern.startswith("{", position):
            return False
        end = position + 1
        while end < len(pattern) and pattern[end] in _DIGITS:
            end += 1
        return pattern.startswith(",}", end)


def _sets_multiline(pattern: str) -> bool:
    """Whether flags with `m` are switched on anywhere."""
    start = pattern.find("(?")
    while start >= 0:
        end = start + 2
        while end < len(pattern) and pattern[end].isalpha():
            end += 1
        if "m" in pattern[start + 2 : end] and pattern[end : end + 1] in (")", ":", "-"):
            return True
        start = pattern.find("(?", end)
    return False
