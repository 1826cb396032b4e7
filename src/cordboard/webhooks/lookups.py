"""Looks up what the names of subscribers resolve to, where a name that hangs is in nobody else's way.

The resolver of the C library blocks its thread for as long as the name servers of a domain take: with three
of them and the defaults of resolv.conf for half a minute, far beyond the budget of an attempt. So each
lookup has a thread of its own, and neither those of the event loop nor those of its default executor. A host
has one at a time, and whoever wants to know waits for the same one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

# One for each attempt that may be under way (sender.py): as many hosts as may hang before another waits. Each
# is a thread that sleeps, some 50 kB.
LOOKUPS_MAX: Final = 128

_IS_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Address(NamedTuple):
    family: socket.AddressFamily
    protocol: int
    # In digits, with its scope if it has one.
    host: str


Lookup = Callable[[str, socket.AddressFamily], Sequence[Address]]


def addresses_of(host: str, family: socket.AddressFamily) -> list[Address]:
    """Ask the resolver of the system, and wait. Raises OSError; ValueError for what can be no name."""
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    as_digits = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [
        Address(family, protocol, socket.getnameinfo(address, as_digits)[0])
        for family, _, protocol, _, address in found
    ]


class Lookups(AbstractResolver):
    """For the connectors of one event loop."""

    def __init__(self, lookup: Lookup = addresses_of) -> None:
        self._lookup = lookup
        # What became of it, as a value: nobody may be left to hear of an error.
        self._under_way: dict[
            tuple[str, socket.AddressFamily], asyncio.Future[Sequence[Address] | Exception]
        ] = {}
        self._room = asyncio.Semaphore(LOOKUPS_MAX)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError; ValueError for what can be no name."""
        while (lookup := self._under_way.get((host, family))) is None:
            await self._room.acquire()
            # Somebody else may have begun it meanwhile.
            if (host, family) in self._under_way:
                self._room.release()
            else:
                self._begin(host, family)
        # Who gives up leaves it to the others.
        found = await asyncio.shield(lookup)
        if isinstance(found, Exception):
            raise found
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=port,
                family=address.family,
                proto=address.protocol,
                flags=_IS_NUMERIC,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing to do: a lookup ends by itself, and nobody waits for it."""

    def _begin(self, host: str, family: socket.AddressFamily) -> None:
        loop = asyncio.get_running_loop()
        # No executor: its threads are waited for when the engine stops, and nothing ends a lookup that hangs.
        thread = Thread(target=self._look_up, args=(loop, host, family), name="lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._room.release()
            raise OSError("no thread for a lookup") from error
        self._under_way[host, family] = loop.create_future()

    def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, family: socket.AddressFamily) -> None:
        """In a thread of its own."""
        found: Sequence[Address] | Exception
        try:
            found = self._lookup(host, family)
        except (OSError, ValueError) as error:
            found = error
        # The loop may be closed by now: then nobody wants to know.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, host, family, found)

    def _end(self, host: str, family: socket.AddressFamily, found: Sequence[Address] | Exception) -> None:
        self._room.release()
        self._under_way.pop((host, family)).set_result(found)
