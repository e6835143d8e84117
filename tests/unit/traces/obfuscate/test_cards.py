from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tables

from mini_agent.traces.obfuscate.cards import CARD_BEGINS, is_card, may_hold_card


@pytest.mark.parametrize("case", tables.load("obfuscate/cards"), ids=lambda case: case["input"])
def test_a_card_is_what_the_table_says(case):
    assert is_card(case["input"], luhn=True) == case["with_checksum"]
    assert is_card(case["input"], luhn=False) == case["without_checksum"]


def test_tags_of_other_things_are_not_looked_at():
    assert may_hold_card("payment.note")
    assert may_hold_card("card.number")
    assert not may_hold_card("_dd.p.tid")
    assert not may_hold_card("databricks_job_id")


@given(st.text("0123456789 -", max_size=24), st.booleans())
def test_blanks_and_dashes_change_nothing(text, luhn):
    digits = text.replace(" ", "").replace("-", "")
    assert is_card(text, luhn) == is_card(digits, luhn)


@given(st.text(max_size=30))
def test_a_card_begins_as_announced(text):
    assert not is_card(text, luhn=False) or text[0] in CARD_BEGINS


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("100000", "199999"),
        ("222100", "272099"),
        ("300000", "305999"),
        ("309000", "309999"),
        # 34 to 39, 4, 51 to 55, 5019, 500000 to 509999 and 560000 to 589999 lie side by side.
        ("340000", "589999"),
        ("600000", "699999"),
    ],
)
def test_issuers_end_where_they_end(first, last):
    before, behind = str(int(first) - 1).zfill(6), str(int(last) + 1)
    for prefix, is_issuer in ((before, False), (first, True), (last, True), (behind, False)):
        assert is_card(prefix + "0" * 6, luhn=False) == is_issuer, prefix
