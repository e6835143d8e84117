from __future__ import annotations

import pytest

from mini_agent.listen.judge import judge, split_target
from mini_agent.wire.http import Response, Route

TAKES = Route(lambda _: Response(200), frozenset({"POST"}), takes_body=True)
SHOWS = Route(lambda _: Response(200), frozenset({"GET"}), takes_body=False)
CHUNKED = {"transfer-encoding": "Chunked"}


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b?c", ("/a", "b?c")),
        (b"http://host/a/b?c", ("/a/b", "c")),
        (b"http://host", ("/", "")),
        (b"/a://b", ("/a://b", "")),
    ],
)
def test_a_target_is_a_path_and_a_query(target: bytes, parts: tuple[str, str]) -> None:
    assert split_target(target) == parts


@pytest.mark.parametrize(
    ("method", "version", "headers", "length", "route", "status"),
    [
        ("POST", "1.1", {}, 10, TAKES, None),
        ("POST", "1.0", CHUNKED, None, TAKES, None),
        ("HEAD", "1.1", {}, None, SHOWS, None),
        ("POST", "1.0", {"expect": "a miracle"}, 10, TAKES, None),
        ("POST", "1.1", {"expect": "a miracle"}, 10, TAKES, 417),
        ("POST", "2.0", {}, 10, TAKES, 505),
        ("POST", "1.1", {"transfer-encoding": "gzip"}, None, TAKES, 501),
        ("CONNECT", "1.1", {}, None, SHOWS, 405),
        ("GET", "1.1", {}, None, TAKES, 405),
        ("POST", "1.1", {}, None, TAKES, 411),
        ("POST", "1.1", {}, 11, TAKES, 413),
        ("POST", "1.1", {}, 11, None, 404),
    ],
)
def test_the_first_reason_counts(
    method: str,
    version: str,
    headers: dict[str, str],
    length: int | None,
    route: Route | None,
    status: int | None,
) -> None:
    refusal = judge(method, version, headers, length, route, body_bytes_max=10)
    assert (refusal and refusal.status) == status
