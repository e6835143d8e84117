"""SHA-256 without OpenSSL.

`hashlib` loads OpenSSL for it: 3.8 MB of memory and a thirtieth of a start, for a few hundred
bytes that are hashed. CPython has its own beside that, under a name which changed with 3.12; the
standard library's `random` takes it in the same way.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            # Built without them, as for FIPS.
            from hashlib import sha256

__all__ = ["sha256"]
