"""forward.proxy: who goes around the proxy."""

from __future__ import annotations

import pytest

from mini_agent.forward.proxy import bypasses


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "expected"),
    [
        ("trace.agent.datadoghq.com", 443, "datadoghq.com", True),
        ("trace.agent.datadoghq.com", 443, ".datadoghq.com", True),
        ("trace.agent.datadoghq.com", 443, "*.datadoghq.com", True),
        ("trace.agent.datadoghq.com", 443, "hq.com", False),
        ("trace.agent.datadoghq.com", 443, "datadoghq.eu", False),
        ("TRACE.example.com", 443, "trace.Example.com", True),
        ("example.com", 443, "example.com:443", True),
        ("example.com", 8443, "example.com:443", False),
        ("example.com", 443, "*", True),
        ("example.com", 443, "", False),
        ("example.com", 443, "  , ,", False),
        ("10.1.2.3", 443, "10.0.0.0/8", True),
        ("11.1.2.3", 443, "10.0.0.0/8", False),
        ("10.1.2.3", 443, "10.1.2.3", True),
        ("10.1.2.3", 80, "10.1.2.3:443", False),
        ("10.1.2.3", 443, "nonsense/99", False),
        ("::1", 443, "::1", True),
        ("::1", 443, "[::1]:443", True),
        ("::1", 443, "[::1]:80", False),
        ("2001:db8::7", 443, "2001:db8::/32", True),
        ("example.com", 443, "10.0.0.0/8", False),
    ],
)
def test_no_proxy_items(host: str, port: int, no_proxy: str, expected: bool) -> None:
    assert bypasses(host, port, no_proxy.split(",")) is expected
