"""JSON documents of queries: the keys stay, the values go.

One scan without recursion. What is not JSON ends the result with `...`, so that nothing gets
through unread.

Source: reference-agent 5.11, with one change: a value that follows a finished document is
replaced too.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.sql import obfuscate_sql

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PLACEHOLDER = '"?"'
_BROKEN = "..."

_BLANKS = " \t\r\n"
_DIGITS = "0123456789"
_WORDS = {"t": "true", "f": "false", "n": "null"}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}

# What may come next.
_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END, _COLON, _COMMA_OR_END, _DOCUMENT = range(7)


class DocumentRules:
    """Which keys of a document are treated differently.

    Args:
        keep_keys: Keys whose values stay, with everything in them.
        sql_keys: Keys whose values are SQL and are obfuscated as such.
    """

    __slots__ = ("keep_keys", "sql_keys")

    def __init__(self, keep_keys: Iterable[str] = (), sql_keys: Iterable[str] = ()) -> None:
        self.keep_keys = frozenset(keep_keys)
        self.sql_keys = frozenset(sql_keys)


def obfuscate_document(text: str, rules: DocumentRules) -> str:
    """Replace the values of one or several JSON documents in a row."""
    return _Scan(text, rules).run()


class _Scan:
    __slots__ = (
        "_closings",
        "_expected",
        "_is_sql",
        "_keep_depth",
        "_out",
        "_position",
        "_rules",
        "_text",
    )

    def __init__(self, text: str, rules: DocumentRules) -> None:
        self._text = text
        self._rules = rules
        self._out: list[str] = []
        self._position = 0
        self._expected = _DOCUMENT
        # The brackets that have to come, the outermost first.
        self._closings: list[str] = []
        # How deep the key lies whose value is kept; 0 for none.
        self._keep_depth = 0
        self._is_sql = False

    def run(self) -> str:
        text = self._text
        while self._position < len(text):
            character = text[self._position]
            if character in _BLANKS:
                if not self._closings:
                    self._out.append(character)
                self._position += 1
            elif not self._take(character):
                self._out.append(_BROKEN)
                return "".join(self._out)
        if self._closings:
            self._out.append(_BROKEN)
        return "".join(self._out)

    def _take(self, character: str) -> bool:
        """Take the token that begins here; False when there is none."""
        expected = self._expected
        if expected == _COLON:
            return self._take_mark(character, ":", _VALUE)
        if expected == _COMMA_OR_END:
            if character == ",":
                in_object = self._closings[-1] == "}"
                return self._take_mark(character, ",", _KEY if in_object else _VALUE)
            return self._close(character)
        if expected in (_KEY, _KEY_OR_END):
            if character == '"':
                return self._take_key()
            return expected == _KEY_OR_END and self._close(character)
        if character == "{":
            return self._open("{", "}", _KEY_OR_END)
        if character == "[":
            return self._open("[", "]", _VALUE_OR_END)
        if character == "]" and expected == _VALUE_OR_END:
            return self._close(character)
        return self._take_scalar(character)

    def _take_mark(self, character: str, mark: str, expected: int) -> bool:
        if character != mark:
            return False
        self._out.append(mark)
        self._position += 1
        self._expected = expected
        return True

    def _open(self, opening: str, closing: str, expected: int) -> bool:
        self._out.append(opening)
        self._closings.append(closing)
        self._position += 1
        self._expected = expected
        self._is_sql = False
        return True

    def _close(self, character: str) -> bool:
        if not self._closings or character != self._closings[-1]:
            return False
        self._out.append(self._closings.pop())
        self._position += 1
        self._finish_value()
        return True

    def _finish_value(self) -> None:
        self._expected = _COMMA_OR_END if self._closings else _DOCUMENT
        self._is_sql = False
        if len(self._closings) <= self._keep_depth:
            self._keep_depth = 0

    def _take_key(self) -> bool:
        start = self._position
        end = _end_of_string(self._text, start)
        if end < 0:
            self._out.append(self._text[start : _end_of_clean_text(self._text, start)])
            return False
        self._position = end
        self._out.append(self._text[start:end])
        self._expected = _COLON
        key = self._text[start + 1 : end - 1]
        if not self._keep_depth and key in self._rules.keep_keys:
            self._keep_depth = len(self._closings)
        elif key in self._rules.sql_keys:
            self._is_sql = True
        return True

    def _take_scalar(self, character: str) -> bool:
        start = self._position
        end = _end_of_scalar(self._text, start, character)
        if end < 0:
            if not self._keep_depth and (character in '"-tfn' or character in _DIGITS):
                self._out.append(_PLACEHOLDER)
            return False
        self._position = end
        if self._keep_depth:
            self._out.append(self._text[start:end])
        elif self._is_sql:
            query = obfuscate_sql(_unquote(self._text[start:end]))
            self._out.append('"' + query.replace("\\", "\\\\").replace('"', '\\"') + '"')
        else:
            self._out.append(_PLACEHOLDER)
        self._finish_value()
        return True


def _end_of_scalar(text: str, start: int, character: str) -> int:
    if character == '"':
        return _end_of_string(text, start)
    if character == "-" or character in _DIGITS:
        return _end_of_number(text, start)
    word = _WORDS.get(character)
    if word is None or not text.startswith(word, start):
        return -1
    return start + len(word)


def _end_of_string(text: str, start: int) -> int:
    """The position behind the closing quote; -1 when the string is broken."""
    position = start + 1
    while position < len(text):
        character = text[position]
        if character == '"':
            return position + 1
        if character == "\\":
            escape = text[position + 1 : position + 2]
            if escape == "u":
                digits = text[position + 2 : position + 6]
                if len(digits) < 4 or not _HEX_DIGITS.issuperset(digits):
                    return -1
                position += 4
            elif escape not in _ESCAPES:
                return -1
            position += 1
        elif character < " ":
            return -1
        position += 1
    return -1


def _end_of_clean_text(text: str, start: int) -> int:
    """The position of the first control character, or the end."""
    position = start
    while position < len(text) and text[position] >= " ":
        position += 1
    return position


def _end_of_number(text: str, start: int) -> int:
    position = start + (text[start] == "-")
    if text[position : position + 1] == "0":
        position += 1
    else:
        position = _behind_digits(text, position)
    if position > 0 and text[position : position + 1] == ".":
        position = _behind_digits(text, position + 1)
    if position > 0 and text[position : position + 1] in ("e", "E"):
        signed = text[position + 1 : position + 2] in ("+", "-")
        position = _behind_digits(text, position + 1 + signed)
    return position


def _behind_digits(text: str, start: int) -> int:
    """The position behind one digit or more; -1 when there is none."""
    position = start
    while position < len(text) and text[position] in _DIGITS:
        position += 1
    return position if position > start else -1


def _unquote(literal: str) -> str:
    """The text of a string that is known to be well formed; other scalars as they are."""
    if literal[0] != '"':
        return literal
    pieces = []
    position = 1
    end = len(literal) - 1
    while position < end:
        backslash = literal.find("\\", position, end)
        if backslash < 0:
            break
        pieces.append(literal[position:backslash])
        escape = literal[backslash + 1]
        if escape == "u":
            pieces.append(chr(int(literal[backslash + 2 : backslash + 6], 16)))
            position = backslash + 6
        else:
            pieces.append(_ESCAPES[escape])
            position = backslash + 2
    pieces.append(literal[position:end])
    # Joins the halves of what was written as two escapes; half a character alone is no text.
    return "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
