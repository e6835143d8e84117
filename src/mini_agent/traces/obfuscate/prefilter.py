"""What a text must have for a pattern to match, found out from the pattern's program.

Most texts do not have it, and looking for it costs a tenth of running the program. Both searches
here are quick on any text: for one character, and for a few characters in a row.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.pattern import FOUND, ONE, SPLIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from mini_agent.traces.obfuscate.pattern import Instruction, Program

# Characters of a beginning that are looked for in a row, and how many such beginnings there may be.
LENGTH_MAX = 3
BEGINNINGS_MAX = 16

# Different characters of a pattern that are tried for being needed.
TRIED_MAX = 8


def find_needed(program: Program) -> str:
    """A character that every match has; empty for none."""
    literals: set[str] = {
        argument.literal
        for operation, argument, _ in program.instructions
        if operation == ONE and argument.literal
    }
    # Letters and digits are in most texts.
    for literal in sorted(literals, key=lambda literal: (literal.isalnum(), literal))[:TRIED_MAX]:
        if not _ends_without(program, literal):
            return literal
    return ""


def find_beginnings(program: Program) -> re.Pattern[str] | None:
    """Finds where a match could begin; None where it can be empty, or begins in too many ways."""
    import re

    chosen: set[str] = set()
    # Those that nothing has to follow, and the others with where they lead.
    whole: set[str] = set()
    parts = {"": {program.start}}
    for _ in range(LENGTH_MAX):
        longer: dict[str, set[int]] = {}
        for text, places in parts.items():
            for operation, argument, next_ in _reached(program, places):
                if operation == FOUND:
                    whole.add(text)
                else:
                    longer.setdefault(text + argument.text, set()).add(next_)
        if "" in whole:
            return None
        if len(whole) + len(longer) > BEGINNINGS_MAX:
            break
        parts = longer
        chosen = whole | set(longer)
    return re.compile("|".join(sorted(chosen))) if chosen else None


def _ends_without(program: Program, literal: str) -> bool:
    """Whether a match is possible without a character."""
    waiting = [program.start]
    seen = set(waiting)
    while waiting:
        operation, argument, next_ = program.instructions[waiting.pop()]
        if operation == FOUND:
            return True
        if operation == ONE and argument.literal == literal:
            continue
        for each in (argument, next_) if operation == SPLIT else (next_,):
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return False


def _reached(program: Program, places: set[int]) -> Iterator[Instruction]:
    """The instructions that take a character or are a match, from some places on."""
    waiting = list(places)
    seen = set(places)
    while waiting:
        operation, argument, next_ = instruction = program.instructions[waiting.pop()]
        if operation in (ONE, FOUND):
            yield instruction
            continue
        for each in (argument, next_) if operation == SPLIT else (next_,):
            if each not in seen:
                seen.add(each)
                waiting.append(each)
