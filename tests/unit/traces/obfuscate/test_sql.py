from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kit import queries, tables
from kit.growth import SHORT_LENGTH, growing

from mini_agent.traces.obfuscate import collapse, scan, sql
from mini_agent.traces.obfuscate.sql import obfuscate_sql

CASES = tables.load("obfuscate/sql")

IS_COMPILED = [
    module.__file__.endswith(tuple(EXTENSION_SUFFIXES)) for module in (collapse, scan, sql)
]
HEAPS = 100_000
HEAPS_S_MAX = 100.0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["input"][:40])
def test_a_query_becomes_what_the_table_says(case):
    assert obfuscate_sql(case["input"], case.get("dbms", "").lower()) == case["expected"]


def test_the_table_covers_the_dialects():
    assert len(CASES) >= 150
    assert {case.get("dbms", "") for case in CASES} >= {
        "",
        "mssql",
        "mysql",
        "oracle",
        "postgresql",
    }


# Queries as people write them. Quoted names stay out: without their quotes they may read as
# something else, see below.

NAMES = st.sampled_from(["a", "t1", "users", "u.name", "t.*", "caf\u00e9", "_x", "count", "c_2"])
SECRET = "s3cr3t"
SECRET_NUMBER = "7391846"
STRINGS = st.text("ab'\\ ,();-/*\n\"$%\u00e9", max_size=12).map(
    lambda text: "'" + text.replace("\\", "\\\\").replace("'", "''") + f" {SECRET}'"
)
NUMBERS = st.sampled_from(
    [
        SECRET_NUMBER,
        f"{SECRET_NUMBER}.5",
        f"-{SECRET_NUMBER}",
        f"0x{SECRET_NUMBER}",
        f".{SECRET_NUMBER}",
    ]
)
DOLLAR_QUOTED = st.sampled_from([f"$$ {SECRET} ' $$", f"$tag$ {SECRET} $$ $tag$"])
LITERALS = st.one_of(
    STRINGS, NUMBERS, DOLLAR_QUOTED, st.sampled_from(["NULL", "true", "?", "$1", "%s", "x'00'"])
)
COMMENTS = st.sampled_from([f"/* {SECRET} */", f"-- {SECRET}\n", f"/* {SECRET}\n' */"])
LISTS = st.lists(LITERALS, min_size=1, max_size=4).map(lambda items: f"({', '.join(items)})")
CONDITIONS = st.one_of(
    st.tuples(NAMES, st.sampled_from(["=", "<>", "<", ">=", "LIKE"]), LITERALS),
    st.tuples(NAMES, st.just("IN"), LISTS),
    st.tuples(NAMES, st.just("BETWEEN"), LITERALS, st.just("AND"), LITERALS),
).map(" ".join)
QUERIES = st.one_of(
    st.tuples(
        st.just("SELECT"), NAMES, st.just("FROM"), NAMES, COMMENTS, st.just("WHERE"), CONDITIONS
    ),
    st.tuples(st.just("INSERT INTO"), NAMES, st.just("VALUES"), LISTS, st.just(","), LISTS),
    st.tuples(st.just("UPDATE"), NAMES, st.just("SET"), CONDITIONS, st.just("WHERE"), CONDITIONS),
    st.tuples(
        st.just("DELETE FROM"), NAMES, st.just("WHERE"), CONDITIONS, st.just("OR"), CONDITIONS
    ),
    st.tuples(st.just("SELECT"), LITERALS, st.just(","), LITERALS, st.just("FROM"), NAMES),
).map(" ".join)


@given(QUERIES, st.sampled_from(["", "mssql", "mysql", "oracle"]))
def test_no_literal_of_a_query_survives(query, dbms):
    obfuscated = obfuscate_sql(query, dbms)
    assert SECRET not in obfuscated
    assert SECRET_NUMBER not in obfuscated


@given(QUERIES, st.sampled_from(["", "mssql", "mysql", "oracle", "postgresql"]))
def test_obfuscating_twice_changes_nothing(query, dbms):
    once = obfuscate_sql(query, dbms)
    assert obfuscate_sql(once, dbms) == once


@pytest.mark.parametrize(
    ("query", "once", "twice"),
    [
        # A name without its quotes may be a literal, an alias or a comment.
        ('SELECT "it\'s" FROM t', "SELECT it's FROM t", "SELECT it ?"),
        ('SELECT "as" b', "SELECT as b", "SELECT"),
        ("SELECT `--a` FROM t", "SELECT --a FROM t", "SELECT"),
        ('SELECT "a""b"', 'SELECT a"b', "SELECT a b"),
        # The semicolon that held them apart is gone.
        ("SAVEPOINT a; SAVEPOINT b", "SAVEPOINT ? SAVEPOINT ?", "SAVEPOINT ?"),
        # What stands behind `-.` is swallowed with its blank.
        ("SELECT -.x", "SELECT -. x", "SELECT -.   x"),
    ],
)
def test_where_the_rules_do_not_end_it_takes_another_turn(query, once, twice):
    assert obfuscate_sql(query) == once
    assert obfuscate_sql(once) == twice


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        # Double quotes hold names for the standard; only `=` in front makes them a value.
        ('SELECT a FROM t WHERE b <> "secret"', "secret"),
        ('INSERT INTO t VALUES ("secret")', "secret"),
        # Read as the name of a bind variable.
        ("SELECT :secret", ":secret"),
    ],
)
def test_what_the_rules_take_for_a_name_stays(query, kept):
    assert kept in obfuscate_sql(query)


