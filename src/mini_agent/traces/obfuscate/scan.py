"""The buffer and the reading that the rules of SQL are written with.

What is written goes to a buffer of single characters, and the buffer's last ones decide where a
blank goes. Nothing here looks back in the input or searches it twice for the same thing: time
grows with the length of the input, whatever it holds.

Source: reference-agent 5.3.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.spaces import WHITESPACE

BLANKS = frozenset(WHITESPACE)
DIGITS = frozenset("0123456789")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
ALPHANUMERIC = LETTERS | DIGITS
WORD = ALPHANUMERIC | {"_"}
NAME = WORD | frozenset("$#*@")
# Every character above this one belongs to names.
ASCII_LAST = "\x7f"

# A dot behind one of these divides the parts of a name.
_BEFORE_QUALIFIER = WORD | frozenset('"]#?')

# Shorter runs of blanks are looked at again each time.
_LONG_RUN = 8

# Stands behind the input, so that a look ahead needs no check; belongs to no class.
_END = "\0\0\0"


class Scan:
    """The scan of one query: where it is, what it wrote, and what it carries along."""

    __slots__ = (
        "alias_at",
        "assigned",
        "blank_from",
        "blank_to",
        "dbms",
        "dead_ends",
        "dollars",
        "grouped",
        "length",
        "out",
        "position",
        "savepoint",
        "text",
    )

    def __init__(self, query: str, dbms: str) -> None:
        self.text = query + _END
        self.length = len(query)
        self.dbms = dbms
        self.position = 0
        self.out: list[str] = []
        self.grouped = False
        self.alias_at = -1
        self.assigned = False
        self.savepoint = False
        # A long run of blanks in the buffer, from its first to behind its last.
        self.blank_from = 0
        self.blank_to = 0
        # Quotes and backslashes from which no string ends, see `_escaped_string_end`.
        self.dead_ends: set[int] = set()
        # Where each `$tag$` stands, the last one first, see `_dollar_quote_end`.
        self.dollars: dict[str, list[int]] | None = None

    # Writing

    def written(self) -> str:
        """What was written, without blanks at its end."""
        return "".join(self.out).rstrip(" ")

    def space(self) -> None:
        """Divide what comes from what was written, unless a dot joins them."""
        out = self.out
        if not out:
            return
        last = out[-1]
        if last == " ":
            if self.grouped and self._last_solid() not in ("?", "("):
                self.grouped = False
            return
        if last == "." and len(out) > 1:
            before = out[-2]
            if before in _BEFORE_QUALIFIER or before > ASCII_LAST:
                return
        if last != "?":
            self.grouped = False
        out.append(" ")

    def emit(self, token: str) -> None:
        """Write a token."""
        self.space()
        self.out.extend(token)
        self.grouped = False
        self.assigned = False

    def emit_before_blank(self, token: str) -> None:
        """Write a token and a blank."""
        self.emit(token)
        self.out.append(" ")

    def operator(self, token: str) -> None:
        """Write an operator and a blank; `=` before it still counts."""
        self.space()
        self.out.extend(token)
        self.grouped = False
        self.out.append(" ")

    def placeholder(self) -> None:
        """Write `?`, unless one stands there already."""
        if not self.grouped:
            self.space()
            self.out.append("?")
            self.grouped = True
            self.assigned = False

    def cut(self, length: int) -> None:
        """Shorten the buffer."""
        del self.out[length:]
        if length < self.blank_to:
            self.blank_to = length

    def drop_alias(self) -> bool:
        """Take back a pending AS; says whether there was one."""
        if self.alias_at < 0:
            return False
        self.cut(self.alias_at)
        self.alias_at = -1
        return True

    def value(self) -> None:
        """Write a placeholder for what was passed over, or let it go as an alias."""
        if not self.drop_alias():
            self.placeholder()

    def _last_solid(self) -> str:
        """The last character of the buffer that is no blank.

        A quoted name may end in a million blanks. They are looked at once: a long run is
        remembered, and `cut` keeps what is known of it true.
        """
        out = self.out
        index = len(out) - 1
        while index >= 0 and out[index] == " ":
            if self.blank_from <= index < self.blank_to:
                index = self.blank_from - 1
                break
            index -= 1
        if len(out) - index > _LONG_RUN:
            self.blank_from = index + 1
            self.blank_to = len(out)
        return out[index] if index >= 0 else ""

    # Reading

    def skip_blanks(self) -> None:
        """Pass over blanks."""
        text = self.text
        position = self.position
        while text[position] in BLANKS:
            position += 1
        self.position = position

    def skip_line(self) -> None:
        """Pass over the rest of the line; its end stays."""
        end = self.text.find("\n", self.position)
        self.position = end if end >= 0 else self.length

    def skip_behind(self, mark: str, start: int) -> None:
        """Go on behind a mark, or at the end of input."""
        end = self.text.find(mark, start)
        self.position = end + len(mark) if end >= 0 else self.length

    def name_end(self, start: int) -> int:
        """The end of a name's characters."""
        text = self.text
        position = start
        character = text[position]
        while character in NAME or character > ASCII_LAST:
            position += 1
            character = text[position]
        return position

    def letters_end(self, start: int, marks: str) -> int:
        """The end of letters and digits of any script, and of marks."""
        text = self.text
        position = start
        while text[position].isalnum() or text[position] in marks:
            position += 1
        return position

    def skip_number(self, start: int, may_have_dot: bool = True) -> None:
        """Pass over digits, a dot and an exponent."""
        text = self.text
        position = start
        may_have_exponent = True
        while True:
            character = text[position]
            if character not in DIGITS:
                if character == "." and may_have_dot:
                    may_have_dot = False
                elif character in ("e", "E") and may_have_exponent:
                    may_have_exponent = False
                    if text[position + 1] in ("+", "-"):
                        position += 1
                else:
                    break
            position += 1
        self.position = position

    def read_quoted(self, quote: str) -> str:
        """Read a quoted name; a doubled quote stands for one, and the end closes it too."""
        text = self.text
        start = self.position + 1
        end = text.find(quote, start)
        while end >= 0 and text[end + 1] == quote:
            end = text.find(quote, end + 2)
        if end < 0:
            end = self.length
        self.position = min(end + 1, self.length)
        return text[start:end].replace(quote + quote, quote)

    def string_end(self, start: int) -> int:
        """The position behind the string that begins at a quote; -1 when it never ends.

        A backslash escapes a quote in some databases and not in others: where the string ends
        in the middle of a word without escapes, it is read with them.
        """
        text = self.text
        end = text.find("'", start + 1)
        while end >= 0 and text[end + 1] == "'":
            end = text.find("'", end + 2)
        if end >= 0 and text[end + 1] not in WORD:
            return end + 1
        escaped_end = self._escaped_string_end(start)
        if escaped_end >= 0:
            return escaped_end
        return end + 1 if end >= 0 else -1

    def _escaped_string_end(self, start: int) -> int:
        """The same where a backslash escapes.

        A search that fails has read up to the end of input. The places it came through are
        remembered: whoever comes there again fails as well.
        """
        text = self.text
        dead_ends = self.dead_ends
        passed = []
        position = start + 1
        while position < self.length:
            character = text[position]
            if character in ("\\", "'"):
                if position in dead_ends:
                    break
                passed.append(position)
                if character == "'" and text[position + 1] != "'":
                    return position + 1
                position += 1
            position += 1
        dead_ends.update(passed)
        return -1

    def dollar_quote_end(self, start: int) -> int:
        """The position behind `$tag$...$tag$` that begins at a dollar; -1 when it is none.

        All tags are found in one go, because each could have its partner at the end.
        """
        text = self.text
        tag_end = text.find("$", start + 1)
        if tag_end < 0 or text.find("\n", start, tag_end) >= 0:
            return -1
        if self.dollars is None:
            self.dollars = _find_tags(text)
        places = self.dollars[text[start + 1 : tag_end]]
        while places and places[-1] <= tag_end:
            places.pop()
        return places[-1] + tag_end - start + 1 if places else -1


def _find_tags(text: str) -> dict[str, list[int]]:
    tags: dict[str, list[int]] = {}
    end = text.rfind("$")
    start = text.rfind("$", 0, max(end, 0))
    while start >= 0:
        tags.setdefault(text[start + 1 : end], []).append(start)
        start, end = text.rfind("$", 0, start), start
    return tags
