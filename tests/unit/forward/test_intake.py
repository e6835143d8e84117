"""forward.intake: what an answer means, and which way a request takes."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from kit.intake import Close, Hang, Reset
from kit.intake import Intake as ScriptedIntake
from kit.loopback import Listener, decompress

from mini_agent.forward import exchange, packed
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


@pytest.mark.parametrize("trouble", [Reset(), Reset(before_reading=True), Close()])
def test_a_connection_that_breaks_is_retried_and_opened_anew(trouble: Reset | Close) -> None:
    with ScriptedIntake() as service:
        intake = Intake(service.url, "key", {}, None, [], 1)
        # On the first request of a connection, and on a later one.
        for _ in range(2):
            service.answer_next([trouble])
            outcome = intake.deliver(KIND, {}, b"body")
            assert isinstance(outcome, RetryLater)
            assert outcome.reason == "network"
            for _ in range(2):
                assert isinstance(intake.deliver(KIND, {}, b"body"), Delivered)


def test_an_intake_that_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S_MAX", 0.1)
    with ScriptedIntake() as service:
        service.answer_always(Hang())
        outcome = Intake(service.url, "key", {}, None, [], 1).deliver(KIND, {}, b"body")
    assert isinstance(outcome, RetryLater)
    assert outcome.reason == "timeout"


def test_why_a_certificate_is_not_believed_is_said_while_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "mini_agent")
    with ScriptedIntake(tls=True) as service:
        outcome = Intake(service.url, "the-key", {}, None, [], 1).deliver(KIND, {}, b"body")
        assert service.arrivals == []
    assert isinstance(outcome, RetryLater)
    assert outcome.reason == "network"
    assert "SSLCertVerificationError" in caplog.text
    assert "certificate verify failed: unable to get local issuer certificate" in caplog.text
    assert "the-key" not in caplog.text


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that lets nobody through: its authority, and what it was asked."""
    asked: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        connection.close()

    proxy = Listener("127.0.0.1", 0, refuse)
    try:
        yield f"127.0.0.1:{proxy.port}", asked
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("account", "sent"),
    [
        ("", None),
        ("worker:pass%20word@", b"worker:pass word"),
        ("worker@", b"worker"),
        ("w%3Ar:%C3%A9%40:x@", "w:r:\xe9@:x".encode()),
    ],
)
def test_a_proxy_is_told_the_account_of_its_url(
    caplog: pytest.LogCaptureFixture, account: str, sent: bytes | None
) -> None:
    caplog.set_level(logging.DEBUG, "mini_agent")
    with refusing_proxy() as (authority, asked):
        proxy_url = f"http://{account}{authority}"
        intake = Intake("https://intake.example", "key", {}, proxy_url, [], 1)
        outcome = intake.deliver(KIND, {}, b"body")
    assert isinstance(outcome, RetryLater)
    assert outcome.reason == "network"
    [head] = asked
    wanted = b"CONNECT intake.example:443 HTTP/1.1\r\nhost: intake.example:443\r\n"
    if sent is not None:
        wanted += b"proxy-authorization: Basic " + base64.b64encode(sent) + b"\r\n"
    assert head == wanted + b"\r\n"
    assert "the proxy answers 407" in caplog.text
    assert "worker" not in caplog.text


def test_a_plain_intake_is_never_asked_for_through_a_proxy() -> None:
    with ScriptedIntake() as service, refusing_proxy() as (authority, asked):
        intake = Intake(service.url, "key", {}, f"http://{authority}", [], 1)
        assert isinstance(intake.deliver(KIND, {}, b"body"), Delivered)
    assert asked == []


def test_a_host_of_no_proxy_is_reached_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ScriptedIntake(tls=True) as service, refusing_proxy() as (authority, asked):
        trusted = service.write_certificates(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        bypassed = [f"127.0.0.1:{service.port}"]
        intake = Intake(service.url, "key", {}, f"http://{authority}", bypassed, 1)
        assert isinstance(intake.deliver(KIND, {}, b"body"), Delivered)
    assert asked == []
