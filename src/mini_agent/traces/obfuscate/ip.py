"""Addresses in peer tags become one word, so that stats do not count each host apart.

Source: reference-agent 5.9.
"""

from __future__ import annotations

_BLOCKED = "blocked-ip-address"

# The loopback, and where clouds offer metadata: the same for everybody.
_KEPT = frozenset({"127.0.0.1", "::1", "169.254.169.254", "fd00:ec2::254", "169.254.170.2"})

_PREFIXES = tuple(
    scheme + slashes
    for scheme in ("dnspoll:", "ftp:", "file:", "http:", "https:")
    for slashes in ("///", "//")
)
_DIGITS = frozenset("0123456789")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_GROUPS = 8


def quantize_peer_ips(text: str) -> str:
    """Replace the addresses in a list of hosts divided by commas, and drop what then repeats."""
    hosts = text.split(",")
    return ",".join(dict.fromkeys(map(_quantize, hosts)))


def _quantize(host: str) -> str:
    prefix = _prefix_of(host)
    rest = host[len(prefix) :]
    address_length = 0
    for character in rest:
        if character in _DIGITS:
            continue
        if character in ".-_":
            address_length = _measure_ipv4(rest, character)
            address = rest[:address_length]
        elif character == "[":
            return prefix + _quantize_bracketed(rest)
        elif (character == ":" or character in _HEX_DIGITS) and is_ipv6(rest):
            address_length = len(rest)
            address = rest
        break
    if not address_length or address in _KEPT:
        return host
    return prefix + _BLOCKED + rest[address_length:]


def _prefix_of(host: str) -> str:
    if host.startswith("ip-"):
        return "ip-"
    return next((prefix for prefix in _PREFIXES if host.startswith(prefix)), "")


def _quantize_bracketed(text: str) -> str:
    """Replace `[address]` and its brackets; what follows them stays."""
    address, bracket, suffix = text[1:].partition("]")
    if text[0] != "[" or not bracket or address in _KEPT or not is_ipv6(address):
        return text
    return _BLOCKED + suffix


def _measure_ipv4(text: str, separator: str) -> int:
    """The length of the address the text begins with, or 0."""
    position = 0
    for field in range(4):
        if field:
            if text[position : position + 1] != separator:
                return 0
            position += 1
        start = position
        while text[position : position + 1] in _DIGITS:
            position += 1
            # Four digits never fit, which also bounds this loop.
            if position - start > 3:
                return 0
        if not _is_octet(text[start:position]):
            return 0
    return position


def _is_octet(digits: str) -> bool:
    if not digits or len(digits) > 3 or not _DIGITS.issuperset(digits):
        return False
    return int(digits) <= 255 and (digits == "0" or digits[0] != "0")


def is_ipv6(text: str) -> bool:
    """Whether a text is an IPv6 address, without a zone."""
    head, gap, tail = text.partition("::")
    if not gap:
        return _count_groups(head, may_end_in_ipv4=True) == _GROUPS
    head_count = _count_groups(head, may_end_in_ipv4=False) if head else 0
    tail_count = _count_groups(tail, may_end_in_ipv4=True) if tail else 0
    # The gap stands for one group at least.
    return min(head_count, tail_count) >= 0 and head_count + tail_count < _GROUPS


def _count_groups(text: str, may_end_in_ipv4: bool) -> int:
    """How many groups of 16 bits the text has; -1 if it is none."""
    groups = text.split(":")
    count = len(groups)
    if may_end_in_ipv4 and "." in groups[-1]:
        octets = groups.pop().split(".")
        if len(octets) != 4 or not all(map(_is_octet, octets)):
            return -1
        count += 1
    for group in groups:
        if not 1 <= len(group) <= 4 or not _HEX_DIGITS.issuperset(group):
            return -1
    return count
