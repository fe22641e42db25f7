"""Which addresses the service may call on a user's word: public ones, and what the operator allows.

A name is resolved once, every address it has is checked, and the connection goes to one that was
checked: a name that answers otherwise a moment later gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARACTERS = 2000
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Python calls them global: local NAT64, translated and compatible IPv4, segment routing, the old
# 6to4 relays, and the host of Azure's machines.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b:1::/48",
        "::ffff:0:0:0/96",
        "::/96",
        "5f00::/16",
        "192.88.99.0/24",
        "168.63.129.16/32",
    )
)
_LOW_32_BITS = 2**32 - 1


class RefusedAddressError(Exception):
    """The service does not call this address; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes."""

    url: SplitResult
    host: str
    port: int
    address: str
    """Checked; the connection is made to it, whatever the name says by then."""


def check_url(url: str, allowed: Sequence[Network]) -> Target:
    """Resolve a URL's host and check every address that it has.

    Args:
        url: http or https, without user and password.
        allowed: networks that may be called although they are not public.

    Raises:
        RefusedAddressError: it is no such URL, has no address, or one that may not be called.
    """
    parts, host, port = _parts(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefusedAddressError(f"the host {host[:100]!a} has no address") from None
    addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
    for address in addresses:
        if not is_allowed(address, allowed):
            raise RefusedAddressError(
                # Not which address: that would tell strangers about the operator's network.
                f"the host {host[:100]!a} is at an address that is not public; the operator "
                "allows further networks with MOMENTUM_WEBHOOK_NETWORKS"
            )
    return Target(parts, host, port, str(addresses[0]))


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Return whether an address may be called; what it carries inside counts, too."""
    inner = _embedded(address)
    if any(one in network for network in allowed for one in (address, inner)):
        return True
    return all(map(_is_public, (address, inner)))


def _is_public(address: Address) -> bool:
    # Python calls site-local addresses global; they were private before there was fc00::/7.
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not is_site_local


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one leads to, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LOW_32_BITS)
    return address


def _parts(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RefusedAddressError("it is no URL; send https://host/path") from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _PORTS or not host or not is_plain or len(url) > MAX_URL_CHARACTERS:
        raise RefusedAddressError(
            f"it is not of the form https://host/path, of at most {MAX_URL_CHARACTERS} characters"
        )
    if parts.username is not None or parts.password is not None:
        raise RefusedAddressError("it has a user or a password in it; leave them out")
    return parts, host, port or _PORTS[parts.scheme]
