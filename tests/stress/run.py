"""`make stress`: every scenario, a line of figures each; exit status 1 if one does not add up."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stress.scenarios import SCENARIOS, faults, play


def main(names: list[str]) -> int:
    failed = 0
    for name in names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="mini-agent-stress-") as folder:
            figures = play(name, Path(folder))
        print(f"{name:<36} {figures}", flush=True)
        for fault in faults(name, figures):
            failed += 1
            print(f"    WRONG: {fault}", flush=True)
    print(f"{len(names or SCENARIOS)} scenarios, {failed} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
