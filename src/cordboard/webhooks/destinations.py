"""Where events may go: on the internet, by http or https, to listed ports, and wherever the operator opened.

An endpoint is checked when it is set (`Destinations.fault_of`), for an answer that says what is wrong, and
again when connecting (`Destinations.socket_for`), which is what holds: there the very address that is
dialled is looked at, so neither a name that resolves to the inside, nor one that resolves to something else
the second time, nor another spelling of an address gets past.

Good: `https://user:secret@example.com/events`, `http://203.0.114.7:8080/`.
Bad: `ftp://example.com/`, `http://127.0.0.1/`, `http://0x7f000001/`, `http://[::ffff:10.0.0.1]/`,
`http://169.254.169.254/`, `https://example.com:22/`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final, NamedTuple

import aiohttp
from yarl import URL

from cordboard.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The web's own, and what it is tried out on.
DEFAULT_PORTS: Final = frozenset((80, 443, 8080, 8443))

# What `is_global` calls global although nobody's subscriber is there, or although somebody else's network is
# behind it (scale.md D.1).
_ALSO_INSIDE: Final = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments, 192.0.0.8 and .9 among them
        "192.88.99.0/24",  # relays from 6to4
        "168.63.129.16/32",  # a cloud's own services, on a public address
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/96",  # IPv4 inside of IPv6, as it once was
        "64:ff9b::/96",  # IPv4 behind NAT64
        "64:ff9b:1::/48",  # likewise, locally
        "2001::/32",  # Teredo: IPv4 inside
        "2002::/16",  # 6to4: IPv4 inside
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local, as it once was
        "ff00::/8",  # multicast
    )
)

_LOOPBACKS: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class Endpoint(NamedTuple):
    """Where to send to, without the userinfo that its address may have had."""

    url: URL
    authorization: str | None
    # Host and port: what answers, or does not, as one.
    host: str


class ForbiddenAddress(OSError):
    """Raised by the socket factory. Always with the same text, or the connector would blend several of them
    into an error of another class."""

    def __init__(self) -> None:
        super().__init__("events may not go there")


def parse_endpoint(text: str) -> Endpoint | None:
    """`https://user:secret@example.com/events` as address and Basic authorization; None for no address."""
    try:
        url = URL(text.strip())
        if url.scheme not in ("http", "https") or not url.host:
            return None
        authorization = None
        if url.user is not None or url.password is not None:
            authorization = aiohttp.encode_basic_auth(url.user or "", url.password or "", "utf-8")
        return Endpoint(url.with_user(None).with_fragment(None), authorization, f"{url.host}:{url.port}")
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether it is some host on the internet."""
    bare = _bare(address)
    return bare.is_global and not any(bare in network for network in _ALSO_INSIDE)


@dataclass(frozen=True, slots=True)
class Destinations:
    """What the operator allows: by default nothing but listed ports of public addresses."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = DEFAULT_PORTS

    @classmethod
    def of_settings(cls, settings: Settings) -> Destinations:
        return cls.of(settings.callback_allow, settings.callback_ports)

    @classmethod
    def of(cls, allowed: Iterable[str], ports: Iterable[int] = DEFAULT_PORTS) -> Destinations:
        """`allowed` are names, addresses or networks, opened whatever the port."""
        names, networks = set(), []
        for text in allowed:
            try:
                networks.append(ip_network(text, strict=False))
            except ValueError:
                names.add(_plain_name(text))
        return cls(frozenset(names), tuple(networks), frozenset(ports))

    def fault_of(self, text: str) -> str | None:
        """What is wrong with an endpoint as far as its text tells, in words behind its key; or None.

        Names are not looked up: what they mean tomorrow is looked at tomorrow, when connecting.
        """
        endpoint = parse_endpoint(text)
        if endpoint is None:
            return "must be an absolute http or https URL"
        host, port = _plain_name(endpoint.url.raw_host or ""), endpoint.url.port
        if host in self.names:
            return None
        addresses = _addresses_in(host)
        if any(map(self._opens, addresses)):
            return None
        if not all(map(is_public, addresses)):
            return "must not lead to a loopback, private, link-local or other address that is not public"
        if port not in self.ports:
            return f"must have one of the ports {', '.join(map(str, sorted(self.ports)))}"
        return None

    def trusts(self, url: URL) -> bool:
        """Whether the operator opened this host by its name, whatever it resolves to."""
        return _plain_name(url.raw_host or "") in self.names

    def permits(self, address: Address, port: int) -> bool:
        return self._opens(address) or (port in self.ports and is_public(address))

    def socket_for(self, info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        """A socket for the connector to dial `info` with. Raises ForbiddenAddress."""
        family, kind, protocol, _, (host, port, *_) = info
        if not self.permits(ip_address(host), port):
            raise ForbiddenAddress
        return socket.socket(family, kind, protocol)

    def _opens(self, address: Address) -> bool:
        return any(form in network for form in (address, _bare(address)) for network in self.networks)


def _bare(address: Address) -> Address:
    """The IPv4 address inside of a mapped IPv6 one; and no scope, which no network has."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _plain_name(host: str) -> str:
    return host.strip().lower().rstrip(".")


def _addresses_in(host: str) -> tuple[Address, ...]:
    """The addresses that the text itself names: in any form that a resolver reads as one, or loopback."""
    if host == "localhost" or host.endswith((".localhost", "localhost.localdomain")):
        return _LOOPBACKS
    try:
        return (ip_address(host),)
    except ValueError:
        pass
    try:
        # `127.1`, `0x7f000001`, `2130706433` and the like, which resolvers read as the C library does.
        return (IPv4Address(socket.inet_aton(host)),)
    except (OSError, ValueError):
        return ()
