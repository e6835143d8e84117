# cython: infer_types=True, boundscheck=True, wraparound=True
"""SQL without its literals: one scan from left to right, whose output equals the reference's.

The scan appends to a buffer of tokens, whose last characters decide where a blank goes. Four
facts are carried from token to token:

- `grouped`: the last thing written was a placeholder, so that the next one and the comma between
  them are left out;
- `alias_at`: how long the buffer was before the word AS; the next token cuts it back to there
  and mostly goes itself;
- `assigned`: `=` came last, so that double quotes hold a value and not a name;
- `savepoint`: the next name is a value.

The rules are odd in places (a CTE loses its parenthesis, `a-1` its minus), but stats and traces
of two agents only meet when both do the same.

Source: reference-agent 5.3.
"""

from __future__ import annotations

from mini_agent.traces.obfuscate.collapse import collapse
from mini_agent.traces.obfuscate.scan import (
    SPECIAL_NAMES,
    Scan,
    is_blank,
    is_digit,
    is_letter,
    is_name,
    is_word,
)
from mini_agent.traces.obfuscate.spaces import WHITESPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The databases whose dialects differ here; every other name means none of them.
MSSQL = "mssql"
POSTGRESQL = "postgresql"

_VALUES = SPECIAL_NAMES - {"as", "savepoint"}
# Behind AS these begin a statement or a clause and are no alias.
_NO_ALIAS = frozenset(
    {"begin", "end", "select", "insert", "update", "delete", "create", "drop", "alter"}
    | {"truncate", "from", "where", "join", "on", "set", "values", "into", "group", "order"}
    | {"having", "union", "intersect", "except", "limit", "offset", "with"}
)


def obfuscate_sql(query: str, dbms: str = "") -> str:
    """A query with `?` for its literals, one blank between tokens and lists made short.

    Args:
        dbms: The database's name in lower case, or anything else for the general rules.
    """
    scan = Scan(query, dbms)
    text = scan.text
    length = scan.length
    rules = _RULES
    while scan.position < length:
        character = text[scan.position]
        # What nearly all of a query is made of is told apart here: blanks, and names, but not x,
        # which may begin a string.
        if character == " ":
            _take_blanks(scan)
        elif character in "abcdefghijklmnopqrstuvwyzABCDEFGHIJKLMNOPQRSTUVWYZ_":
            _take_names(scan)
        elif character <= "\x7f":
            rules[ord(character)](scan)
        elif character in WHITESPACE:
            _take_blanks(scan)
        else:
            _take_name(scan)
    return collapse(scan.written())


# One function for the tokens that begin with a character. Those that keep a token behind AS drop
# the alias first; those that let it go read the token first.


def _take_blanks(scan: Scan) -> None:
    scan.skip_blanks()
    if scan.alias_at < 0:
        scan.space()


def _take_hash(scan: Scan) -> None:
    following = scan.text[scan.position + 1]
    if scan.dbms == MSSQL and (is_word(following) or following == "#"):
        _take_name_as_it_is(scan, scan.name_end(scan.position))
    elif scan.dbms == POSTGRESQL and following in ">-":
        scan.drop_alias()
        double = scan.text.startswith(">>", scan.position + 1)
        operator = "#>>" if double else "#" + following
        scan.emit_before_blank(operator)
        scan.position += len(operator)
    else:
        scan.skip_line()


def _take_slash(scan: Scan) -> None:
    following = scan.text[scan.position + 1]
    if following == "/":
        scan.skip_line()
    elif following == "*":
        scan.skip_behind("*/", scan.position + 2)
    else:
        _take_operator(scan)


def _take_semicolon(scan: Scan) -> None:
    scan.position += 1
    scan.grouped = True


def _take_opening(scan: Scan) -> None:
    scan.position += 1
    if scan.drop_alias():
        scan.skip_blanks()
        return
    scan.savepoint = False
    scan.space()
    scan.skip_blanks()
    scan.out.append("(")
    scan.out.append(" ")


def _take_closing(scan: Scan) -> None:
    scan.drop_alias()
    scan.position += 1
    if scan.out and scan.last() not in "( ":
        scan.out.append(" ")
    scan.out.append(")")


def _take_comma(scan: Scan) -> None:
    scan.drop_alias()
    scan.position += 1
    out = scan.out
    length = len(out)
    if scan.grouped:
        while length and out[length - 1] == " ":
            length -= 1
        scan.cut(length)
        return
    if length and out[-1] == " ":
        scan.cut(length - 1)
    out.append(",")


