"""A telemetry agent that runs beside an application and loses nothing it acknowledged.

    import mini_agent

    mini_agent.start()

starts it from within; docstring and rules are in launcher.py. Importing this package costs next
to nothing, because the command line does it too, before it opens its ports.
"""

from __future__ import annotations

import os

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.launcher import Status

if os.environ.get("MINI_AGENT_PLAIN"):
    from mini_agent import twins

    twins.use_plain()

# The agent's own grace for last deliveries, and a second to end.
STOP_S_MAX = 6.0


def start() -> None:
    """Start the agent beside this process; returns within milliseconds and never raises."""
    from mini_agent import launcher

    launcher.start()


def stop(timeout_s: float = STOP_S_MAX) -> bool:
    """Have the agent deliver what it holds and end.

    Not needed at exit: the agent ends with the process that started it.

    Args:
        timeout_s: Longest wait; the agent goes on ending by itself after that.

    Returns:
        Whether it has ended. True also where there is none of this process.
    """
    from mini_agent import launcher

    return launcher.stop(timeout_s)


def status() -> Status:
    """What is known about the agent of this process: `running`, `port`, `reason` and more."""
    from mini_agent import launcher

    return launcher.status()
