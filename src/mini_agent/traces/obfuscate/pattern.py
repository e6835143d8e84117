"""Patterns that operators write, in the syntax of Rust's `regex`, read into small programs.

An operator's pattern meets whatever text an application sends, so it is run by an engine of our
own, automaton.py, whose time grows with the text and never with the ways to match it. Python's
`re` is asked about single characters alone, which is what it is quick and safe at.

A program is a list of instructions, each of which names those that may follow:

    (ONE, character, next)    takes a character that fits
    (SPLIT, first, second)    goes both ways and prefers the first
    (SAVE, slot, next)        notes where a group begins or ends
    (LOOK, what, next)        goes on where the place is such
    (FOUND, 0, 0)             the pattern is matched

Source: the syntax page of Rust's `regex`; reference-agent 5.10.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import Any

    Instruction = tuple[int, Any, int]

ONE, SPLIT, SAVE, LOOK, FOUND = range(5)

# What is looked at between characters.
TEXT_START, TEXT_END, LINE_START, LINE_END, WORD_EDGE, NO_WORD_EDGE = range(6)

# Instructions of one pattern, with counted repetitions written out; some 100 bytes each. A card
# number takes some seventy.
PROGRAM_SIZE_MAX = 5000

# Groups whose places are noted, for each way that is open.
GROUPS_MAX = 100

# Groups in groups, and quantifiers behind one part; each is a call in a call.
DEPTH_MAX = 50
QUANTIFIERS_MAX = 3

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

_LOOKS = {"A": TEXT_START, "z": TEXT_END, "b": WORD_EDGE, "B": NO_WORD_EDGE}
_SETS = frozenset("dDsSwW")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# How many digits a character by its number has.
_NUMBERED = {"x": 2, "u": 4, "U": 8}
_FLAGS = frozenset("imsUux")

_TOO_LARGE = "it is too large, with what it repeats written out"

_DIGITS = frozenset("0123456789")
_LARGEST_CHARACTER = 0x10FFFF


class Character:
    """What one character has to be.

    Attributes:
        text: The same for Python's `re`.
        literal: The one character that fits; empty where several do.
    """

    __slots__ = ("_known", "_match", "literal", "text")

    # Characters whose answer is remembered; as many as ASCII has.
    KNOWN_MAX = 128

    def __init__(self, text: str, ignores_case: bool) -> None:
        self.text = f"(?i:{text})" if ignores_case else text
        literal = _unquote(text)
        self.literal = "" if ignores_case and literal.lower() != literal.upper() else literal
        self._match = _compile(self.text).match
        self._known: dict[str, bool] = {}

    def fits(self, character: str) -> bool:
        """Whether a character is one of these."""
        fits = self._known.get(character)
        if fits is None:
            if len(self._known) >= self.KNOWN_MAX:
                self._known.clear()
            fits = self._known[character] = self._match(character) is not None
        return fits


class Part:
    """A part of a pattern, which can be written several times: that is what counting repeats.

    Attributes:
        write: Given what follows it, writes it and says where it begins.
        may_be_empty: It matches without a character.
    """

    __slots__ = ("may_be_empty", "write")

    def __init__(self, write: Callable[[int], int], may_be_empty: bool) -> None:
        self.write = write
        self.may_be_empty = may_be_empty


class Program:
    """A pattern that can be run.

    Attributes:
        instructions: See above.
        start: The first of them.
        slots: Two for each group and for the whole, which comes first.
        groups: Numbers of the groups that have names.

    Raises:
        ValueError: It is no pattern, or not one that can be run here; says why.
    """

    __slots__ = ("_characters", "_copies", "groups", "instructions", "slots", "start")

    def __init__(self, pattern: str) -> None:
        self.instructions: list[Instruction] = []
        self.groups: dict[str, int] = {}
        self._characters: dict[tuple[str, bool], Character] = {}
        self._copies = 0
        syntax = _Syntax(pattern, self)
        whole = self.save(0, syntax.read())
        self.slots = 2 * syntax.group_count
        self.start = whole.write(self._write(FOUND, 0, 0))

    def _write(self, operation: int, argument: Any, following: int) -> int:
        if len(self.instructions) >= PROGRAM_SIZE_MAX:
            raise ValueError(_TOO_LARGE)
        self.instructions.append((operation, argument, following))
        return len(self.instructions) - 1

    def _copy(self, part: Part, following: int) -> int:
        """Write a part once more; it may be one that writes nothing."""
        self._copies += 1
        if self._copies > PROGRAM_SIZE_MAX:
            raise ValueError(_TOO_LARGE)
        return part.write(following)

    def one(self, text: str, ignores_case: bool) -> Part:
        """One character."""
        known = self._characters
        key = (text, ignores_case)
        character = known.get(key) or known.setdefault(key, Character(text, ignores_case))
        return Part(lambda following: self._write(ONE, character, following), False)

    def look(self, what: int) -> Part:
        """A place between characters."""
        return Part(lambda following: self._write(LOOK, what, following), True)

    def save(self, group: int, part: Part) -> Part:
        """A part whose place is noted."""

        def write(following: int) -> int:
            end = self._write(SAVE, 2 * group + 1, following)
            return self._write(SAVE, 2 * group, part.write(end))

        return Part(write, part.may_be_empty)

    def sequence(self, parts: list[Part]) -> Part:
        """One part after the other."""

        def write(following: int) -> int:
            for part in reversed(parts):
                following = part.write(following)
            return following

        return Part(write, all(part.may_be_empty for part in parts))

    def choice(self, parts: list[Part]) -> Part:
        """The first part that leads to a match."""

        def write(following: int) -> int:
            begin = parts[-1].write(following)
            for part in reversed(parts[:-1]):
                begin = self._write(SPLIT, part.write(following), begin)
            return begin

        return Part(write, any(part.may_be_empty for part in parts))

    def repeat(self, part: Part, least: int, most: int | None, is_greedy: bool) -> Part:
        """A part several times; `most` is None where there is no limit."""

        def split(again: int, done: int) -> int:
            first, second = (again, done) if is_greedy else (done, again)
            return self._write(SPLIT, first, second)

        def write_endless(following: int) -> int:
            # Its way back is known only when it is written.
            loop = self._write(SPLIT, 0, 0)
            begin = self._copy(part, loop)
            first, second = (begin, following) if is_greedy else (following, begin)
            self.instructions[loop] = (SPLIT, first, second)
            if least:
                # A last part that has to come is the one that comes again.
                return begin
            # A part that may be empty is asked for before it is asked for again: else a way out
            # would be found behind it, and preferred to ways that go on.
            return split(begin, following) if part.may_be_empty else loop

        def write(following: int) -> int:
            if most is None:
                following = write_endless(following)
            else:
                done = following
                for _ in range(most - least):
                    following = split(self._copy(part, following), done)
            for _ in range(least - (most is None)):
                following = self._copy(part, following)
            return following

        return Part(write, least == 0 or part.may_be_empty)


class _Syntax:
    """Reads a pattern from its beginning to its end; used once."""

    __slots__ = ("_depth", "_flags", "_pattern", "_position", "_program", "group_count")

    def __init__(self, pattern: str, program: Program) -> None:
        self._pattern = pattern
        self._position = 0
        self._program = program
        self._flags = frozenset("u")
        self._depth = 0
        self.group_count = 1

    def read(self) -> Part:
        whole = self._read_choice()
        if self._position < len(self._pattern):
            raise ValueError("a parenthesis closes none")
        return whole

    def _ahead(self, text: str) -> bool:
        return self._pattern.startswith(text, self._position)

    def _take(self) -> str:
        if self._position >= len(self._pattern):
            raise ValueError("it ends too early")
        self._position += 1
        return self._pattern[self._position - 1]

    def _take_until(self, end: str) -> str:
        start = self._position
        self._position = self._pattern.find(end, start) + len(end)
        if self._position < start:
            raise ValueError(f"there is no {end!r} behind what needs one")
        return self._pattern[start : self._position - len(end)]

    def _read_choice(self) -> Part:
        """Everything up to a closing parenthesis or the end; flags hold until there."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ValueError(f"more than {DEPTH_MAX} groups stand in each other")
        flags = self._flags
        choices: list[Part] = []
        parts: list[Part] = []
        while self._position < len(self._pattern) and not self._ahead(")"):
            character = self._take()
            if character == "|":
                choices.append(self._program.sequence(parts))
                parts = []
            elif not (character.isspace() or character == "#") or "x" not in self._flags:
                part = self._read_part(character)
                parts += [] if part is None else [self._read_repetition(part)]
            elif character == "#":
                self._position = (self._pattern + "\n").index("\n", self._position)
        self._flags = flags
        self._depth -= 1
        choices.append(self._program.sequence(parts))
        return self._program.choice(choices)

    def _read_part(self, character: str) -> Part | None:
        """What begins with a character that was taken; None for flags alone."""
        program = self._program
        if character == "(":
            return self._read_group()
        if character == "[":
            return self._one(self._read_class())
        if character == "\\":
            escape = self._take()
            if escape in _LOOKS:
                return program.look(_LOOKS[escape])
            return self._one(self._read_escape(escape))
        if character == ".":
            return self._one(r"(?s:.)" if "s" in self._flags else r"[^\n]")
        if character == "^":
            return program.look(LINE_START if "m" in self._flags else TEXT_START)
        if character == "$":
            return program.look(LINE_END if "m" in self._flags else TEXT_END)
        if character in "*+?":
            raise ValueError("there is nothing to repeat")
        return self._one(_quote(character))

    def _one(self, text: str) -> Part:
        return self._program.one(text, "i" in self._flags)

    def _read_group(self) -> Part | None:
        flags = self._flags
        number = None
        if not self._ahead("?"):
            number = self._next_group("")
        elif self._ahead("?P<") or (self._ahead("?<") and not self._looks_around()):
            self._take_until("<")
            number = self._next_group(self._take_until(">"))
        elif not self._read_flags():
            return None
        part = self._read_choice()
        if not self._ahead(")"):
            raise ValueError("a parenthesis is not closed")
        self._position += 1
        self._flags = flags
        return part if number is None else self._program.save(number, part)

    def _looks_around(self) -> bool:
        return self._ahead("?<=") or self._ahead("?<!")

    def _next_group(self, name: str) -> int:
        number = self.group_count
        self.group_count += 1
        if number > GROUPS_MAX:
            raise ValueError(f"more than {GROUPS_MAX} groups are to be noted")
        if name:
            if name in self._program.groups or not name.isidentifier():
                raise ValueError("the name of a group is used twice or is none")
            self._program.groups[name] = number
        return number

    def _read_flags(self) -> bool:
        """Take flags; whether they are those of a group, and not of the rest of the one around."""
        if self._looks_around() or self._ahead("?=") or self._ahead("?!"):
            raise ValueError("it looks ahead or behind")
        self._position += 1
        flags = set(self._flags)
        change = flags.add
        while (character := self._take()) not in ":)":
            if character == "-":
                change = flags.discard
            elif character in _FLAGS:
                change(character)
            else:
                raise ValueError("a flag is unknown")
        if "u" not in flags:
            raise ValueError("it asks for bytes")
        self._flags = frozenset(flags)
        return character == ":"

    def _read_repetition(self, part: Part) -> Part:
        """A part with the quantifiers that stand behind it."""
        count = 0
        while self._position < len(self._pattern):
            character = self._pattern[self._position]
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(character)
            if bounds is not None:
                self._position += 1
            elif character == "{" and (bounds := self._read_bounds()) is None:
                break
            if bounds is None:
                break
            count += 1
            if count > QUANTIFIERS_MAX:
                raise ValueError(f"more than {QUANTIFIERS_MAX} quantifiers stand behind each other")
            is_lazy = self._ahead("?")
            self._position += is_lazy
            part = self._program.repeat(part, *bounds, is_lazy == ("U" in self._flags))
        return part

    def _read_bounds(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}` or `{2,5}`; None, and nothing taken, where a brace is but a brace."""
        end = self._pattern.find("}", self._position)
        least, comma, most = self._pattern[self._position + 1 : max(end, 0)].partition(",")
        if not least or not _DIGITS.issuperset(least + most):
            return None
        self._position = end + 1
        low = min(int(least[:9]), PROGRAM_SIZE_MAX)
        high = min(int(most[:9]), PROGRAM_SIZE_MAX) if most else None if comma else low
        if high is not None and high < low:
            raise ValueError("a repetition ends before it begins")
        return low, high

    def _read_escape(self, escape: str) -> str:
        """What a backslash and a character stand for, for Python's `re`, also in a class."""
        if escape in _SETS:
            return "\\" + escape
        if escape in "pP":
            raise ValueError("it asks for a Unicode class")
        if escape in _CONTROLS:
            return _quote(_CONTROLS[escape])
        if escape in _NUMBERED:
            return _quote(self._read_number(_NUMBERED[escape]))
        if escape.isalnum():
            raise ValueError("a backslash stands before a letter or digit without a meaning")
        return _quote(escape)

    def _read_number(self, digits: int) -> str:
        if self._ahead("{"):
            self._position += 1
            text = self._take_until("}")
        else:
            text = "".join(self._take() for _ in range(digits))
        try:
            number = int(text, 16)
        except ValueError:
            raise ValueError("a character's number is none") from None
        if not 0 <= number <= _LARGEST_CHARACTER:
            raise ValueError("there is no character with such a number")
        return chr(number)

    def _read_class(self) -> str:
        pieces = ["["]
        if self._ahead("^"):
            pieces.append(self._take())
        # The first bracket is one of the characters.
        if self._ahead("]"):
            pieces.append(_quote(self._take()))
        while not self._ahead("]"):
            if self._ahead("&&") or self._ahead("--") or self._ahead("~~"):
                raise ValueError("it computes with classes")
            character = self._take()
            if character == "\\":
                pieces.append(self._read_escape(self._take()))
            elif character == "[":
                pieces.append(self._read_named_class())
            elif character == "-":
                # Between two it says from and to; Python sees the same where it does not.
                pieces.append(character)
            else:
                pieces.append(_quote(character))
        self._position += 1
        return "".join(pieces) + "]"

    def _read_named_class(self) -> str:
        if not self._ahead(":"):
            raise ValueError("a class stands in a class")
        self._position += 1
        name = self._take_until(":]")
        if name not in _CLASSES:
            raise ValueError("a class has a name that is none")
        return _CLASSES[name]


def _quote(character: str) -> str:
    """A character as Python's `re` reads it everywhere, also in a class."""
    return character if character.isalnum() or character in " _" else f"\\U{ord(character):08x}"


def _unquote(text: str) -> str:
    """The character that was quoted; empty for a class."""
    if text.startswith("\\U"):
        return chr(int(text[2:], 16))
    return text if len(text) == 1 else ""


def _compile(text: str) -> re.Pattern[str]:
    import re
    import warnings

    try:
        with warnings.catch_warnings():
            # Python warns of what it will read differently one day.
            warnings.simplefilter("error")
            return re.compile(text)
    except (re.error, Warning, OverflowError) as problem:
        raise ValueError(f"a class cannot be read ({type(problem).__name__})") from problem
