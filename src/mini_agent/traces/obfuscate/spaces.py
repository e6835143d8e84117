"""What counts as a space.

Python's own `isspace` also takes the separators U+001C to U+001F, which the reference does not.
"""

from __future__ import annotations

ASCII_WHITESPACE = " \t\n\r\v\f"

# The Unicode property White_Space.
WHITESPACE = (
    ASCII_WHITESPACE
    + "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    + "\u2028\u2029\u202f\u205f\u3000"
)
