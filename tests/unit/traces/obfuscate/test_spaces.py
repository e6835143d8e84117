from __future__ import annotations

import sys

from mini_agent.traces.obfuscate.spaces import ASCII_WHITESPACE, WHITESPACE


def test_white_space_is_what_unicode_says():
    # Python counts four separators more, which Unicode does not give the property.
    separators = set("\x1c\x1d\x1e\x1f")
    python = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert set(WHITESPACE) == python - separators
    assert set(ASCII_WHITESPACE) == {each for each in WHITESPACE if each.isascii()}
