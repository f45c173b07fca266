"""The address of a bound socket, as a URL that trainers can use."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

# Addresses for documentation (RFC 5737, RFC 3849): the kernel selects the route to them, and nothing is sent.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_ANY_PORT = 9


def address_of(bound: socket.socket, allowed_hosts: Sequence[str] = ()) -> str:
    """The URL of a bound socket; of one on all interfaces, the URL at which other machines reach this one.

    allowed_hosts: the names that the service accepts; with names, only these are usable.
    """
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        named = (name for name in allowed_hosts if not name.startswith("*."))
        host = next(named, None) or _own_address(_families(bound)) or socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _families(bound: socket.socket) -> Iterable[socket.AddressFamily]:
    """The families of the clients that the socket accepts, the one that is easier to type first."""
    if bound.family == socket.AF_INET:
        return (socket.AF_INET,)
    only_ipv6 = bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return (socket.AF_INET6,) if only_ipv6 else (socket.AF_INET, socket.AF_INET6)


def _own_address(families: Iterable[socket.AddressFamily]) -> str | None:
    """The address from which this machine reaches others; None without a route to them."""
    for family in families:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as unused:
                # Of a datagram socket this sends no packet: the kernel selects the source address.
                unused.connect((_ELSEWHERE[family], _ANY_PORT))
                found = str(unused.getsockname()[0])
        except OSError:
            continue
        if not ipaddress.ip_address(found).is_link_local:
            return found
    return None
