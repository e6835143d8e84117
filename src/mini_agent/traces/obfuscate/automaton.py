"""Runs operators' patterns in a time that grows with the text and never with the ways to match it.

Every way to match is followed at once, one character after the other; two ways that have come to
the same instruction are one from there on, the preferred one. So there are never more than the
pattern has instructions.

Most texts do not match, so a search begins with what a match must have (prefilter.py), and then
with the question whether there is a match at all. For it, ways need no places and no order: what
is left of them is a set, each set met is remembered with where every character leads, and a
character of a text costs one look into a dict.

Only where there is a match the ways are walked with places and order, which says where it is. The
same characters can be walked once for every match of a text; STEPS_MAX bounds that.

Semantics: those of Rust's `regex`, which the reference has: of the matches that begin first, the
one that alternatives and quantifiers prefer.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.pattern import (
    FOUND,
    LINE_END,
    LINE_START,
    LOOK,
    ONE,
    SAVE,
    SPLIT,
    TEXT_END,
    TEXT_START,
    WORD_EDGE,
    Program,
)
from mini_agent.traces.obfuscate.prefilter import find_beginnings, find_needed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mini_agent.traces.obfuscate.pattern import Instruction

    # Where groups begin and end, -1 where they do not; those of the whole match come first.
    Slots = tuple[int, ...]

# Sets and the characters behind them that are remembered; some 200 bytes each, for every few
# instructions in a set.
REMEMBERED_MAX = 10_000
_INSTRUCTIONS_EACH = 4

# Instructions looked at for one text: an eighth of a second here. A match takes some for each of
# its characters: replacing every digit of the longest text takes 100,000.
STEPS_MAX = 300_000
# Noting a place copies those noted before; so many take as long as a step.
_SLOTS_EACH = 16


class _Spent(Exception):
    """The steps for a text are."""


class _Ways:
    """The ways that are open between two characters.

    Attributes:
        next: Where a character leads; None for a match. "" stands for the end of the text.
    """

    __slots__ = ("before", "next", "reached")

    def __init__(self, reached: frozenset[int], before: str) -> None:
        self.reached = reached
        self.before = before
        self.next: dict[str, _Ways | None] = {}


class Automaton:
    """One pattern, ready to be looked for; it belongs to one thread.

    Attributes:
        group_count: The whole match counted as one.
        groups: Numbers of the groups that have names.

    Raises:
        ValueError: It is no pattern, or not one that can be run here; says why.
    """

    __slots__ = (
        "_begins",
        "_instructions",
        "_needed",
        "_no_slots",
        "_remembered",
        "_start",
        "_steps",
        "_ways",
        "group_count",
        "groups",
    )

    def __init__(self, pattern: str) -> None:
        program = Program(pattern)
        self.groups = program.groups
        self.group_count = program.slots // 2
        self._instructions = program.instructions
        self._start = program.start
        self._no_slots = (-1,) * program.slots
        self._ways: dict[tuple[frozenset[int], str], _Ways] = {}
        self._remembered = 0
        self._steps = 0
        self._needed = find_needed(program)
        self._begins = find_beginnings(program)

    def matches(self, text: str) -> bool:
        """Whether the pattern is anywhere in a text; not, when that takes too much work."""
        self._steps = STEPS_MAX
        try:
            return self._needed in text and self._find_begin(text, 0) >= 0
        except _Spent:
            return False

    def find_all(self, text: str) -> list[Slots] | None:
        """Every match from left to right, none in another; None for too much work."""
        self._steps = STEPS_MAX
        found: list[Slots] = []
        if self._needed not in text:
            return found
        position = 0
        last_end = -1
        try:
            while position <= len(text):
                begin = self._find_begin(text, position)
                if begin < 0:
                    break
                slots = self._walk(text, begin)
                if slots[0] == slots[1] == last_end:
                    # An empty match right behind another is none.
                    position += 1
                    continue
                position = last_end = slots[1]
                found.append(slots)
        except _Spent:
            return None
        return found

    # Whether there is a match

    def _find_begin(self, text: str, start: int) -> int:
        """A place that the first match from a place on does not begin before; -1 for no match."""
        begins = self._begins
        begin = position = start
        ways = self._ways_of(frozenset(), _kind(text[start - 1]) if start else "")
        while position < len(text):
            if begins is not None and not ways.reached:
                found = begins.search(text, position)
                if found is None:
                    return -1
                if found.start() > position:
                    position = found.start()
                    ways = self._ways_of(frozenset(), _kind(text[position - 1]))
                begin = position
            character = text[position]
            following = ways.next.get(character, ways)
            if following is ways and character not in ways.next:
                following = self._follow(ways, character)
            if following is None:
                return begin
            position += 1
            ways = following
            if not ways.reached:
                begin = position
        if "" not in ways.next:
            self._follow(ways, "")
        return begin if ways.next[""] is None else -1

    def _ways_of(self, reached: frozenset[int], before: str) -> _Ways:
        key = (reached, before)
        ways = self._ways.get(key)
        if ways is None:
            ways = self._ways[key] = _Ways(reached, before)
        return ways

    def _follow(self, ways: _Ways, character: str) -> _Ways | None:
        """Find out where a character leads, and remember it."""
        if self._remembered >= REMEMBERED_MAX:
            self._ways.clear()
            self._remembered = 0
        reached: set[int] = set()
        following: _Ways | None = None
        for operation, argument, next_ in self._open(ways, character):
            if operation == FOUND:
                break
            if character and argument.fits(character):
                reached.add(next_)
        else:
            following = self._ways_of(frozenset(reached), _kind(character))
        self._remembered += 1 + len(reached) // _INSTRUCTIONS_EACH
        ways.next[character] = following
        return following

    def _open(self, ways: _Ways, character: str) -> Iterator[Instruction]:
        """The instructions that take the character or are a match, a new way's included."""
        waiting = [self._start, *ways.reached]
        seen = set(waiting)
        while waiting:
            self._spend(1)
            operation, argument, next_ = instruction = self._instructions[waiting.pop()]
            if operation in (ONE, FOUND):
                yield instruction
                continue
            if operation == LOOK and not _is_such(argument, ways.before, character):
                continue
            for each in (argument, next_) if operation == SPLIT else (next_,):
                if each not in seen:
                    seen.add(each)
                    waiting.append(each)

    # Where it is

    def _walk(self, text: str, begin: int) -> Slots:
        """The first match from a place on, of which there is one."""
        found: Slots = ()
        ways: list[tuple[int, Slots]] = []
        for position in range(begin, len(text) + 1):
            if not found:
                ways.append((self._start, self._no_slots))
            if not ways:
                break
            before = _kind(text[position - 1]) if position else ""
            after = text[position : position + 1]
            following: list[tuple[int, Slots]] = []
            seen: set[int] = set()
            arrived: set[int] = set()
            for way in ways:
                found_here = self._advance(way, position, before, after, seen, arrived, following)
                if found_here:
                    # The ways that come behind it are not preferred.
                    found = found_here
                    break
            ways = following
        assert found, "a match was promised"
        return found

    def _advance(
        self,
        way: tuple[int, Slots],
        position: int,
        before: str,
        after: str,
        seen: set[int],
        arrived: set[int],
        following: list[tuple[int, Slots]],
    ) -> Slots:
        """Take one way over the next character; the match when it ends in one here."""
        waiting = [way]
        while waiting:
            index, slots = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            self._spend(1)
            operation, argument, next_ = self._instructions[index]
            if operation == ONE:
                if after and next_ not in arrived and argument.fits(after):
                    arrived.add(next_)
                    following.append((next_, slots))
            elif operation == SPLIT:
                waiting += (next_, slots), (argument, slots)
            elif operation == SAVE:
                self._spend(len(slots) // _SLOTS_EACH)
                waiting.append((next_, (*slots[:argument], position, *slots[argument + 1 :])))
            elif operation == LOOK:
                if _is_such(argument, before, after):
                    waiting.append((next_, slots))
            else:
                return slots
        return ()

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _Spent


def _kind(character: str) -> str:
    """What is to be known of the character before a place: its line break, or whether of a word."""
    if not character or character == "\n":
        return character
    return "w" if _is_word(character) else " "


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_such(what: object, before: str, after: str) -> bool:
    """Whether a place between two characters is such; the one before is one of a kind."""
    if what == TEXT_START:
        return not before
    if what == TEXT_END:
        return not after
    if what == LINE_START:
        return before in ("", "\n")
    if what == LINE_END:
        return after in ("", "\n")
    is_edge = (before == "w") != (after != "" and _is_word(after))
    return is_edge == (what == WORD_EDGE)
