from __future__ import annotations

import pytest
from kit import tables

from mini_agent.traces.obfuscate.memcached import obfuscate_memcached


@pytest.mark.parametrize("case", tables.load("obfuscate/memcached"), ids=lambda c: c["input"][:30])
def test_the_line_of_the_command_stays(case):
    assert obfuscate_memcached(case["input"]) == case["expected"]
