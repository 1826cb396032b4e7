"""The log: one object or one sentence a line on stderr, and a line for every hop of every call.

Hops are written by a way of their own. A line of structlog's costs 30 µs, which is a third of what a hop
takes; here it is one call of orjson behind the answer, and a thread writes what came within some milliseconds
at once, so that whoever is slow to read the log holds up no call. What he does not read in time
is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from threading import Lock, RLock
from typing import Any, Final, NamedTuple, TextIO, assert_never

import orjson
import structlog

from cordboard.routing.numbers import E164, Pin
from cordboard.settings import LogFormat, Settings

# Lines that wait to be written: 20,000/s × 0.5 s of a reader who does not read; some 4 MB.
HOP_LINES_WAITING_MAX: Final = 10_000
# Some 0.2 ms in which no call is answered.
WORDED_PER_STEP: Final = 64
# What came within it is written at once. A person who watches calls does not see it.
HOP_FLUSH_S: Final = 0.02
STDERR: Final = 2
_NEWLINE: Final = orjson.OPT_APPEND_NEWLINE
# Lines of hops and all others are written by two threads, and a pipe takes 4 kB at a time.
_STDERR_LOCK: Final = RLock()

_log = structlog.get_logger(__name__)


class HopLine(NamedTuple):
    """One hop as the log has it."""

    request_id: str
    # None: whoever asked has not proved to be of a tenant.
    tenant_id: str | None
    call_sid: str | None
    applet: str
    # `connect`, `ask_pin`, `refuse`; `ended` where the platform told how the call ended, `fault` where one of
    # ours connected nobody, `unauthorized`.
    decision: str
    # How it matched, what was entered last, why it was refused, how it ended, or which fault.
    reason: str | None
    virtual_number: E164 | None
    caller: E164 | None
    seconds: float


Write = Callable[[bytes], None]
Render = Callable[[HopLine, int], bytes]
"""(hop, instant in µs) → its line."""


class HopLog:
    """`put` never waits. `run` in a task of the owner."""

    def __init__(self, render: Render, now_us: Callable[[], int], write: Write) -> None:
        self._render = render
        self._now_us = now_us
        self._write = write
        # What is to be worded, with its instant, and what is worded and not written yet.
        self._hops: deque[tuple[HopLine, int]] = deque()
        self._lines: deque[bytes] = deque()
        self._taking = Lock()
        self._dropped = 0
        self._has_hops = asyncio.Event()

    def put(self, hop: HopLine) -> None:
        if len(self._hops) >= HOP_LINES_WAITING_MAX:
            self._dropped += 1
            return
        # Worded later, with others: alone, between two steps of a call, what words it is cold and slow.
        self._hops.append((hop, self._now_us()))
        self._has_hops.set()

    async def run(self) -> None:
        try:
            while True:
                await self._has_hops.wait()
                await asyncio.sleep(HOP_FLUSH_S)
                self._has_hops.clear()
                for _ in range(0, len(self._hops), WORDED_PER_STEP):
                    self._word(WORDED_PER_STEP)
                    await asyncio.sleep(0)
                await asyncio.to_thread(self._write_worded)
                self._tell_dropped()
        finally:
            # Whatever the thread has not taken; if we are cancelled soon enough, it never begins.
            self._word(len(self._hops))
            self._write_worded()
            self._tell_dropped()

    def _word(self, count_max: int) -> None:
        for _ in range(min(count_max, len(self._hops))):
            self._lines.append(self._render(*self._hops.popleft()))

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning("hops.dropped", lines=self._dropped)
            self._dropped = 0

    def _write_worded(self) -> None:
        with self._taking:
            lines = b"".join([self._lines.popleft() for _ in range(len(self._lines))])
        # Where nobody reads the log any more, there is nobody to tell.
        with suppress(OSError):
            if lines:
                self._write(lines)


def write_to_stderr(lines: bytes) -> None:
    """All of it at once, past Python's own buffer. Raises OSError."""
    with _STDERR_LOCK:
        while lines:
            lines = lines[os.write(STDERR, lines) :]


def hop_log(settings: Settings, now_us: Callable[[], int], write: Write = write_to_stderr) -> HopLog | None:
    """The log of hops that the settings ask for; None if they ask for none."""
    if not settings.log_hops or settings.log_level not in ("debug", "info"):
        return None
    render = _for_people() if _is_for_people(settings.log_format) else _for_machines
    return HopLog(render, now_us, write)


def _for_machines(hop: HopLine, at_us: int) -> bytes:
    return orjson.dumps(_fields(hop, at_us), option=_NEWLINE)


def _for_people() -> Render:
    renderer = _console_renderer()

    def render(hop: HopLine, at_us: int) -> bytes:
        fields = _fields(hop, at_us)
        # A terminal has no room for what says nothing.
        said = {key: value for key, value in fields.items() if value is not None and key != "logger"}
        return f"{renderer(None, 'info', said)}\n".encode()

    return render


def _fields(hop: HopLine, at_us: int) -> dict[str, Any]:
    request_id, tenant_id, call_sid, applet, decision, reason, virtual_number, caller, seconds = hop
    return {
        "event": "hop",
        "request_id": request_id,
        "tenant": tenant_id,
        "call_sid": call_sid,
        "applet": applet,
        "decision": decision,
        "reason": reason,
        # Masked: orjson would print the integers that they are.
        "virtual_number": None if virtual_number is None else _MASKED[virtual_number % 100],
        "caller": None if caller is None else _MASKED[caller % 100],
        # `round` takes four times as long.
        "ms": int(seconds * 1_000_000) / 1_000,
        "level": "info",
        "logger": "cordboard.calls",
        "timestamp": f"{_second_text(at_us // 1_000_000)}.{at_us % 1_000_000:06}Z",
    }


# What a number prints as, by its last two digits: to ask each one takes as long as all else on its line.
_MASKED: Final = tuple(str(E164(last_digits)) for last_digits in range(100))


@lru_cache(maxsize=2)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# ── everything else ──────────────────────────────────────────────────────────


def configure_logging(level: str, log_format: LogFormat = LogFormat.AUTO) -> None:
    """One line each on stderr, for our own log lines and those of libraries alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _hide_numbers,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        _console_renderer()
        if _is_for_people(log_format)
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It prints the bytes of a request that it cannot parse, keys and digits included.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _StderrHandler(logging.StreamHandler[TextIO]):
    def createLock(self) -> None:  # noqa: N802 - the standard library's name.
        self.lock = _STDERR_LOCK


def _is_for_people(log_format: LogFormat) -> bool:
    match log_format:
        case LogFormat.AUTO:
            return sys.stderr.isatty()
        case LogFormat.JSON:
            return False
        case LogFormat.HUMAN:
            return True
        case unmatched:
            assert_never(unmatched)


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )


def _hide_numbers(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Numbers and PINs become their masked text, whatever the renderer would make of them."""
    for key, value in event.items():
        if isinstance(value, E164 | Pin):
            event[key] = str(value)
    return event


def _to_json(event: MutableMapping[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=repr).decode()
