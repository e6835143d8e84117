"""The last step on SQL: lists of placeholders become one placeholder.

Source: reference-agent 5.3, finish.
"""

from __future__ import annotations

_ROW = " ( ? )"
_ROWS_BEHIND = (", ( ? )", " ( ? )", " ()")
# What may stand before a keyword.
_BEFORE_KEYWORD = " (\n"


def collapse(query: str) -> str:
    """Shorten lists in parentheses and brackets, the rows of VALUES, and what LIMIT takes."""
    if "?" not in query:
        return query
    query = _collapse_lists(query, "(", ")")
    query = _collapse_lists(query, "[", "]")
    if _ROW in query:
        query = _collapse_rows(query)
    return _collapse_limits(query)


def _collapse_lists(query: str, opening: str, closing: str) -> str:
    start = query.find(opening)
    if start < 0:
        return query
    pieces: list[str] = []
    done = 0
    while start >= 0:
        end = _list_end(query, start + 1, closing)
        if end >= 0:
            pieces += (query[done:start], opening, " ? ", closing)
            done = end
        start = query.find(opening, max(end, start + 1))
    pieces.append(query[done:])
    return "".join(pieces)


def _list_end(query: str, position: int, closing: str) -> int:
    """The position behind a list of nothing but placeholders, each with at most a comma before
    it and a blank on either side; -1 when it is another list."""
    position += query.startswith(" ", position)
    while query.startswith("?", position):
        position += 1
        position += query.startswith(" ", position)
        if query.startswith(closing, position):
            return position + 1
        if query.startswith(",", position):
            position += 1
            position += query.startswith(" ", position)
    return -1


def _collapse_rows(query: str) -> str:
    pieces = []
    done = 0
    start = query.find(_ROW)
    while start >= 0:
        end = start + len(_ROW)
        if _is_behind_keyword(query, start, "VALUES"):
            pieces.append(query[done:end])
            row = _row_length(query, end)
            while row:
                end += row
                row = _row_length(query, end)
            done = end
        start = query.find(_ROW, end)
    pieces.append(query[done:])
    return "".join(pieces)


def _row_length(query: str, position: int) -> int:
    for row in _ROWS_BEHIND:
        if query.startswith(row, position):
            return len(row)
    return 0


def _collapse_limits(query: str) -> str:
    if "limit ?" not in query.lower():
        return query
    pieces = []
    done = 0
    start = query.find(" ?")
    while start >= 0:
        end = start + 2
        if query.startswith((", ?", " ?"), end) and _is_behind_keyword(query, start, "LIMIT"):
            pieces.append(query[done:end])
            end += 3 if query[end] == "," else 2
            done = end
        start = query.find(" ?", end)
    pieces.append(query[done:])
    return "".join(pieces)


def _is_behind_keyword(query: str, end: int, keyword: str) -> bool:
    start = end - len(keyword)
    if start < 0:
        return False
    word = query[start:end]
    # A few letters of other scripts have upper case in ASCII.
    if word.upper() != keyword or not word.isascii():
        return False
    return start == 0 or query[start - 1] in _BEFORE_KEYWORD
