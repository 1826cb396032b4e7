"""The load generator: requests that are due by a schedule, whatever has become of those before them.

In an open loop (`Evenly`, `Poisson`) a latency counts from the moment at which a request was *due*. A request
that finds no connection free waits for one, and its waiting counts: a server that stalls for a second is late
for every request of that second. `AtOnce` is the closed loop, in which each connection sends its next request
when it has its last reply; it finds the highest rate, and its latencies count from the sending.

Why not a tool: of Debian's, wrk knows closed loops alone, and h2load and hey send at a rate and count from
the sending, so that a stall is one slow request; h2load's log has start, status and duration, but not the
connection, from which one could tell when a line was due. wrk2, oha, vegeta and k6 are no Debian packages,
and what root has to install is missing on many machines. Nor would one of them send each call with a
CallSid of its own, check every reply, and mix hops with creates at two rates over one clock.

What it costs itself is measured first (`benchmarks.floor`). It sleeps until a request is due, which wakes it
some 60 µs late, and leaves its core to PostgreSQL meanwhile; where requests are due every 200 µs, which only
those are that want no database, it waits by looking. How late it was stands beside each figure.
Nothing here parses HTTP beyond the length of a reply, and requests come as bytes that are ready to be sent.
"""

from __future__ import annotations

import asyncio
import gc
import random
import select
import socket
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

from benchmarks.cores import served_first
from benchmarks.latency import Latency, latency_of

OK: Final = b"HTTP/1.1 200"
_HEAD_ENDS: Final = b"\r\n\r\n"
# The end of `Content-Length: `, which some servers write in small letters.
_LENGTH: Final = b"ength: "
_READ_BYTES: Final = 1 << 16

SPIN_NS: Final = 200_000
# How often a stop from outside is looked at while nothing is to be done.
LOOK_S: Final = 0.2
# After the last request was due. A server that owes replies for longer was asked for more than it can do.
DRAIN_S: Final = 60.0


class UnexpectedReply(Exception):
    """What was measured is not what was meant; the message is the beginning of the reply."""


