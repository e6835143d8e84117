"""Which proxy, if any, a request to the intake goes through."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address


def bypasses(host: str, port: int, no_proxy: Sequence[str]) -> bool:
    """Whether a NO_PROXY list exempts a host.

    Args:
        host: Name or address of the intake, without brackets.
        no_proxy: Items as users write them: "*", "example.com" and ".example.com" (the domain
            and everything below it), "example.com:8443" (that port alone), "10.0.0.0/8",
            "192.0.2.7", "::1" or "[::1]".

    Source: the conventions of Go's httpproxy package, which the Go agent follows.
    """
    host = host.lower().rstrip(".")
    address = _address(host)
    return any(_matches(item.strip().lower(), host, port, address) for item in no_proxy)


def _matches(item: str, host: str, port: int, address: IPv4Address | IPv6Address | None) -> bool:
    if not item:
        return False
    if item == "*":
        return True
    if address is not None and "/" in item:
        import ipaddress

        try:
            return address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, item_port = _split_port(item)
    if item_port is not None and item_port != port:
        return False
    if address is not None:
        return _address(name) == address
    name = name.lstrip("*").strip(".")
    return bool(name) and (host == name or host.endswith("." + name))


def _split_port(item: str) -> tuple[str, int | None]:
    if item.startswith("["):
        name, _, rest = item[1:].partition("]")
        return name, int(rest[1:]) if rest[1:].isdigit() else None
    if item.count(":") == 1:
        name, _, text = item.partition(":")
        if text.isdigit():
            return name, int(text)
    return item, None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    # Imported here: few have a proxy.
    import ipaddress

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
