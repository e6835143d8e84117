"""Memcached commands.

Source: reference-agent 5.6.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.spaces import WHITESPACE


def obfuscate_memcached(command: str) -> str:
    """Keep the command's line; the values stand on the lines behind it."""
    return command.partition("\r\n")[0].strip(WHITESPACE)
