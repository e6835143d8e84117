"""Waiting for a condition that tells nobody when it holds."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kit.loopback import WAIT_S_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_EVERY_S = 0.005


def until(condition: Callable[[], object], timeout_s: float = WAIT_S_MAX) -> None:
    """Look again and again until it holds.

    Raises:
        TimeoutError: It did not.
    """
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s:g} s")
        pause.wait(LOOK_EVERY_S)
