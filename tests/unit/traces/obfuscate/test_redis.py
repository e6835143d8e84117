from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables

from mini_agent.traces.obfuscate.redis import (
    obfuscate_redis,
    quantize_redis,
    remove_redis_arguments,
)

COMMANDS = tables.load("obfuscate/redis")
TEXTS = st.text('SETsetk v1"\\\n\r\t .\x00\u00e9\u2003', max_size=60)


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