@given(st.text(max_size=200), st.sampled_from(queries.DATABASES))
@example("'", "")
@example("$$", "postgresql")
@example("[", "mssql")
@example("-.", "")
def test_any_text_is_taken(text, dbms):
    obfuscate_sql(text, dbms)


@given(st.integers(0, 2**32), st.sampled_from(queries.DATABASES))
def test_any_heap_of_sql_is_taken_and_hardly_grows(seed, dbms):
    query = queries.heap_up(Random(seed), parts_max=60)
    # Each token adds two blanks at most; rows and lists add one where they were closed up.
    assert len(obfuscate_sql(query, dbms)) <= 4 * len(query) + 4


def test_a_surrogate_and_a_nul_stay_where_they_stand():
    assert obfuscate_sql("SELECT a\ud800, \udc00b, \0, 1\0 FROM \U0001f600") == (
        "SELECT a\ud800, \udc00b, \0, ?\0 FROM \U0001f600"
    )
    assert obfuscate_sql("") == ""
    assert obfuscate_sql("\0") == "\0"


# Both twins: what is compiled here, and the same modules as they are written.

PLAIN_PROGRAM = """
import json, sys
from mini_agent.traces.obfuscate import sql
print(json.dumps(sql.__file__))
for line in sys.stdin:
    print(json.dumps([sql.obfuscate_sql(*case) for case in json.loads(line)]))
"""


def through_plain(batches):
    """The results of the plain twin for batches of queries and databases."""
    process = subprocess.run(
        [sys.executable, "-c", PLAIN_PROGRAM],
        input="".join(json.dumps(batch) + "\n" for batch in batches),
        env={**os.environ, "MINI_AGENT_PLAIN": "1"},
        stdout=subprocess.PIPE,
        timeout=HEAPS_S_MAX,
        check=True,
        encoding="ascii",
    )
    file, *lines = process.stdout.splitlines()
    assert json.loads(file).endswith(".py")
    return [json.loads(line) for line in lines]


CHARACTERS = "()[]{}?,. VALUESlimit\n'\"`$%#@:-;=<>!~*/\\aAsSxX0e\u00e9\u2003\x85\0\ud800\U0001f600"


def hostile_query(random):
    """A heap of parts, a heap of characters, or a case of the table with something amiss."""
    kind = random.random()
    if kind < 0.5:
        return queries.heap_up(random, random.choice((5, 14, 40)))
    if kind < 0.8:
        return "".join(random.choice(CHARACTERS) for _ in range(random.randint(0, 40)))
    pieces = list(random.choice(CASES)["input"])
    for _ in range(random.randint(1, 5)):
        place = random.randint(0, len(pieces))
        if random.random() < 0.5:
            del pieces[place : place + random.randint(1, 3)]
        else:
            pieces.insert(place, random.choice((*queries.PARTS, *CHARACTERS)))
    return "".join(pieces)


DIALECTS = ("", "postgresql", "mssql")


def hostile_shapes(length):
    """Those of the kit, and some on which what is written would be looked at again and again."""
    return {
        **queries.hostile(length),
        "blanks and semicolons": '"a' + " " * (length // 2) + '"' + " ; " * (length // 6),
        "aliases of ordinary names": "a AS b, c " * (length // 10),
        "names that become others": "a b, c\u00e9 " * (length // 8),
        "special names": "a nulls, null as " * (length // 17),
    }


@pytest.mark.slow
@pytest.mark.skipif(not any(IS_COMPILED), reason="nothing of it is compiled here")
def test_both_twins_say_the_same():
    assert all(IS_COMPILED), "some of its modules are compiled and some are not"
    random = Random(20261122)
    heaps = [[hostile_query(random), random.choice(queries.DATABASES)] for _ in range(HEAPS)]
    long = [[query, dbms] for query in hostile_shapes(SHORT_LENGTH).values() for dbms in DIALECTS]
    batches = [[[case["input"], dbms] for case in CASES for dbms in DIALECTS], heaps, long]
    for batch, plain in zip(batches, through_plain(batches), strict=True):
        for (query, dbms), expected in zip(batch, plain, strict=True):
            assert obfuscate_sql(query, dbms) == expected, (ascii(query[:400]), dbms)


@pytest.mark.slow
@pytest.mark.parametrize("dbms", DIALECTS)
def test_time_grows_with_the_length_whatever_the_query_holds(dbms):
    def change(query):
        return obfuscate_sql(query, dbms)

    assert growing(change, hostile_shapes) == {}
