"""Commands of Redis and Valkey: the resource becomes their names, the raw text loses its values.

Source: reference-agent 5.4 and 5.5.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.spaces import WHITESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACEHOLDER = "?"
_TRUNCATED = "..."

# A resource names no more commands than these.
_COMMANDS_MAX = 3

# Commands whose second word belongs to the name.
_TWO_WORDS = frozenset({"CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "SCRIPT"})

# Which arguments are values, counted from 0. The second line of a set names commands that the
# reference does not know, so that it lets their values through.
_ALL = frozenset(
    {"AUTH", "MIGRATE", "HELLO"}
    | {"ECHO", "EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO", "MSETEX"}
)
_ALL_BUT_FIRST = frozenset(
    {"ACL", "GEOHASH", "GEOPOS", "GEODIST", "LPUSH", "RPUSH", "SREM", "ZREM", "SADD"}
    | {"HSETEX", "PFADD", "PUBLISH", "SMISMEMBER", "SPUBLISH", "XADD", "ZMSCORE"}
)
_ONE = {
    **dict.fromkeys(
        (
            "APPEND",
            "GETSET",
            "LPUSHX",
            "GEORADIUSBYMEMBER",
            "RPUSHX",
            "SET",
            "SETNX",
            "SISMEMBER",
            "ZRANK",
            "ZREVRANK",
            "ZSCORE",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "HSETNX",
            "LREM",
            "LSET",
            "SETBIT",
            "SETEX",
            "PSETEX",
            "SETRANGE",
            "ZINCRBY",
            "SMOVE",
            "RESTORE",
        ),
        2,
    ),
    "LINSERT": 3,
}
# First one and distance between them.
_EVERY = {
    "GEOADD": (3, 3),
    "HMSET": (2, 2),
    "HSET": (2, 2),
    "MSET": (1, 2),
    "MSETNX": (1, 2),
}
_ZADD_OPTIONS = frozenset({"NX", "XX", "CH", "INCR"})
_BITFIELD_PARTS = frozenset({"SET", "GET", "INCRBY"})
_CONFIG_PARTS = frozenset({"GET", "SET", "RESETSTAT", "REWRITE"})

_TO_BLANKS = dict.fromkeys(map(ord, WHITESPACE), " ")


# The longest words that are compared with names.
_COMMAND_LENGTH_MAX = 32


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
    return "\n".join(
        " ".join([name, *_without_values(name, arguments)])
        for name, arguments in _tokenize(command.strip(WHITESPACE).partition("\0")[0])
    )


def _tokenize(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands with their arguments; quoted arguments keep their quotes."""
    position = _skip(text, 0, " \t\r\n")
    while True:
        end = _find_either(text, position, " ", "\n")
        name = text[position:end]
        arguments: list[str] = []
        position, ended = _skip_to_next(text, end)
        while not ended and position < len(text):
            start = _skip(text, position, " \t\r")
            end = _end_of_argument(text, start)
            arguments.append(text[start:end])
            position, ended = _skip_to_next(text, end)
        yield name, arguments
        if position >= len(text):
            return


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _skip_to_next(text: str, position: int) -> tuple[int, bool]:
    """Where the next word begins, and whether a line ended before it."""
    start = position
    position = _skip(text, position, " \n")
    return position, "\n" in text[start:position]


def _find_either(text: str, position: int, one: str, other: str) -> int:
    while position < len(text) and text[position] != one and text[position] != other:
        position += 1
    return position


def _end_of_argument(text: str, position: int) -> int:
    quoted = False
    escaped = False
    while position < len(text):
        character = text[position]
        if escaped:
            escaped = False
            # An escaped blank still ends an argument outside of quotes.
            if character in " \n" and not quoted:
                break
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character in " \n" and not quoted:
            break
        position += 1
    return position


def _without_values(name: str, arguments: list[str]) -> list[str]:
    command = _comparable(name)
    if command in _ALL:
        return [_PLACEHOLDER] if arguments else []
    if command in _ALL_BUT_FIRST:
        return [arguments[0], _PLACEHOLDER] if len(arguments) > 1 else arguments
    if command in _ONE:
        places = range(_ONE[command], _ONE[command] + 1)
    elif command in _EVERY:
        first, distance = _EVERY[command]
        places = range(first, len(arguments), distance)
    elif command == "CONFIG" and arguments and _comparable(arguments[0]) == "SET":
        places = range(2, 3)
    elif command == "BITFIELD":
        places = _places_in_bitfield(arguments)
    elif command == "ZADD":
        places = _places_in_zadd(arguments)
    else:
        return arguments
    for place in places:
        if place < len(arguments):
            arguments[place] = _PLACEHOLDER
    return arguments


def _places_in_bitfield(arguments: list[str]) -> range:
    """The value of the first SET that has one."""
    latest = 0
    for index, argument in enumerate(arguments):
        if _comparable(argument) == "SET":
            latest = index
        if latest and index - latest == 3:
            return range(index, index + 1)
    return range(0)


def _places_in_zadd(arguments: list[str]) -> range:
    for index in range(1, len(arguments)):
        if _comparable(arguments[index]) not in _ZADD_OPTIONS:
            return range(index + 1, len(arguments), 2)
    return range(0)


def _comparable(word: str) -> str:
    """A word as names are written here; other characters never match."""
    if len(word) > _COMMAND_LENGTH_MAX or not word.isascii():
        return ""
    return word.upper()


def remove_redis_arguments(command: str) -> str:
    """Keep the first command's name and replace everything behind it."""
    words = command.translate(_TO_BLANKS).split(" ")
    words = [word for word in words if word]
    if len(words) < 2:
        return "".join(words)
    kept = [words[0]]
    name = _comparable(words[0])
    if name == "BITFIELD":
        kept.append(_PLACEHOLDER)
        for word in words[1:]:
            if _comparable(word) in _BITFIELD_PARTS:
                kept += (word, _PLACEHOLDER)
        return " ".join(kept)
    if name == "CONFIG" and _comparable(words[1]) in _CONFIG_PARTS:
        kept.append(words[1])
    return " ".join([*kept, _PLACEHOLDER])