def _take_string(scan: Scan) -> None:
    end = scan.string_end(scan.position)
    scan.position = end if end >= 0 else scan.length
    scan.value()


def _take_backtick(scan: Scan) -> None:
    name = scan.read_quoted("`")
    if not scan.drop_alias():
        is_visible = name != "" and not _is_blank_name(name)
        scan.emit_quoted(name if is_visible else f"`{name}`")
        _take_dot_behind_name(scan)


def _take_double_quote(scan: Scan) -> None:
    name = scan.read_quoted('"')
    is_value = scan.savepoint or scan.assigned or _is_blank_name(name)
    if is_value:
        scan.savepoint = False
    if scan.drop_alias():
        return
    if is_value:
        scan.placeholder()
    else:
        scan.emit_quoted(name or '""')
    _take_dot_behind_name(scan)


def _is_blank_name(name: str) -> bool:
    return name != "" and is_blank(name[0]) and not name.strip(WHITESPACE)


def _take_dot_behind_name(scan: Scan) -> None:
    if scan.text[scan.position] != ".":
        return
    scan.position += 1
    following = scan.text[scan.position]
    if following == "*":
        scan.position += 1
        scan.out.append(".*")
    elif is_letter(following) or following in '_`"[' or following > "\x7f":
        scan.out.append(" .")
        scan.out.append(" ")
    else:
        scan.out.append(".")


def _take_bracket(scan: Scan) -> None:
    if scan.dbms == MSSQL:
        _take_bracketed_name(scan)
    elif scan.drop_alias():
        scan.skip_behind("]", scan.position)
    else:
        scan.position += 1
        scan.space()
        scan.out.append("[")
        scan.skip_blanks()
        scan.space()


def _take_bracketed_name(scan: Scan) -> None:
    start = scan.position + 1
    end = scan.text.find("]", start)
    if end < 0:
        end = scan.length
    scan.position = min(end + 1, scan.length)
    if scan.drop_alias():
        return
    scan.emit_quoted(scan.text[start:end])
    if scan.text[scan.position] == ".":
        scan.position += 1
        if scan.text[scan.position] == "[":
            scan.out.append(" .")
            scan.out.append(" ")
        else:
            scan.out.append(".")


def _take_closing_bracket(scan: Scan) -> None:
    scan.drop_alias()
    scan.position += 1
    if scan.out and scan.last() not in "[ ":
        scan.space()
    scan.out.append("]")
    if scan.text[scan.position] == ".":
        scan.position += 1
        scan.out.append(" .")
        scan.out.append(" ")


def _take_dollar(scan: Scan) -> None:
    text = scan.text
    following = text[scan.position + 1]
    if following in "0123456789?":
        position = scan.position + 1
        while text[position] in "0123456789?":
            position += 1
        if text[position] == ".":
            position += 1
            while is_digit(text[position]):
                position += 1
        scan.position = position
        scan.value()
        return
    if is_letter(following) or following in "$_":
        end = scan.dollar_quote_end(scan.position)
        if end >= 0:
            scan.position = end
            scan.value()
            return
    _take_name_as_it_is(scan, scan.name_end(scan.position + 1))


def _take_name_as_it_is(scan: Scan, end: int) -> None:
    token = scan.text[scan.position : end]
    scan.position = end
    if not scan.drop_alias():
        scan.emit(token)


def _take_digit(scan: Scan) -> None:
    text = scan.text
    position = scan.position
    if text[position] == "0" and text[position + 1] in "xX":
        position += 2
        while text[position] in "0123456789abcdefABCDEF":
            position += 1
        scan.position = position
    else:
        scan.skip_number(position)
    scan.value()


def _take_x(scan: Scan) -> None:
    if scan.text[scan.position + 1] != "'":
        _take_name(scan)
        return
    end = scan.string_end(scan.position + 1)
    scan.position = end if end >= 0 else scan.position + 2
    scan.value()


def _take_percent(scan: Scan) -> None:
    following = scan.text[scan.position + 1]
    if following == "(":
        scan.skip_behind(")", scan.position + 2)
        if is_letter(scan.text[scan.position]):
            scan.position += 1
        scan.value()
    elif is_letter(following) or following in "_@#" or _is_foreign_letter(following):
        scan.position += 2
        scan.value()
    else:
        _take_operator(scan)


