from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables
from kit.growth import growing

from mini_agent.traces.obfuscate.redis import (
    obfuscate_redis,
    quantize_redis,
    remove_redis_arguments,
)
from mini_agent.traces.obfuscate.spaces import WHITESPACE

COMMANDS = tables.load("obfuscate/redis")
TEXTS = st.text('SETsetk v1"\\\n\r\t .\x00\u00e9\u2003', max_size=60)
NAMES = "SET SETEX hset MSET LINSERT GEOADD ZADD NX BITFIELD CONFIG AUTH LPUSH"
WORDS = st.sampled_from([*NAMES.split(" "), "k", "v", "1", "\x1c", "\u00e9"])
# A command of words that need no rule for quotes, or several.
COMMANDS_WITHOUT_QUOTES = st.lists(
    st.tuples(WORDS, st.sampled_from([" ", " ", " ", "  ", "\n", " \n\n"])), max_size=12
).map(lambda words: "".join(map("".join, words)).strip(WHITESPACE))


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case["input"][:40])
def test_a_raw_command_loses_its_values(case):
    assert obfuscate_redis(case["input"]) == case["values"]


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case["input"][:40])
def test_a_raw_command_loses_its_arguments(case):
    assert remove_redis_arguments(case["input"]) == case["arguments"]


@pytest.mark.parametrize(
    "case", tables.load("obfuscate/redis_resources"), ids=lambda case: case["input"][:40]
)
def test_a_resource_names_its_first_commands(case):
    assert quantize_redis(case["input"]) == case["expected"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("EVAL script 1 key secret", "EVAL ?"),
        ("FCALL f 1 key secret", "FCALL ?"),
        ("MSETEX 1 key secret EX 10", "MSETEX ?"),
        ("ECHO secret", "ECHO ?"),
        ("XADD stream * field secret", "XADD stream ?"),
        ("HSETEX key FIELDS 1 field secret", "HSETEX key ?"),
        ("PUBLISH channel secret", "PUBLISH channel ?"),
        ("PFADD key secret", "PFADD key ?"),
    ],
)
def test_commands_the_reference_does_not_know_lose_their_values_too(command, expected):
    assert obfuscate_redis(command) == expected


@given(TEXTS)
def test_any_text_is_taken(text):
    obfuscate_redis(text)
    remove_redis_arguments(text)
    quantize_redis(text)


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=2, max_size=5))
def test_no_value_of_a_hash_survives(fields):
    pairs = " ".join(f"{field} s3cr3t" for field in fields)
    assert "s3cr3t" not in obfuscate_redis(f"HSET key {pairs}")
    assert "s3cr3t" not in remove_redis_arguments(f"HSET key {pairs}")


def test_a_printable_text_has_no_space_but_the_blank():
    # The short ways rest on it.
    characters = map(chr, range(sys.maxunicode + 1))
    assert [each for each in characters if each.isspace() and each.isprintable()] == [" "]
    assert not any(each.isprintable() for each in WHITESPACE if each != " ")


@given(COMMANDS_WITHOUT_QUOTES)
def test_the_short_way_leads_where_the_long_one_does(commands):
    # A backslash is not for the short way.
    expected = f"GET \\\n{obfuscate_redis(commands)}" if commands else "GET \\"
    assert obfuscate_redis(f"GET \\\n{commands}") == expected


@given(st.text('a"\\ \n', max_size=20))
def test_arguments_end_where_reading_them_character_by_character_ends(text):
    line = f"GET {text.strip(WHITESPACE)}".strip(WHITESPACE)
    arguments = []
    rest = line[4:]
    while rest:
        end = end_of_argument(rest)
        arguments.append(rest[:end])
        gap = rest[end:]
        rest = gap.lstrip(" \n")
        if "\n" in gap[: len(gap) - len(rest)]:
            # The names of commands know no quotes.
            break
    first = " ".join(["GET", *arguments])
    assert obfuscate_redis(line).startswith(first)
    assert obfuscate_redis(line)[len(first) :][:1] in ("", "\n")


def end_of_argument(text):
    quoted = escaped = False
    for position, character in enumerate(text):
        if character in " \n" and not quoted:
            return position
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
    return len(text)


def hostile_shapes(length):
    """Commands on which the same might be looked at again and again."""
    return {
        "words": "SET " + "a " * (length // 2),
        "one word": "SET " + "a" * length,
        "lines": "a\n" * (length // 2),
        "lines and a quote": "a\n" * (length // 2) + '"',
        "blanks": "SET" + " " * length + '"',
        "line ends": "SET" + "\n" * length + '"',
        "tabs": "SET a" + " \t" * (length // 2) + "a",
        "quotes": "SET " + '"' * length,
        "quoted": "SET " + '"a" ' * (length // 4),
        "quoted without an end": 'SET "' + "a\n" * (length // 2),
        "backslashes": "SET " + "\\" * length,
        "escaped blanks": "SET " + "\\ " * (length // 2),
        "options": "ZADD k " + "NX " * (length // 3),
        "fields": "BITFIELD k " + "SET " * (length // 4),
        "values": "MSET " + "k v " * (length // 4),
    }


@pytest.mark.slow
@pytest.mark.parametrize("change", [obfuscate_redis, remove_redis_arguments, quantize_redis])
def test_time_grows_with_the_length_whatever_the_command_holds(change):
    assert growing(change, hostile_shapes) == {}
