"""forward.intake: what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from kit.intake import Intake as ScriptedIntake
from kit.loopback import decompress

from mini_agent.forward import packed
from mini_agent.forward.intake import (
    RETRY_AFTER_S_MAX,
    Delivered,
    Intake,
    Refused,
    RetryLater,
    TooLarge,
    outcome_of,
)
from mini_agent.forward.payload import Kind

KIND = Kind("traces", "spans", "/kind", "application/x-protobuf", b"", 1000)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_success_is_delivered(status: int) -> None:
    assert isinstance(outcome_of(status, None), Delivered)


@pytest.mark.parametrize("status", [301, 302, 408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    outcome = outcome_of(status, None)
    assert isinstance(outcome, RetryLater)
    assert outcome.reason == f"status_{status}"
    assert not outcome.slowly


@pytest.mark.parametrize("status", [400, 404, 405, 411, 415, 422])
def test_what_would_fail_again_is_refused(status: int) -> None:
    outcome = outcome_of(status, None)
    assert isinstance(outcome, Refused)
    assert outcome.status == status


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_kept_and_tried_slowly(status: int) -> None:
    outcome = outcome_of(status, None)
    assert isinstance(outcome, RetryLater)
    assert outcome.slowly


def test_too_large_is_divided() -> None:
    assert isinstance(outcome_of(413, None), TooLarge)


def retry_after(text: str) -> float | None:
    outcome = outcome_of(503, text)
    assert isinstance(outcome, RetryLater)
    return outcome.after_s


def test_retry_after_is_read_in_both_forms_and_bounded() -> None:
    assert retry_after("7") == 7.0
    assert retry_after(" 0 ") == 0.0
    assert retry_after("99999999") == RETRY_AFTER_S_MAX
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after(format_datetime(soon)) == pytest.approx(30, abs=5)
    past = datetime.now(UTC) - timedelta(days=1)
    assert retry_after(format_datetime(past)) == 0.0
    assert retry_after("soon") is None
    assert retry_after("-3") is None


@pytest.mark.parametrize("folder", ["", "/a/folder"])
def test_a_body_arrives_below_the_url_whoever_compressed_it(folder: str) -> None:
    body = b"not a payload " * 9
    with ScriptedIntake() as service:
        intake = Intake(service.url + folder, "key", {}, None, [], 1)
        assert isinstance(intake.deliver(KIND, {"x": "y"}, body), Delivered)
        compressed = packed.load_zstd().compress(body)
        assert decompress(compressed, KIND.compression) == body
        assert isinstance(intake.deliver(KIND, {"x": "y"}, compressed, packed=True), Delivered)
        assert [(a.path, a.body, a.headers["x"]) for a in service.arrivals] == [
            (folder + "/kind", body, "y")
        ] * 2
