r"""What a named pipe may be called.

Clients differ: .NET and the C# DogStatsD client want the bare name, Go and libdatadog the whole
path, Java takes both. So both are taken here. Pure, and importable on every system, because a
setting is checked where it is read. Source: transport-contract 1.9.
"""

from __future__ import annotations

PREFIX = "\\\\.\\pipe\\"

# The whole path. Source: Windows, CreateNamedPipe.
PATH_CHARACTERS_MAX = 256


def normalize_name(text: str) -> str:
    r"""The whole path of a pipe, from its name with or without `\\.\pipe\` in any letter case.

    Raises:
        ValueError: There can be no such pipe; the message is a sentence that says why.
    """
    name = text[len(PREFIX) :] if text.lower().startswith(PREFIX) else text
    if not name:
        raise ValueError("the name of the pipe is empty")
    if "\\" in name:
        raise ValueError("the name of a pipe holds no backslash")
    if "\0" in name:
        raise ValueError("the name of a pipe holds no NUL")
    path = PREFIX + name
    # Windows counts UTF-16 units; a character beyond the first 65,536 is two of them.
    units = len(path.encode("utf-16-le", "surrogatepass")) // 2
    if units > PATH_CHARACTERS_MAX:
        raise ValueError(
            f"the path of the pipe is {units} characters long; at most {PATH_CHARACTERS_MAX}"
        )
    return path
