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
