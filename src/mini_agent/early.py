"""The TCP port of plain settings, bound before anything else is loaded.

Loading the settings and all that opens a port with care takes longer than everything until then,
and nearly everybody listens on the usual address. So the launcher and the command line begin
here. Whatever is not plain, or does not work, is left to doors.py and launcher.py, which come a
little later and say what is wrong.

Imports one C module.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Where tracers look for an agent when nobody told them another place. Source: every tracer.
TRACES_HOST, TRACES_PORT = "127.0.0.1", 8126

# With one of these the address is another, or the port is bound already.
_NOT_PLAIN = ("DD_BIND_HOST", "DD_APM_NON_LOCAL_TRAFFIC", "DD_APM_NET_RECEIVER_FD")

_PORT_DIGITS_MAX = 5


def bind_plain(environ: Mapping[str, str], port_before: int | None = None) -> _socket.socket | None:
    """A socket that listens on the port of plain settings; None for others.

    Args:
        port_before: The port of an agent before; where the system chose it, it is taken again.
    """
    # On Windows a port can be taken from under us; listen/bind.py knows how to hold it.
    if hasattr(_socket, "SO_EXCLUSIVEADDRUSE") or any(name in environ for name in _NOT_PLAIN):
        return None
    text = environ.get("DD_APM_RECEIVER_PORT", "").strip() or str(TRACES_PORT)
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS_MAX):
        return None
    bound = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0)
    try:
        bound.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        bound.bind((TRACES_HOST, int(text) or port_before or 0))
        bound.listen()
    except (OSError, OverflowError):
        bound.close()
        return None
    return bound
