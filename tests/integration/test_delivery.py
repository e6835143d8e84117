"""Delivery by the whole agent: what the intake is sent, and what its answers lead to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.agent import AgentProcess
from kit.intake import TRACES, Answer, Intake, refuse_above, refuse_until_key
from kit.loopback import WAIT_S_MAX
from kit.payloads import encode, make_span, make_traces, span_ids
from kit.waiting import until

Start = Callable[..., AgentProcess]


def send(agent: AgentProcess, traces: int = 2, spans_each: int = 3, **headers: str) -> set[int]:
    """Send traces; their span ids, once the agent has said yes."""
    made = make_traces(traces, spans_each)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, answer = agent.send(encode(made), headers=named)
    assert (status, answer) == (200, b'{"rate_by_service":{"service:,env:":1}}')
    return span_ids(made)


def stop(agent: AgentProcess) -> str:
    agent.terminate()
    agent.wait()
    return agent.final_report()


def test_the_intake_is_sent_what_the_reference_sends(intake: Intake, agent: Start) -> None:
    with agent({"DD_API_KEY": "the-key", "DD_EXTERNAL_ENV": "it-false"}) as running:
        ids = send(
            running,
            Datadog_Meta_Lang="python",
            Datadog_Meta_Lang_Version="3.11",
            Datadog_Meta_Tracer_Version="4.16.0",
            Datadog_Client_Computed_Top_Level="yes",
            Datadog_Client_Dropped_P0_Traces="3",
        )
        intake.wait_for(lambda: ids <= intake.ids)
    (arrival,) = intake.arrivals
    assert (arrival.method, arrival.path) == ("POST", TRACES)
    headers = arrival.headers
    assert headers["dd-api-key"] == "the-key"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "zstd"
    assert headers["datadog-send-real-http-status"] == "1"
    assert headers["datadog-external-env"] == "it-false"
    assert headers["datadog-meta-lang"] == "python"
    assert headers["datadog-meta-tracer-version"] == "4.16.0"
    assert headers["datadog-client-computed-top-level"] == "true"
    assert headers["datadog-client-dropped-p0-traces"] == "3"
    assert int(headers["content-length"]) == arrival.wire_bytes < arrival.body_bytes
    assert (arrival.payload.targetTPS, arrival.payload.errorTPS) == (60.0, 60.0)
    (payload,) = arrival.payload.tracerPayloads
    assert (payload.languageName, payload.languageVersion) == ("python", "3.11")


def test_a_connection_to_the_intake_is_used_again(intake: Intake, agent: Start) -> None:
    with agent() as running:
        for _ in range(3):
            ids = send(running)
            intake.wait_for(lambda wanted=ids: wanted <= intake.ids)
    assert len(intake.arrivals) == 3
    assert intake.connection_count == 1


def test_retry_after_is_obeyed(intake: Intake, agent: Start) -> None:
    intake.answer_next([Answer(429, {"Retry-After": "1"})])
    with agent() as running:
        ids = send(running)
        intake.wait_for(lambda: ids <= intake.ids)
    first, second = intake.arrivals
    assert second.arrived_steady_s - first.arrived_steady_s >= 1.0


@pytest.mark.parametrize("status", [400, 404])
def test_what_would_fail_again_is_dropped_with_a_count(
    intake: Intake, agent: Start, status: int
) -> None:
    intake.answer_next([status])
    with agent() as running:
        send(running)
        intake.wait_for(lambda: len(intake.arrivals) == 1)
        ids = send(running)
        intake.wait_for(lambda: ids <= intake.ids)
        report = stop(running)
        assert f"dropped=6(refused_{status}:6)" in report
        assert report.endswith("; balanced")
        assert running.wait() == 3


def test_a_refused_key_loses_nothing_and_a_restart_with_the_right_one_delivers(
    intake: Intake, agent: Start
) -> None:
    intake.answer_always(refuse_until_key("the-right-one"))
    with agent({"DD_API_KEY": "mistyped"}) as running:
        ids = send(running)
        intake.wait_for(lambda: intake.arrivals)
        assert "waiting=6 dropped=0" in stop(running)
        assert running.wait() == 0
    with agent({"DD_API_KEY": "the-right-one"}) as running:
        intake.wait_for(lambda: ids <= intake.ids)
        assert "adopted=6 accepted=0 delivered=6 waiting=0" in stop(running)


def test_another_accounts_leftovers_are_left_alone(intake: Intake, agent: Start) -> None:
    intake.answer_always(503)
    with agent({"DD_API_KEY": "one"}) as running:
        send(running)
        stop(running)
    intake.answer_always(202)
    with agent({"DD_API_KEY": "another"}) as running:
        ids = send(running, traces=1, spans_each=1)
        intake.wait_for(lambda: ids <= intake.ids)
        stop(running)
    assert intake.ids == ids


def test_an_intake_that_takes_less_gets_less_at_once(intake: Intake, agent: Start) -> None:
    intake.answer_always(503)
    with agent({"MINI_AGENT_FLUSH_INTERVAL_S": "60"}) as running:
        ids = set()
        for _ in range(8):
            ids |= send(running, traces=5, spans_each=10)
        intake.answer_always(refuse_above(80_000))
        report = stop(running)
    assert ids == intake.ids
    assert f"delivered={len(ids)} waiting=0 dropped=0" in report


def test_a_request_larger_than_the_intakes_limit_is_divided(intake: Intake, agent: Start) -> None:
    with agent() as running:
        # One trace of 9 MB, larger than any batch, and 4 MB of small ones.
        long = [make_span(trace_id=7, meta={"long": "x" * 24_000}) for _ in range(400)]
        made = [long, *make_traces(100, 10, resource="y" * 4_000)]
        status, _ = running.send(encode(made))
        assert status == 200
        ids = span_ids(made)
        intake.wait_for(lambda: ids <= intake.ids)
        report = stop(running)
    assert max(arrival.body_bytes for arrival in intake.arrivals) <= 3_200_000
    assert set(intake.id_counts.values()) == {1}
    assert report.endswith("; balanced")


def test_a_lone_giant_span_blocks_nobody(intake: Intake, agent: Start) -> None:
    intake.answer_always(refuse_above(3_200_000))
    with agent() as running:
        giant = [[make_span(meta_struct={"appsec": b"x" * 5_000_000})]]
        assert running.send(encode(giant))[0] == 200
        ids = send(running)
        intake.wait_for(lambda: ids <= intake.ids)
        report = stop(running)
    assert "dropped=1(refused_413:1)" in report
    assert report.endswith("; balanced")


@contextlib.contextmanager
def corporate_proxy(folder: Path) -> Iterator[str]:
    """A real HTTP proxy that asks for a password; its address."""
    port_file = folder / "port"
    command = [
        *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0"),
        *("--port-file", str(port_file), "--basic-auth", "worker:pass word"),
        *("--num-workers", "1", "--num-acceptors", "1", "--log-level", "INFO"),
    ]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        until(lambda: port_file.exists() and port_file.read_text().strip())
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        child.terminate()
        child.wait(WAIT_S_MAX)


def test_delivery_through_a_proxy_with_a_password(agent: Start, tmp_path: Path) -> None:
    with Intake(tls=True) as intake, corporate_proxy(tmp_path) as address:
        settings = {
            "DD_APM_DD_URL": intake.url,
            "SSL_CERT_FILE": str(intake.write_certificates(tmp_path / "ca.pem")),
            "DD_PROXY_HTTPS": f"http://worker:pass%20word@{address}",
        }
        with agent(settings) as running:
            ids = send(running)
            intake.wait_for(lambda: ids <= intake.ids)
            stop(running)
        # The same proxy without its password takes nobody through.
        with agent({**settings, "DD_PROXY_HTTPS": f"http://{address}"}) as running:
            send(running)
            running.wait_line(lambda line: "delivery failed (network)" in line)
            assert "waiting=6 dropped=0" in stop(running)
        # NO_PROXY goes around it, and delivers what was left.
        bypass = {**settings, "DD_PROXY_HTTPS": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.0/8"}
        with agent(bypass) as running:
            ids |= send(running)
            intake.wait_for(lambda: ids <= intake.ids)
            assert "adopted=6" in stop(running)


def test_an_intake_with_a_false_certificate_gets_nothing(agent: Start) -> None:
    with Intake(tls=True) as intake, agent({"DD_APM_DD_URL": intake.url}) as running:
        send(running)
        running.wait_line(lambda line: "delivery failed (network)" in line)
        assert "waiting=6 dropped=0" in stop(running)
        assert intake.arrivals == []
