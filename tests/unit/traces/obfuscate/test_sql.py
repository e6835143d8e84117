from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kit import queries, tables

from mini_agent.traces.obfuscate.sql import obfuscate_sql

CASES = tables.load("obfuscate/sql")

LENGTH = 1_000_000
# A tenth of this is usual. A scan that looks twice takes minutes.
SCAN_S_MAX = 8.0


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


@pytest.mark.slow
@pytest.mark.parametrize("dbms", ["", "postgresql", "mssql"])
def test_time_grows_with_the_length_whatever_the_query_holds(dbms):
    slow = {}
    for name, query in queries.hostile(LENGTH).items():
        began = time.process_time()
        obfuscate_sql(query, dbms)
        took_s = time.process_time() - began
        if took_s > SCAN_S_MAX:
            slow[name] = took_s
    assert slow == {}