def _take_dot(scan: Scan) -> None:
    text = scan.text
    start = scan.position
    last = scan.last()
    joins = is_name(last) or last in '"`'
    if not is_digit(text[start + 1]):
        if not joins:
            if scan.drop_alias():
                # Read again, because now it may join what stood before AS.
                return
            scan.space()
        scan.position += 1
        scan.out.append(".")
    elif joins:
        position = start + 1
        while is_name(text[position]) or (text[position] == "." and is_name(text[position + 1])):
            position += 1
        scan.position = position
        scan.out.append(text[start:position])
    else:
        scan.skip_number(start + 1, may_have_dot=False)
        scan.value()


def _take_brace(scan: Scan) -> None:
    scan.drop_alias()
    text = scan.text
    position = scan.position + 1
    while text[position] <= "\x7f" and is_blank(text[position]):
        position += 1
    if text[position : position + 4].upper() == "CALL" and not (
        is_letter(text[position + 4]) or is_digit(text[position + 4])
    ):
        scan.position += 1
        scan.space()
        scan.skip_blanks()
        scan.out.append("{")
        scan.out.append(" ")
        return
    depth = 1
    while depth and position < scan.length:
        character = text[position]
        if character == "'":
            position = max(position, scan.string_end(position) - 1)
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        position += 1
    scan.position = position
    scan.placeholder()


def _take_closing_brace(scan: Scan) -> None:
    scan.drop_alias()
    scan.position += 1
    scan.space()
    scan.out.append("}")


def _take_at(scan: Scan) -> None:
    start = scan.position
    following = scan.text[start + 1]
    if following == "@":
        _take_name_as_it_is(scan, scan.name_end(start + 2))
    elif is_word(following) or following in "#$*":
        _take_name_as_it_is(scan, scan.name_end(start + 1))
    elif _is_foreign_letter(following):
        _take_name_as_it_is(scan, scan.letters_end(start + 1, "_#@"))
    elif following == ">":
        _take_two(scan)
    else:
        _take_operator(scan)


def _take_colon(scan: Scan) -> None:
    text = scan.text
    start = scan.position
    following = text[start + 1]
    if following in ":=":
        scan.drop_alias()
        scan.operator(text[start : start + 2])
        scan.position += 2
        return
    if is_word(following) or following in "#@":
        end = start + 1
        while is_name(text[end]) or text[end] == ".":
            end += 1
    elif _is_foreign_letter(following):
        end = scan.letters_end(start + 1, "_#@.")
    else:
        _take_operator(scan)
        return
    scan.position = end
    if not scan.drop_alias():
        scan.emit(text[start:end])
        if text[end - 1] == ".":
            scan.out.append(" ")


def _take_minus(scan: Scan) -> None:
    text = scan.text
    start = scan.position
    following = text[start + 1]
    if following == "-":
        scan.skip_line()
    elif following == ">":
        scan.drop_alias()
        arrow = "->>" if text[start + 2] == ">" else "->"
        scan.emit_before_blank(arrow)
        scan.position += len(arrow)
    elif is_digit(following):
        scan.skip_number(start + 1)
        scan.value()
    elif following == "." and is_digit(text[start + 2]):
        scan.skip_number(start + 2)
        scan.value()
    elif following == "." and start + 2 < scan.length:
        _take_minus_dot(scan)
    else:
        _take_operator(scan)


def _take_minus_dot(scan: Scan) -> None:
    """Take `-.` and the character behind, which the reference swallows."""
    scan.drop_alias()
    scan.operator("-.")
    leaked = scan.position + 2
    if is_digit(scan.text[leaked + 1]):
        scan.skip_number(leaked + 1)
        scan.placeholder()
    else:
        scan.position = leaked + 1
        scan.out.append(scan.text[leaked])
        scan.out.append(" ")


def _take_question_mark(scan: Scan) -> None:
    text = scan.text
    start = scan.position
    following = text[start + 1]
    scan.drop_alias()
    if following == "&" or (following == "|" and text[start + 2] != "|"):
        _take_two(scan)
        return
    scan.position += 1
    if scan.dbms == POSTGRESQL:
        # An operator on JSON there, so nothing is grouped with it.
        scan.space()
        scan.out.append("?")
        scan.assigned = False
    else:
        scan.placeholder()


