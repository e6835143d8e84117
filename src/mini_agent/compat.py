"""The agent under another launcher: what DD_SERVERLESS_COMPAT_PATH points at.

The launchers for .NET, Node.js, Java and Python copy that one file into a folder for temporary
files, make it executable and run it without arguments. So it is the script `mini-agent-compat`
that pip writes: it names its interpreter with the whole path, and on Windows it is an .exe.

    export DD_SERVERLESS_COMPAT_PATH="$(command -v mini-agent-compat)"

The settings are the environment's, as for `mini-agent run`, with one difference: these launchers
never stop what they started, so it ends with its parent unless told otherwise.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the agent; the exit status."""
    os.environ.setdefault("MINI_AGENT_EXIT_WITH_PARENT", "true")
    # Under `ddtrace-run` every Python below it loads the tracer, and an agent must not trace what
    # it delivers. Windows has no exec that keeps the process, and so keeps the tracer.
    if "ddtrace" in sys.modules and sys.platform != "win32":
        from mini_agent.spawn import command

        words = command()
        os.execv(words[0], words)
    from mini_agent.cli import main as run

    return run(["run"])