class Unanswered(Exception):
    """Replies were still missing DRAIN_S after the last request was due."""


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Each connection sends when it has its last reply."""


@dataclass(frozen=True, slots=True)
class Evenly:
    """A request every 1/`per_second` s."""

    per_second: float


@dataclass(frozen=True, slots=True)
class Poisson:
    """Arrivals that know nothing of each other, as calls do: now two at once, now none for a while."""

    per_second: float
    seed: int = 2026


Arrivals: TypeAlias = AtOnce | Evenly | Poisson


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request. A reply must begin with `status` and end with `ending`; `replies` keeps them."""

    requests: Iterator[bytes]
    arrivals: Arrivals
    connections: int
    ending: bytes = b""
    status: bytes = OK
    replies: list[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What one stream got, without what was due in the warm-up."""

    # From due (or sent, in a closed loop) to the last byte of the reply, in the order of the replies, in ns.
    latencies_ns: array[int]
    # When each of them was due, in ns from the start of the run.
    due_ns: array[int]
    # How late the generator itself sent what was due while a connection was free, in ns.
    late_ns: array[int]
    elapsed_s: float

    @property
    def requests(self) -> int:
        return len(self.latencies_ns)

    @property
    def per_second(self) -> float:
        return self.requests / self.elapsed_s

    @property
    def latency(self) -> Latency:
        return latency_of(self.latencies_ns)


async def run(
    address: tuple[str, int], streams: list[Stream], seconds: float | None, *, warm_up_s: float = 0.0
) -> list[Load]:
    """Run the streams side by side for `warm_up_s` and `seconds`, or until closed ones have no more requests.

    Raises UnexpectedReply, Unanswered, OSError.
    """
    # In a thread, so that whoever ends the benchmark is heard meanwhile; the loop itself has nothing to do.
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_run, _Generator(address, streams, stop), seconds, warm_up_s)
    finally:
        stop.set()


def _run(generator: _Generator, seconds: float | None, warm_up_s: float) -> list[Load]:
    with served_first():
        return generator.run(seconds, warm_up_s)


async def drive(
    address: tuple[str, int],
    connections: int,
    requests: Iterator[bytes],
    seconds: float | None,
    *,
    ending: bytes = b"",
    warm_up_s: float = 0.0,
    replies: list[bytes] | None = None,
) -> Load:
    """The highest rate of one kind of request, in a closed loop. Raises as `run` does."""
    stream = Stream(requests, AtOnce(), connections, ending, replies=replies)
    [load] = await run(address, [stream], seconds, warm_up_s=warm_up_s)
    return load


async def pace(
    address: tuple[str, int],
    connections: int,
    requests: Iterator[bytes],
    per_second: float,
    seconds: float,
    *,
    ending: bytes = b"",
    warm_up_s: float = 0.0,
) -> Load:
    """One kind of request at a rate, in an open loop of Poisson arrivals. Raises as `run` does."""
    stream = Stream(requests, Poisson(per_second), connections, ending)
    [load] = await run(address, [stream], seconds, warm_up_s=warm_up_s)
    return load


def _schedule(arrivals: Arrivals, ends_ns: int) -> Iterator[int]:
    """When requests are due, in ns from the start; none for a closed loop."""
    match arrivals:
        case AtOnce():
            return
        case Evenly(per_second):
            count = int(ends_ns * per_second / 1e9)
            yield from (int(n * 1e9 / per_second) for n in range(count))
        case Poisson(per_second, seed):
            dice = random.Random(seed)
            due_ns = dice.expovariate(per_second) * 1e9
            while due_ns < ends_ns:
                yield int(due_ns)
                due_ns += dice.expovariate(per_second) * 1e9
        case unmatched:
            assert_never(unmatched)


@dataclass(slots=True)
class _Track:
    """A stream under way. Times are in ns from the start of the run."""

    stream: Stream
    schedule: Iterator[int]
    next_due_ns: int | None
    idle: deque[_Connection] = field(default_factory=deque)
    # When requests were due that no connection was free for.
    waiting: deque[int] = field(default_factory=deque)
    busy: int = 0
    ended_ns: int = 0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    due_ns: array[int] = field(default_factory=lambda: array("q"))
    late_ns: array[int] = field(default_factory=lambda: array("q"))

    @property
    def is_over(self) -> bool:
        return self.next_due_ns is None and not self.waiting and not self.busy


class _Connection:
    __slots__ = ("due_ns", "is_blocked", "received", "socket", "track", "unsent")

    def __init__(self, track: _Track, address: tuple[str, int]) -> None:
        self.track = track
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due_ns = 0
        self.received = b""
        # What the socket did not take at once, and that we are told when it takes more.
        self.unsent = b""
        self.is_blocked = False


class _Generator:
    def __init__(self, address: tuple[str, int], streams: list[Stream], stop: threading.Event) -> None:
        self._address = address
        self._streams = streams
        self._stop = stop
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._started_ns = 0
        self._warm_ns = 0
        # For closed loops: no request is sent after it.
        self._ends_ns = 2**63

    def run(self, seconds: float | None, warm_up_s: float) -> list[Load]:
        self._warm_ns = int(warm_up_s * 1e9)
        if seconds is not None:
            self._ends_ns = self._warm_ns + int(seconds * 1e9)
        tracks = [self._track(stream) for stream in self._streams]
        # Collections of the harness are no latency of the server.
        gc.collect()
        gc.disable()
        try:
            self._started_ns = time.perf_counter_ns()
            for track in tracks:
                if isinstance(track.stream.arrivals, AtOnce):
                    for _ in range(len(track.idle)):
                        self._send(track, self._now_ns(), self._now_ns())
            while not self._stop.is_set() and not all(track.is_over for track in tracks):
                self._step(tracks)
        finally:
            gc.enable()
            self._epoll.close()
            for connection in self._connections.values():
                connection.socket.close()
        return [self._load(track) for track in tracks]

    def _track(self, stream: Stream) -> _Track:
        assert not isinstance(stream.arrivals, Evenly | Poisson) or self._ends_ns < 2**63
        schedule = _schedule(stream.arrivals, self._ends_ns)
        track = _Track(stream, schedule, next(schedule, None))
        for _ in range(stream.connections):
            track.idle.append(self._connect(track))
        return track

    def _connect(self, track: _Track) -> _Connection:
        connection = _Connection(track, self._address)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _load(self, track: _Track) -> Load:
        # A closed loop is measured to its last reply. An open one was asked for `seconds`; where its replies
        # came later than that, the server did not keep up with the rate.
        ended_ns = track.ended_ns
        if not isinstance(track.stream.arrivals, AtOnce):
            ended_ns = max(ended_ns, self._ends_ns)
        return Load(track.latencies_ns, track.due_ns, track.late_ns, (ended_ns - self._warm_ns) / 1e9)

    def _now_ns(self) -> int:
        return time.perf_counter_ns() - self._started_ns

    def _step(self, tracks: list[_Track]) -> None:
        """Send what is due, then take the replies that are there; wait for whichever comes first."""
        now_ns = self._now_ns()
        next_ns = None
        for track in tracks:
            while track.next_due_ns is not None and track.next_due_ns <= now_ns:
                if track.idle:
                    if track.next_due_ns >= self._warm_ns:
                        track.late_ns.append(now_ns - track.next_due_ns)
                    self._send(track, track.next_due_ns, now_ns)
                    now_ns = self._now_ns()
                else:
                    track.waiting.append(track.next_due_ns)
                track.next_due_ns = next(track.schedule, None)
            if track.next_due_ns is not None and (next_ns is None or track.next_due_ns < next_ns):
                next_ns = track.next_due_ns
        if next_ns is None:
            if now_ns > self._ends_ns + DRAIN_S * 1e9:
                raise Unanswered(f"{sum(track.busy + len(track.waiting) for track in tracks):,} replies")
            events = self._epoll.poll(LOOK_S)
        else:
            wait_ns = next_ns - now_ns
            if wait_ns > SPIN_NS:
                # epoll itself counts in ms.
                select.select((self._epoll,), (), (), min(wait_ns / 1e9, LOOK_S))
            events = self._epoll.poll(0)
        for descriptor, event in events:
            connection = self._connections[descriptor]
            if event & select.EPOLLOUT:
                self._send_rest(connection)
            if event & ~select.EPOLLOUT:
                self._receive(connection)

    def _send(self, track: _Track, due_ns: int, now_ns: int) -> None:
        """Send the next request, due then, over the connection that has been idle for longest."""
        is_closed_loop = isinstance(track.stream.arrivals, AtOnce)
        # However slow the server is, one request is counted.
        if is_closed_loop and now_ns >= self._ends_ns and track.latencies_ns:
            return
        request = next(track.stream.requests, None)
        if request is None:
            assert is_closed_loop, "an open loop needs as many requests as are due"
            return
        connection = track.idle.popleft()
        connection.due_ns = due_ns
        track.busy += 1
        connection.unsent = request
        self._send_rest(connection)

    def _send_rest(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        connection.unsent = connection.unsent[sent:]
        is_blocked = bool(connection.unsent)
        if is_blocked is not connection.is_blocked:
            connection.is_blocked = is_blocked
            wanted = select.EPOLLIN | select.EPOLLOUT if is_blocked else select.EPOLLIN
            self._epoll.modify(connection.socket.fileno(), wanted)

    def _receive(self, connection: _Connection) -> None:
        track = connection.track
        data = connection.socket.recv(_READ_BYTES)
        if not data:
            self._reconnect(connection)
            return
        if connection.received:
            data = connection.received + data
        body_at = data.find(_HEAD_ENDS) + 4
        if body_at < 4:
            connection.received = data
            return
        length_at = data.find(_LENGTH, 0, body_at) + len(_LENGTH)
        if length_at < len(_LENGTH):
            raise UnexpectedReply(f"without a length: {data[:400].decode('latin-1')}")
        if len(data) < body_at + int(data[length_at : data.find(b"\r", length_at)]):
            connection.received = data
            return
        now_ns = self._now_ns()
        connection.received = b""
        if not (data.startswith(track.stream.status) and data.endswith(track.stream.ending)):
            raise UnexpectedReply(data[:400].decode("latin-1"))
        if track.stream.replies is not None:
            track.stream.replies.append(data)
        if connection.due_ns >= self._warm_ns:
            track.latencies_ns.append(now_ns - connection.due_ns)
            track.due_ns.append(connection.due_ns)
            track.ended_ns = now_ns
        track.busy -= 1
        track.idle.append(connection)
        if track.waiting:
            self._send(track, track.waiting.popleft(), now_ns)
        elif isinstance(track.stream.arrivals, AtOnce):
            self._send(track, now_ns, now_ns)

    def _reconnect(self, connection: _Connection) -> None:
        """A server may close a connection that has long been idle; with a request on it that is a fault."""
        track = connection.track
        if connection not in track.idle:
            raise ConnectionResetError("the server closed a connection on which it owed a reply")
        self._epoll.unregister(connection.socket.fileno())
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        track.idle.remove(connection)
        track.idle.append(self._connect(track))
