"""ledger: the books balance, or say by how much they do not."""

from __future__ import annotations

import pytest

from mini_agent.ledger import Ledger


def filled() -> Ledger:
    ledger = Ledger()
    ledger.adopted("spans", 10)
    ledger.accepted("spans", 100)
    ledger.delivered("spans", 80)
    ledger.dropped("spans", "journal_full", 5)
    ledger.dropped("spans", "refused_400", 2)
    ledger.refused("requests", "undecodable")
    ledger.repaired("spans", "invalid_utf8", 3)
    return ledger


def test_the_report_names_every_entry_and_the_verdict() -> None:
    assert filled().report({"spans": 23}) == (
        "requests: adopted=0 accepted=0 delivered=0 waiting=0 dropped=0 "
        "refused=1(undecodable:1) repaired=0; "
        "spans: adopted=10 accepted=100 delivered=80 waiting=23 "
        "dropped=7(journal_full:5,refused_400:2) refused=0 repaired=3(invalid_utf8:3); balanced"
    )


def test_what_is_missing_is_said() -> None:
    assert filled().imbalance({"spans": 20}) == {"spans": 3}
    assert filled().report({"spans": 20}).endswith("OUT OF BALANCE by {'spans': 3}")


def test_nothing_counted_is_nothing_written() -> None:
    ledger = Ledger()
    ledger.accepted("spans", 0)
    assert ledger.signals() == []
    assert ledger.snapshot({}) == {}


def test_a_negative_count_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        Ledger().accepted("spans", -1)
