from __future__ import annotations

import time

import pytest
from kit.loopback import WAIT_S_MAX
from kit.metadata import DOCUMENT, MetadataServer
from kit.ports import find_tcp_port

from mini_agent import metadata


@pytest.fixture
def patient(monkeypatch):
    """Time for answers on a busy machine, and none between attempts."""
    monkeypatch.setattr(metadata, "ATTEMPT_S_MAX", WAIT_S_MAX)
    monkeypatch.setattr(metadata, "PAUSE_S", 0)


@pytest.mark.usefixtures("patient")
def test_region_and_project_come_from_the_server():
    with MetadataServer() as server:
        place = metadata.ask(server.host)
    assert (place.region, place.project) == ("us-east1", "shop")
    assert place.warnings == ()
    assert server.requests == [("GET", "/computeMetadata/v1/?recursive=true")]


@pytest.mark.usefixtures("patient")
def test_a_quick_failure_gets_a_second_attempt():
    with MetadataServer() as server:
        server.drop_first(1)
        place = metadata.ask(server.host)
    assert (place.region, place.warnings) == ("us-east1", ())
    assert len(server.requests) == 2


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (500, b"", "status 500"),
        (302, b"{}", "status 302"),
        (200, b"<html>", "not JSON"),
        (200, b"[" * 100_000, "not JSON"),
        (200, b"\xff", "not JSON"),
    ],
)
def test_an_answer_that_is_no_metadata_leaves_both_unknown(status, body, complaint):
    with MetadataServer() as server:
        server.answer(status, body)
        place = metadata.ask(server.host)
    assert (place.region, place.project) == ("unknown", "unknown")
    (warning,) = place.warnings
    assert complaint in warning
    assert len(server.requests) == metadata.ATTEMPTS


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("document", "region", "project"),
    [
        ({**DOCUMENT, "instance": {}}, "unknown", "shop"),
        ({**DOCUMENT, "instance": {"region": "us-east1"}}, "unknown", "shop"),
        ({**DOCUMENT, "instance": "odd"}, "unknown", "shop"),
        ({**DOCUMENT, "project": {"projectId": 7}}, "us-east1", "unknown"),
        ([], "unknown", "unknown"),
    ],
)
def test_what_the_server_does_not_say_is_unknown_and_warned_about(document, region, project):
    with MetadataServer(document) as server:
        place = metadata.ask(server.host)
    assert (place.region, place.project) == (region, project)
    assert len(place.warnings) == (region, project).count("unknown")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("host", ["127.0.0.1:{}", "127.0.0.1:port", "127.0.0.1:{}/\r\n"])
def test_nobody_there_is_a_warning(host):
    place = metadata.ask(host.format(find_tcp_port()))
    assert place.region == "unknown"
    assert "cannot be asked" in place.warnings[0]


def test_a_silent_server_holds_the_start_up_for_one_attempt():
    with MetadataServer() as server:
        server.keep_silent()
        started_s = time.monotonic()
        place = metadata.ask(server.host)
        took_s = time.monotonic() - started_s
    assert place.warnings == (
        f"region and project unknown: {server.host} did not answer within 100 ms",
    )
    # Generous for a busy machine; two attempts and the pause would still fit.
    assert 0.09 < took_s < 1
    assert len(server.requests) <= 1
