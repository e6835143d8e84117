# cython: infer_types=True, boundscheck=True, wraparound=True
"""The buffer and the reading that the rules of SQL are written with.

What is written goes to a buffer of tokens, whose last characters decide where a blank goes. A
blank at the end is a token by itself, so that taking it back touches nothing else. Nothing here
looks back in the input or searches it twice for the same thing: time grows with the length of
the input, whatever it holds.

The compiled twin has its types from scan.pxd. There a character is a number, and asking whether
it is one of those written out takes next to no time. It checks ranges as plain Python does, which
costs it a fiftieth.

Source: reference-agent 5.3.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.spaces import WHITESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

# Whether this is the compiled twin; runs of names are found otherwise there.
_COMPILED = __file__.endswith((".so", ".pyd"))

# The names that do not come out as they stand, in whatever case.
SPECIAL_NAMES = frozenset({"as", "false", "null", "savepoint", "true"})

# An expression remembers each turn of a loop.
_RUN_NAMES_MAX = 100
_ordinary_names: Pattern[str] | None = None

# Shorter runs of blanks are looked at again each time.
_LONG_RUN = 8

# Stands behind the input, so that a look ahead needs no check; belongs to no class.
_END = "\0\0\0"


# The classes of characters. Every one above U+007F belongs to names.


def is_blank(character: str) -> bool:
    """Whether it divides words."""
    if character > "\x7f":
        return character in WHITESPACE
    return character in " \t\n\r\v\f"


def is_digit(character: str) -> bool:
    """Whether it is an ASCII digit."""
    return character in "0123456789"


def is_letter(character: str) -> bool:
    """Whether it is an ASCII letter."""
    return character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_word(character: str) -> bool:
    """Whether it is an ASCII letter or digit or `_`."""
    return character in "abcdefghijklmnopqrstuvwxyz0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_name(character: str) -> bool:
    """Whether a name may hold it."""
    if character > "\x7f":
        return True
    return character in "abcdefghijklmnopqrstuvwxyz0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ$#*@"


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
        # No token is empty, and none but " " ends in a blank.
        self.out: list[str] = []
        self.grouped = False
        self.alias_at = -1
        self.assigned = False
        self.savepoint = False
        # A long run of blanks in the buffer, from its first to behind its last.
        self.blank_from = 0
        self.blank_to = 0
        # Quotes and backslashes from which no string ends, see `_escaped_string_end`.
        self.dead_ends: set[int] | None = None
        # Where each `$tag$` stands, the last one first, see `dollar_quote_end`.
        self.dollars: dict[str, list[int]] | None = None

    # Writing

    def written(self) -> str:
        """What was written, without blanks at its end."""
        out = self.out
        while out and out[-1] == " ":
            out.pop()
        return "".join(out)

    def space(self) -> None:
        """Divide what comes from what was written, unless a dot joins them."""
        out = self.out
        if not out:
            return
        last = out[-1]
        if last == " ":
            if self.grouped and self._last_solid() not in "?(":
                self.grouped = False
            return
        end = last[-1]
        if end == "." and self._is_qualifier():
            return
        if end != "?":
            self.grouped = False
        out.append(" ")

    def emit(self, token: str) -> None:
        """Write a token, which does not end in a blank."""
        self.space()
        self.out.append(token)
        self.grouped = False
        self.assigned = False

    def emit_quoted(self, name: str) -> None:
        """Write what stood in quotes: it may end in blanks, or be empty."""
        if name and name[-1] != " ":
            self.emit(name)
            return
        self.space()
        solid = name.rstrip(" ")
        if solid:
            self.out.append(solid)
        self.out.extend(" " * (len(name) - len(solid)))
        self.grouped = False
        self.assigned = False

    def emit_before_blank(self, token: str) -> None:
        """Write a token and a blank."""
        self.emit(token)
        self.out.append(" ")

    def operator(self, token: str) -> None:
        """Write an operator and a blank; `=` before it still counts."""
        self.space()
        self.out.append(token)
        self.out.append(" ")
        self.grouped = False

    def placeholder(self) -> None:
        """Write `?`, unless one stands there already."""
        if not self.grouped:
            self.space()
            self.out.append("?")
            self.grouped = True
            self.assigned = False

    def cut(self, length: int) -> None:
        """Shorten the buffer to so many tokens."""
        out = self.out
        while len(out) > length:
            out.pop()
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
        if self.alias_at < 0:
            self.placeholder()
        else:
            self.drop_alias()

    def last(self) -> str:
        """The last character that was written; NUL, which is of no class, when none was."""
        return self.out[-1][-1] if self.out else "\0"

    def _is_qualifier(self) -> bool:
        """Whether the dot that was written last divides the parts of a name."""
        token = self.out[-1]
        if len(token) > 1:
            before = token[-2]
        elif len(self.out) > 1:
            before = self.out[-2][-1]
        else:
            return False
        return is_word(before) or before in '"]#?' or before > "\x7f"

    def _last_solid(self) -> str:
        """The last character of the buffer that is no blank, or NUL.

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
        return out[index][-1] if index >= 0 else "\0"

    # Reading

    def skip_blanks(self) -> None:
        """Pass over blanks."""
        text = self.text
        position = self.position
        while True:
            character = text[position]
            # Mostly what follows is told apart by these comparisons.
            if character != " " and (" " < character <= "\x7f" or not is_blank(character)):
                break
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
        while is_name(text[position]):
            position += 1
        return position

    def ordinary_end(self, start: int) -> int:
        """The end of names that come out as they stand, with what divides them: a blank, or a
        comma and a blank. The start when there is none.

        Taken one by one they would come to the same, and most of a query is made of them.
        """
        text = self.text
        if not _COMPILED:
            # In plain Python an expression outruns a loop.
            match = (_ordinary_names or _compile_ordinary_names()).match(text, start)
            return match.end() if match else start
        end = start
        position = start
        while True:
            begin = position
            character = text[position]
            while is_word(character) or character in "$#*@.":
                position += 1
                character = text[position]
            if character > "\x7f" or _is_special(text, begin, position):
                return end
            end = position
            if character == ",":
                position += 1
                character = text[position]
            if character != " ":
                return end
            position += 1
            # Not x, which may begin a string.
            if text[position] not in "abcdefghijklmnopqrstuvwyzABCDEFGHIJKLMNOPQRSTUVWYZ_":
                return end

    def qualified_end(self, start: int) -> int:
        """The end of a name and its qualifiers; a blank of any script ends it."""
        text = self.text
        position = start
        character = text[position]
        while (
            (character > "\x7f" and character not in WHITESPACE)
            or is_word(character)
            or character in "$#*@."
        ):
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
            if character not in "0123456789":
                if character == "." and may_have_dot:
                    may_have_dot = False
                elif character in "eE" and may_have_exponent:
                    may_have_exponent = False
                    if text[position + 1] in "+-":
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
        has_doubled = False
        while end >= 0 and text[end + 1] == quote:
            has_doubled = True
            end = text.find(quote, end + 2)
        if end < 0:
            end = self.length
        self.position = min(end + 1, self.length)
        name = text[start:end]
        return name.replace(quote + quote, quote) if has_doubled else name

    def string_end(self, start: int) -> int:
        """The position behind the string that begins at a quote; -1 when it never ends.

        A backslash escapes a quote in some databases and not in others: where the string ends
        in the middle of a word without escapes, it is read with them.
        """
        text = self.text
        end = text.find("'", start + 1)
        while end >= 0 and text[end + 1] == "'":
            end = text.find("'", end + 2)
        if end >= 0 and not is_word(text[end + 1]):
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
        if self.dead_ends is None:
            self.dead_ends = set()
        dead_ends = self.dead_ends
        passed = []
        position = start + 1
        while position < self.length:
            character = text[position]
            if character in "\\'":
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


def _is_special(text: str, start: int, end: int) -> bool:
    # Nearly every name is told apart by its first and last letter and its length.
    if text[start] not in "aAnNtTfFsS" or text[end - 1] not in "sSlLeEtT":
        return False
    return end - start in (2, 4, 5, 9) and text[start:end].lower() in SPECIAL_NAMES


def _compile_ordinary_names() -> Pattern[str]:
    global _ordinary_names
    # Only here: the compiled twin does without.
    import re

    special = "|".join(sorted(SPECIAL_NAMES))
    first, others = "[A-WYZa-wyz_]", r"[\w.$#*@]"
    name = rf"(?!(?i:{special})(?!{others})){first}{others}*+(?![^\x00-\x7f])"
    run = rf"(?:{name}(?:,? {name}){{0,{_RUN_NAMES_MAX}}})?"
    _ordinary_names = re.compile(run, re.ASCII)
    return _ordinary_names


def _find_tags(text: str) -> dict[str, list[int]]:
    tags: dict[str, list[int]] = {}
    end = text.rfind("$")
    start = text.rfind("$", 0, max(end, 0))
    while start >= 0:
        tags.setdefault(text[start + 1 : end], []).append(start)
        start, end = text.rfind("$", 0, start), start
    return tags
