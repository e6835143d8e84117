"""`python bench/span.py`: what a span costs inside the receiver, in seconds rather than minutes.

Gives the trace receiver prepared bodies and keeps nothing, in one process: no sockets, no journal,
no compression. No body is given twice, so that only queries that tracers repeat are remembered.
Best of several rounds, because others on the machine only ever add. MINI_AGENT_PLAIN=1 measures
the plain twin.
"""

from __future__ import annotations

import argparse
import platform
import sys

from payloads import Traffic
from receiving import measure

from mini_agent import twins

TRACES, SPANS_EACH = 100, 10
BODIES = 4
ROUNDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    count = parser.parse_args().rounds
    traffic = Traffic()
    rounds = [traffic.bodies(BODIES, TRACES, SPANS_EACH) for _ in range(count)]
    spans = BODIES * TRACES * SPANS_EACH
    size = sum(map(len, rounds[0])) / spans
    print(
        f"{twins.running()}, Python {platform.python_version()}, {size:.0f} bytes a span; "
        f"µs for a span, best of {count}"
    )
    whole, uncounted, stages = measure(rounds, spans)
    print(f"{'the receiver':<30} {whole:>8.3f}")
    print(f"{'  without stats':<30} {uncounted:>8.3f}")
    print(f"{'by stage, with stopwatches':<30} {sum(stages.values()):>8.3f}")
    for stage, us in stages.items():
        print(f"{'  ' + stage:<30} {us:>8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
