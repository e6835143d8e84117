"""asyncio, loaded without TLS; imported before anything else that imports asyncio.

To asyncio TLS is optional: it asks for `ssl` and does without where there is none. No event loop
of ours speaks TLS, and `ssl` brings OpenSSL, a tenth of a start. So asyncio finds none; delivery
does, later and in its own thread. A module that is None in `sys.modules` cannot be imported.

Source: Python's reference, "The module cache"; asyncio in 3.11 to 3.14.
"""

from __future__ import annotations

import sys


def _load() -> None:
    # Whoever has loaded one of them into this process may use it.
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


_load()
