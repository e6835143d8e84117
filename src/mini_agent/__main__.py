"""`python -m mini_agent` is the same as `mini-agent`."""

from __future__ import annotations

import sys

from mini_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
