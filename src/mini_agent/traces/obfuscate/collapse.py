# cython: infer_types=True, boundscheck=True, wraparound=True
"""The last step on SQL: lists of placeholders become one placeholder.

Source: reference-agent 5.3, finish.
"""

from __future__ import annotations

_ROW = " ( ? )"


def collapse(query: str) -> str:
    """Shorten lists in parentheses and brackets, the rows of VALUES, and what LIMIT takes."""
    if "?" not in query:
        return query
    query = _collapse_lists(query, "( ? )")
    query = _collapse_lists(query, "[ ? ]")
    if _ROW in query:
        query = _collapse_rows(query)
    if "? ?" in query or "?, ?" in query:
        query = _collapse_limits(query)
    return query


def _collapse_lists(query: str, short: str) -> str:
    opening = short[:1]
    start = query.find(opening)
    if start < 0:
        return query
    # What stands behind the end closes no list.
    text = query + "\0"
    pieces: list[str] = []
    done = 0
    while start >= 0:
        end = _list_end(text, start + 1, short[4])
        if end >= 0 and not text.startswith(short, start):
            pieces.append(text[done:start])
            pieces.append(short)
            done = end
        start = text.find(opening, max(end, start + 1))
    if not pieces:
        return query
    pieces.append(query[done:])
    return "".join(pieces)


def _list_end(text: str, position: int, closing: str) -> int:
    """The position behind a list of nothing but placeholders, each with at most a comma before
    it and a blank on either side; -1 when it is another list."""
    if text[position] == " ":
        position += 1
    while text[position] == "?":
        position += 1
        if text[position] == " ":
            position += 1
        if text[position] == closing:
            return position + 1
        if text[position] == ",":
            position += 1
            if text[position] == " ":
                position += 1
    return -1


def _collapse_rows(query: str) -> str:
    pieces: list[str] = []
    done = 0
    start = query.find(_ROW)
    while start >= 0:
        kept = start + len(_ROW)
        end = kept
        if _is_behind_keyword(query, start, "VALUES"):
            row = _row_length(query, end)
            while row:
                end += row
                row = _row_length(query, end)
        if end > kept:
            pieces.append(query[done:kept])
            done = end
        start = query.find(_ROW, end)
    pieces.append(query[done:])
    return "".join(pieces)


def _row_length(query: str, position: int) -> int:
    """The length of what follows if it is another row, or else 0."""
    if query.startswith(", ( ? )", position):
        return 7
    if query.startswith(" ( ? )", position):
        return 6
    return 3 if query.startswith(" ()", position) else 0


def _collapse_limits(query: str) -> str:
    pieces: list[str] = []
    done = 0
    start = query.find(" ?")
    while start >= 0:
        end = start + 2
        second = 0
        if query.startswith(", ?", end):
            second = 3
        elif query.startswith(" ?", end):
            second = 2
        if second and _is_behind_keyword(query, start, "LIMIT"):
            pieces.append(query[done:end])
            end += second
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
    # What may stand before a keyword.
    return start == 0 or query[start - 1] in " (\n"
