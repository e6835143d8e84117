from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_agent.traces.obfuscate.ip import quantize_peer_ips


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("", ""),
        ("foo.dog", "foo.dog"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("169.254.169.254", "169.254.169.254"),
        ("169.254.170.2", "169.254.170.2"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("[::1]:80", "[::1]:80"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("10.0.0.7", "blocked-ip-address"),
        ("10.0.0.7:9042", "blocked-ip-address:9042"),
        ("10_0_0_7", "blocked-ip-address"),
        ("10-0-0-7.node.local", "blocked-ip-address.node.local"),
        ("10-0-0-7-node", "blocked-ip-address-node"),
        ("10.0.0.7.1.2.3", "blocked-ip-address.1.2.3"),
        ("10.0.0.7x", "blocked-ip-address" + "x"),
        ("10.0-0.7", "10.0-0.7"),
        ("10.0.0.256", "10.0.0.256"),
        ("10.0.0.01", "10.0.0.01"),
        ("10.0.0.1000", "10.0.0.1000"),
        ("10.0.0.", "10.0.0."),
        ("10..0.7", "10..0.7"),
        (".10.0.0.7", ".10.0.0.7"),
        ("1-2-3-999", "1-2-3-999"),
        ("1-2-node", "1-2-node"),
        ("12345", "12345"),
        ("2001:db8::1", "blocked-ip-address"),
        ("2001:db8::1-x", "2001:db8::1-x"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("[2001:db8::1]:443", "blocked-ip-address:443"),
        ("[10.0.0.7]:443", "[10.0.0.7]:443"),
        ("1[2001:db8::1]", "1[2001:db8::1]"),
        ("[2001:db8::1", "[2001:db8::1"),
        ("::ffff:10.0.0.7", "blocked-ip-address"),
        ("1:2:3:4:5:6:7::", "blocked-ip-address"),
        ("1:2:3:4:5:6:7::8", "1:2:3:4:5:6:7::8"),
        ("ip-10-152-4-129.ec2.internal", "ip-blocked-ip-address.ec2.internal"),
        ("http://10.0.0.7:80", "http://blocked-ip-address:80"),
        ("dnspoll:///10.0.0.7", "dnspoll:///blocked-ip-address"),
        ("https:10.0.0.7", "https:10.0.0.7"),
        ("redis://10.0.0.7", "redis://10.0.0.7"),
        ("10.0.0.7:53,10.0.0.8:53,a.b,a.b", "blocked-ip-address:53,a.b"),
        ("a,,b,", "a,,b"),
        ("\u0661\u0660.0.0.7", "\u0661\u0660.0.0.7"),
    ],
)
def test_addresses_of_peers_become_one_word(hosts: str, expected: str) -> None:
    assert quantize_peer_ips(hosts) == expected


@given(st.ip_addresses())
def test_every_other_address_is_recognised(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    kept = {"127.0.0.1", "::1", "169.254.169.254", "fd00:ec2::254", "169.254.170.2"}
    expected = str(address) if str(address) in kept else "blocked-ip-address"
    assert quantize_peer_ips(str(address)) == expected


@given(st.text("0123456789abcdefF:.[]-_,x", max_size=60))
def test_quantizing_twice_changes_nothing(text: str) -> None:
    once = quantize_peer_ips(text)
    assert quantize_peer_ips(once) == once


@given(st.text("0123456789abF:.", max_size=30))
def test_an_address_is_what_the_standard_library_says(text: str) -> None:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return
    assert quantize_peer_ips(text) in {"blocked-ip-address", "::1", text}
    assert (quantize_peer_ips(text) == "blocked-ip-address") or text in {"::1", "fd00:ec2::254"}
