"""Keep-alive connections in a closed loop, where each sends its next request when it has its last reply,
or in an open one, where requests are sent at a rate, whatever has become of those before them.

Nothing here parses HTTP beyond the length of a reply, and requests come as bytes that are ready to be sent:
the generator has to be faster than what it measures, and `benchmarks.passthru` prints by how much it is.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

OK: Final = b"HTTP/1.1 200 "
_LENGTH: Final = b"Content-Length: "


class UnexpectedReply(Exception):
    """What was measured is not what was meant; the message is the beginning of the reply."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run took. Latencies are sorted, from the write of a request to the last byte of its reply."""

    latencies_ns: list[int]
    elapsed_s: float

    @property
    def requests(self) -> int:
        return len(self.latencies_ns)

    @property
    def per_second(self) -> float:
        return self.requests / self.elapsed_s


async def drive(
    address: tuple[str, int],
    connections: int,
    requests: Iterator[bytes],
    seconds: float | None,
    *,
    ending: bytes = b"",
) -> Load:
    """Send `requests` until they end, or for `seconds`. Each reply must be a 200 that ends with `ending`.

    Raises UnexpectedReply, OSError.
    """
    loop = asyncio.get_running_loop()
    run = _Run(requests, ending)
    clients: list[_Client] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(run, loop.create_future()), *address)
        clients.append(client)
    # Collections of the harness are no latency of the server.
    gc.collect()
    gc.disable()
    try:
        started_ns = time.perf_counter_ns()
        if seconds is not None:
            run.ends_at_ns = started_ns + int(seconds * 1e9)
        for client in clients:
            client.send_next()
        await asyncio.gather(*(client.done for client in clients))
        elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
    finally:
        gc.enable()
        for client in clients:
            client.close()
    return Load(sorted(run.latencies_ns), elapsed_s)


async def pace(
    address: tuple[str, int],
    connections: int,
    requests: Iterator[bytes],
    per_second: float,
    seconds: float,
    *,
    ending: bytes = b"",
) -> Load:
    """Send `per_second` of `requests` for `seconds`. A request that finds all connections busy waits, and its
    latency counts from then. Raises UnexpectedReply, OSError.
    """
    loop = asyncio.get_running_loop()
    run = _PacedRun(requests, ending)
    clients: list[_PacedClient] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _PacedClient(run, loop.create_future()), *address)
        clients.append(client)
    run.idle.extend(clients)
    gc.collect()
    gc.disable()
    try:
        started_ns = time.perf_counter_ns()
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(run.send(per_second, seconds))
            await asyncio.wait({sending, *(client.done for client in clients)}, return_when="FIRST_COMPLETED")
            if not sending.done():
                sending.cancel()
        for client in clients:
            if client.done.done():
                client.done.result()
        elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
    finally:
        gc.enable()
        for client in clients:
            client.done.cancel()
            client.close()
    return Load(sorted(run.latencies_ns), elapsed_s)


class _Run:
    """What the connections of one run share."""

    def __init__(self, requests: Iterator[bytes], ending: bytes) -> None:
        self.requests = requests
        self.ending = ending
        self.ends_at_ns = 2**63
        self.latencies_ns: list[int] = []


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run, done: asyncio.Future[None]) -> None:
        self._run = run
        self.done = done
        self._received = b""
        self._sent_at_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of a WriteTransport, and are none by their class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def send_next(self) -> None:
        request = next(self._run.requests, None)
        if request is None:
            self.done.set_result(None)
            return
        self._sent_at_ns = time.perf_counter_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        body_at = data.find(b"\r\n\r\n") + 4
        length_at = data.find(_LENGTH) + len(_LENGTH)
        if body_at < 4 or len(data) < body_at + int(data[length_at : data.find(b"\r", length_at)]):
            self._received = data
            return
        received_at_ns = time.perf_counter_ns()
        self._received = b""
        run = self._run
        if not (data.startswith(OK) and data.endswith(run.ending)):
            self.done.set_exception(UnexpectedReply(data[:400].decode("latin-1")))
            return
        run.latencies_ns.append(received_at_ns - self._sent_at_ns)
        if received_at_ns < run.ends_at_ns:
            self.send_next()
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()


class _PacedRun(_Run):
    def __init__(self, requests: Iterator[bytes], ending: bytes) -> None:
        super().__init__(requests, ending)
        self.idle: list[_PacedClient] = []
        # When each request came that no connection was free for.
        self.waiting: deque[int] = deque()

    async def send(self, per_second: float, seconds: float) -> None:
        count = int(per_second * seconds)
        started_ns = time.perf_counter_ns()
        for n in range(count):
            ahead_s = n / per_second - (time.perf_counter_ns() - started_ns) / 1e9
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            self.waiting.append(time.perf_counter_ns())
            if self.idle:
                self.idle.pop().send_next()
        while len(self.latencies_ns) < count:  # noqa: ASYNC110 - no reply should pay for telling.
            await asyncio.sleep(0.01)


class _PacedClient(_Client):
    _run: _PacedRun

    def send_next(self) -> None:
        if not self._run.waiting:
            self._run.idle.append(self)
            return
        self._sent_at_ns = self._run.waiting.popleft()
        self._transport.write(next(self._run.requests))
