"""Commands of Redis and Valkey: the resource becomes their names, the raw text loses its values.

Source: reference-agent 5.4 and 5.5.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.spaces import WHITESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

_PLACEHOLDER = "?"
_TRUNCATED = "..."

# A resource names no more commands than these.
_COMMANDS_MAX = 3

# Commands whose second word belongs to the name.
_TWO_WORDS = frozenset({"CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "SCRIPT"})

# Which words are values, the name being word 0: the first of them, and how far it is to the next.
_Places = tuple[int, int]
# Instead of a distance: all from there on, as one; and no other.
_REST = 0
_ONLY = 1 << 30
# The name is no value: what are such, the arguments say.
_BY_ARGUMENTS: _Places = (0, _ONLY)
# Behind the last word there is.
_NONE: _Places = (_ONLY, _ONLY)

_ALL = "AUTH MIGRATE HELLO"
_ALL_BUT_FIRST = "ACL GEOHASH GEOPOS GEODIST LPUSH RPUSH SREM ZREM SADD"
# These the reference does not know, so that it lets their values through.
_ALL_NEWER = "ECHO EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO MSETEX"
_ALL_BUT_FIRST_NEWER = "HSETEX PFADD PUBLISH SMISMEMBER SPUBLISH XADD ZMSCORE"
_SECOND = "APPEND GETSET LPUSHX GEORADIUSBYMEMBER RPUSHX SET SETNX SISMEMBER ZRANK ZREVRANK ZSCORE"
_THIRD = "HSETNX LREM LSET SETBIT SETEX PSETEX SETRANGE ZINCRBY SMOVE RESTORE"

_VALUES: dict[str, _Places] = {
    **dict.fromkeys(f"{_ALL} {_ALL_NEWER}".split(), (1, _REST)),
    **dict.fromkeys(f"{_ALL_BUT_FIRST} {_ALL_BUT_FIRST_NEWER}".split(), (2, _REST)),
    **dict.fromkeys(_SECOND.split(), (2, _ONLY)),
    **dict.fromkeys(_THIRD.split(), (3, _ONLY)),
    "LINSERT": (4, _ONLY),
    "GEOADD": (4, 3),
    "HMSET": (3, 2),
    "HSET": (3, 2),
    "MSET": (2, 2),
    "MSETNX": (2, 2),
    **dict.fromkeys(("BITFIELD", "CONFIG", "ZADD"), _BY_ARGUMENTS),
}
_ZADD_OPTIONS = frozenset({"NX", "XX", "CH", "INCR"})
_BITFIELD_PARTS = frozenset({"SET", "GET", "INCRBY"})
_CONFIG_PARTS = frozenset({"GET", "SET", "RESETSTAT", "REWRITE"})

_TO_BLANKS = dict.fromkeys(map(ord, WHITESPACE), " ")

# Whether this is the compiled twin; characters are looked at one by one there.
_COMPILED = __file__.endswith((".so", ".pyd"))

# The longest words that are compared with names.
_COMMAND_LENGTH_MAX = 32

# A name and an argument, each with the blanks and line ends behind it; made when first needed.
_expressions: tuple[Pattern[str], Pattern[str]] | None = None


def quantize_redis(resource: str) -> str:
    """Name the first commands of a resource and nothing else."""
    if "\n" not in resource:
        line = resource.strip(" ")
        return line and (_name(line) or _TRUNCATED)
    commands: list[str] = []
    truncated = False
    end = -1
    while end < len(resource) and len(commands) < _COMMANDS_MAX:
        start, end = end + 1, resource.find("\n", end + 1)
        if end < 0:
            end = len(resource)
        line = resource[start:end].strip(" ")
        if not line:
            continue
        name = _name(line)
        truncated = not name
        if name:
            commands.append(name)
    if truncated or len(commands) == _COMMANDS_MAX:
        commands.append(_TRUNCATED)
    return " ".join(commands)


def _name(line: str) -> str:
    """The command of a line, empty when a tracer cut it off."""
    first, _, rest = line.partition(" ")
    if first.endswith(_TRUNCATED):
        return ""
    name = _upper(first)
    if name not in _TWO_WORDS or not rest:
        return name
    second = rest.lstrip(" ").partition(" ")[0]
    return "" if second.endswith(_TRUNCATED) else f"{name} {_upper(second)}"


def _upper(word: str) -> str:
    """Upper case without changing the number of characters."""
    if word.isascii():
        return word.upper()
    return "".join(map(_upper_character, word))


def _upper_character(character: str) -> str:
    # Cased since Unicode 16 only; the reference leaves them alone.
    if "\U00016e80" <= character <= "\U00016eff":
        return character
    upper = character.upper()
    return upper if len(upper) == 1 else character


def obfuscate_redis(command: str) -> str:
    """Replace the values of a raw command, or of several, one a line."""
    if not _is_simple(command):
        return _scan(command)
    if "\n" not in command:
        return _hide_in_line(command)
    lines = [_hide_in_line(line) for line in command.split("\n")]
    return "\n".join([line for line in lines if line])


def _is_simple(text: str) -> bool:
    """Whether there are no quotes, and no spaces but blanks and ends of lines."""
    if not _COMPILED or not text.isascii():
        if '"' in text or "\\" in text:
            return False
        # A printable text has no space but the blank.
        return text.isprintable() or text.replace("\n", "").isprintable()
    for character in text:
        if (character < " " and character != "\n") or character in '"\\\x7f':
            return False
    return True


def _hide_in_line(line: str) -> str:
    words = line.split()
    if words:
        places = _VALUES.get(_comparable(words[0]))
        if places is not None:
            _hide_values(words, places)
    return " ".join(words)


def _scan(command: str) -> str:
    """The same for whatever there may be; quoted arguments keep their quotes."""
    name, argument = _expressions or _compile_expressions()
    text = command.strip(WHITESPACE).partition("\0")[0]
    lines: list[str] = []
    position = 0
    while True:
        words: list[str] = []
        expression = name
        gap = ""
        while not words or (position < len(text) and "\n" not in gap):
            found = expression.match(text, position)
            # Both match whatever comes, and nothing at the end only.
            assert found is not None
            word, gap = found.groups()
            words.append(word)
            position = found.end()
            expression = argument
        places = _VALUES.get(_comparable(words[0]))
        if places is not None:
            _hide_values(words, places)
        lines.append(" ".join(words))
        if position >= len(text):
            return "\n".join(lines)


def _compile_expressions() -> tuple[Pattern[str], Pattern[str]]:
    global _expressions
    # Only here: most commands do without.
    import re

    # Up to the closing quote, or the end where there is none.
    quoted = r'"(?:[^"\\]++|\\.?+)*+"?+'
    # Outside of quotes a blank ends an argument even behind a backslash.
    escaped = r"\\[^ \n]?+"
    argument = rf'(?:[^ \n"\\]++|{escaped}|{quoted})*+'
    gap = r"([ \n]*+)"
    _expressions = (
        re.compile(rf"([^ \n]*+){gap}"),
        re.compile(rf"[ \t\r]*+({argument}){gap}", re.DOTALL),
    )
    return _expressions


def _hide_values(words: list[str], places: _Places) -> None:
    """Replace the values of a command."""
    first, distance = places
    if first == 0:
        first, distance = _places_by_arguments(words)
    if distance == _REST:
        if first < len(words):
            words[first:] = [_PLACEHOLDER]
        return
    while first < len(words):
        words[first] = _PLACEHOLDER
        first += distance


def _places_by_arguments(words: list[str]) -> _Places:
    name = _comparable(words[0])
    if name == "ZADD":
        # Pairs of a score and a member stand behind the options.
        for index in range(2, len(words)):
            if _comparable(words[index]) not in _ZADD_OPTIONS:
                return index + 1, 2
    elif name == "BITFIELD":
        # The value of the first SET that has one.
        latest = 0
        for index in range(2, len(words)):
            if _comparable(words[index]) == "SET":
                latest = index
            if latest and index - latest == 3:
                return index, _ONLY
    elif len(words) > 1 and _comparable(words[1]) == "SET":
        # Of CONFIG; behind the setting's name.
        return 3, _ONLY
    return _NONE


def _comparable(word: str) -> str:
    """A word as names are written here; other characters never match."""
    if len(word) > _COMMAND_LENGTH_MAX or not word.isascii():
        return ""
    return word.upper()


def remove_redis_arguments(command: str) -> str:
    """Keep the first command's name and replace everything behind it."""
    words = _split(command, 2)
    if len(words) < 2:
        return words[0] if words else ""
    kept = [words[0]]
    name = _comparable(words[0])
    if name == "BITFIELD":
        kept.append(_PLACEHOLDER)
        for word in _split(command, -1)[1:]:
            if _comparable(word) in _BITFIELD_PARTS:
                kept += (word, _PLACEHOLDER)
        return " ".join(kept)
    if name == "CONFIG" and _comparable(words[1]) in _CONFIG_PARTS:
        kept.append(words[1])
    kept.append(_PLACEHOLDER)
    return " ".join(kept)


def _split(text: str, most: int) -> list[str]:
    """The words of a text, at least as many as are asked for; -1 for all."""
    if text.isprintable():
        # It has no space but the blank.
        return text.split(None, most)
    return [word for word in text.translate(_TO_BLANKS).split(" ") if word]
