"""What a request is called: the same id in its answer, in the log, in the records that it wrote and at the
deliveries of the events that it brought about.

Good, where a trusted proxy says it: `4bf92f3577b34da6a3ce929d0e0e4736`, `Root=1-67891233-abcdef01`.
Bad: `+919800000021` (so short that it may be a number), `a b`, anything from whom nobody trusts.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import count
from typing import Final

import structlog
from aiohttp import web

HEADER: Final = "X-Request-Id"
# Longer than any telephone number, and no longer than what the makers of such ids are content with.
_GIVEN: Final = re.compile(r"[A-Za-z0-9._~+/=:-]{16,64}", re.ASCII)
# A proxy has some addresses; 1,000 clients without one are remembered as well.
_PEERS_REMEMBERED: Final = 1_000

# An id takes 0.2 µs: random for each process, counted within it. Nothing is kept secret by it.
_PROCESS: Final = secrets.token_hex(8)
_COUNT: Final = count()

_OWN: Final = web.RequestKey("request_id", str)

Trusts = Callable[[str], bool]
"""Whether the address that a connection comes from is a proxy's whose request ids are taken over."""


def new_request_id() -> str:
    """32 hexadecimal digits, as the vendor's have."""
    return f"{_PROCESS}{next(_COUNT):016x}"


def given_request_id(text: str) -> str | None:
    """The id that a trusted proxy said, if it is one."""
    return text if _GIVEN.fullmatch(text) else None


def trusts_of(networks: Sequence[str]) -> Trusts:
    """For the setting `trusted_proxies`: addresses and networks."""
    trusted = [ip_network(network, strict=False) for network in networks]

    @lru_cache(maxsize=_PEERS_REMEMBERED)
    def trusts(address: str) -> bool:
        peer = ip_address(address)
        # Where both versions are listened on, version 4 comes as a part of version 6.
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return any(peer in network for network in trusted)

    return trusts


def request_id_of(request: web.BaseRequest) -> str:
    """The request's id, from whichever of its lines is logged first to the header of its answer."""
    request_id = request.get(_OWN)
    if request_id is None:
        connection = request.transport and request.transport.get_protocol()
        given = None
        if getattr(connection, "is_trusted", False):
            given = given_request_id(request.headers.get(HEADER, ""))
        request_id = request[_OWN] = given or new_request_id()
    return request_id


async def say_request_id(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Put it on every answer that aiohttp prepares; the applets' replies say it themselves."""
    response.headers[HEADER] = request_id_of(request)


@contextmanager
def logged_as(request_id: str) -> Iterator[None]:
    """Within it, every log line of the task bears the id."""
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        yield
