"""Queries for tests: ordinary ones with marked literals, hostile ones, and heaps of SQL's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_WORDS = (
    "SELECT INSERT INTO VALUES values LIMIT limit FROM WHERE AS as a b t1 x y_z null TRUE false "
    "savepoint SAVEPOINT begin end call CALL 1 23 4.5 .5 1e9 2E- 0x1F 0X X'ab' x' 'abc' 'it''s' "
    "'a\\' '\\'' \" \"a\" \"\" ` `a` `` [ ] [a] ( ) { } {fn {call , ; . .. .* :: := : :a :\u00e9 "
    ":1. -> ->> - -- -1 -.5 -.v -. + * / // /* */ % %s %( %(a)s %\u00e9 ? ?| ?& ?|| < <> <= <@ "
    "<@a > >= = == ! != !~ !~* ~ ~* | || & ^ @ @@ @@a @a @1 @> @\u00e9 $ $1 $? $1.2 $$ $a$ $a "
    "$a$x$a$ $_ # #> #>> #- #t ##g e E 1a N'abc' q$ x X 0 00 a. a.b a.1 t.* a*b a@b a#b"
)

# What the scan tells apart, and what it may confuse.
PARTS = [
    *_WORDS.split(" "),
    '" "',
    '"a  "',
    "` `",
    "\n",
    "\t",
    "\r\n",
    "\u2003",
    "\u00a0",
    "\x85",
    "\x1c",
    "\x00",
    "\x7f",
    "\\",
    "\u20ac",
    "\U0001f600",
    "caf\u00e9",
    "\u65e5\u672c",
    "\u0661",
    "\u00b2",
    "\u02b0",
    "\u212a",
    "\u017f",
]

DATABASES = ("", "mssql", "postgresql", "mysql", "oracle", "PostgreSQL", "sqlite")


def heap_up(random: Random, parts_max: int = 14) -> str:
    """Some parts of SQL in no order, never empty."""
    pieces = []
    for _ in range(random.randint(1, parts_max)):
        pieces.append(random.choice(PARTS))
        if random.random() < 0.55:
            pieces.append(random.choice((" ", " ", " ", "  ", "\n")))
    return "".join(pieces)


def hostile(length: int) -> dict[str, str]:
    """Texts on which a scan that looks twice takes for ever, of about that length each."""
    shapes = {
        "tags that never close": lambda n: " ".join(f"$a{index}$ " for index in range(n // 9)),
        "one tag": lambda n: "$a$ b " * (n // 6),
        "parameters that never close": lambda n: "%(" * (n // 2),
        "strings in words": lambda n: "'a'b" * (n // 4),
        "escaped quotes": lambda n: "'\\'b" * (n // 4),
        "one string of escapes": lambda n: "'" + "\\'b" * (n // 3),
        "doubled and escaped": lambda n: "'a\\''b" * (n // 6),
        "only quotes": lambda n: "'" * n,
        "only double quotes": lambda n: '"' * (n + 1),
        "only backticks": lambda n: "`" * (n + 1),
        "blanks and aliases": lambda n: '"a' + " " * (n // 2) + '" ' + "AS x " * (n // 10),
        "blanks and comments": lambda n: '"a' + " " * (n // 2) + '"' + " /**/ " * (n // 12),
        "blanks and commas": lambda n: '"a' + " " * (n // 2) + '"' + " ,; ," * (n // 12),
        "semicolons": lambda n: ";" * n,
        "a long list": lambda n: "(" + "1," * (n // 2),
        "lists that never close": lambda n: "(1 " * (n // 3),
        "parentheses": lambda n: "(" * n,
        "brackets": lambda n: "[" * n,
        "braces": lambda n: "{" * n,
        "braces and quotes": lambda n: "{'" * (n // 2),
        "rows": lambda n: "VALUES (1) " * (n // 11),
        "limits": lambda n: "LIMIT 1 " * (n // 8),
        "one name": lambda n: "a" * n,
        "dots": lambda n: ".1" * (n // 2),
        "minus and dot": lambda n: "-.x" * (n // 3),
        "blanks": lambda n: " " * n,
        "letters of other scripts": lambda n: "\u00e9 " * (n // 2),
    }
    return {name: make(length) for name, make in shapes.items()}