def _take_less(scan: Scan) -> None:
    following = scan.text[scan.position + 1]
    if following in ">=":
        _take_two(scan)
    elif following != "@":
        _take_operator(scan)
    elif scan.dbms == POSTGRESQL or not is_word(scan.text[scan.position + 2]):
        _take_two(scan)
    else:
        scan.drop_alias()
        scan.position += 1
        scan.space()
        scan.out.append("<")
        scan.out.append(" ")


def _take_greater(scan: Scan) -> None:
    if scan.text[scan.position + 1] == "=":
        _take_two(scan)
    else:
        _take_operator(scan)


def _take_equals(scan: Scan) -> None:
    _take_operator(scan)
    scan.assigned = True


def _take_exclamation(scan: Scan) -> None:
    if scan.text.startswith("~*", scan.position + 1):
        scan.drop_alias()
        scan.emit_before_blank("!~*")
        scan.position += 3
    elif scan.text[scan.position + 1] in "=~":
        _take_two(scan)
    else:
        _take_operator(scan)


def _take_tilde(scan: Scan) -> None:
    if scan.text[scan.position + 1] == "*":
        _take_two(scan)
    else:
        _take_operator(scan)


def _take_two(scan: Scan) -> None:
    """Take an operator of two characters."""
    scan.drop_alias()
    scan.emit_before_blank(scan.text[scan.position : scan.position + 2])
    scan.position += 2


def _take_operator(scan: Scan) -> None:
    """Take an operator of one character."""
    scan.drop_alias()
    position = scan.position
    scan.operator(scan.text[position])
    # A blank behind it is written already.
    scan.position = position + (2 if scan.text[position + 1] == " " else 1)


def _take_unknown(scan: Scan) -> None:
    if not scan.drop_alias():
        scan.out.append(scan.text[scan.position])
    scan.position += 1


def _take_names(scan: Scan) -> None:
    """Take names that come out as they stand, as many as there are; else one by the rules."""
    start = scan.position
    end = start
    if scan.alias_at < 0 and not scan.savepoint:
        end = scan.ordinary_end(start)
    if end == start:
        _take_name(scan)
        return
    text = scan.text
    scan.emit(text[start:end])
    scan.position = end
    # The blank behind it, as the rule for blanks would; or one behind the dot at its end.
    if text[end] == " ":
        scan.position += 1
        scan.out.append(" ")
    elif text[end - 1] == "." and end < scan.length:
        scan.out.append(" ")


def _take_name(scan: Scan) -> None:
    start = scan.position
    end = scan.qualified_end(start)
    scan.position = end
    _write_name(scan, scan.text[start:end])
    if scan.text[end - 1] == "." and end < scan.length:
        scan.out.append(" ")


def _write_name(scan: Scan, name: str) -> None:
    word = name.lower()
    if scan.savepoint or word in _VALUES:
        scan.savepoint = False
        scan.value()
    elif word == "as":
        out = scan.out
        if out and out[-1] == " ":
            scan.cut(len(out) - 1)
        scan.alias_at = len(out)
        scan.space()
        out.append(name)
        scan.grouped = False
    else:
        if scan.alias_at >= 0:
            if word not in _NO_ALIAS:
                scan.drop_alias()
                return
            scan.alias_at = -1
        scan.savepoint = word == "savepoint"
        scan.emit(name)


def _is_foreign_letter(character: str) -> bool:
    return character > "\x7f" and character.isalpha()


_BY_CHARACTER: dict[str, Callable[[Scan], None]] = {
    **dict.fromkeys("\t\n\r\v\f", _take_blanks),
    **dict.fromkeys("xX", _take_x),
    **dict.fromkeys("0123456789", _take_digit),
    **dict.fromkeys("+|&^*", _take_operator),
    "-": _take_minus,
    "/": _take_slash,
    "#": _take_hash,
    ";": _take_semicolon,
    "(": _take_opening,
    ")": _take_closing,
    ",": _take_comma,
    "'": _take_string,
    "`": _take_backtick,
    '"': _take_double_quote,
    "[": _take_bracket,
    "]": _take_closing_bracket,
    "$": _take_dollar,
    "%": _take_percent,
    ".": _take_dot,
    "{": _take_brace,
    "}": _take_closing_brace,
    "@": _take_at,
    ":": _take_colon,
    "?": _take_question_mark,
    "<": _take_less,
    ">": _take_greater,
    "=": _take_equals,
    "!": _take_exclamation,
    "~": _take_tilde,
}
# The same by the number of the ASCII character.
_RULES = [_BY_CHARACTER.get(chr(code), _take_unknown) for code in range(0x80)]
