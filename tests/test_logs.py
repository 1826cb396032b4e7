"""Lines of hops: what they say, what they hide, and that nobody waits for whoever reads them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from cordboard.logs import (
    HOP_LINES_WAITING_MAX,
    HopLine,
    HopLog,
    hop_log,
)
from cordboard.routing.numbers import E164
from cordboard.settings import LogFormat, Settings

NOW_US = 1_767_225_600_000_000
HOP = HopLine(
    request_id="4bf92f3577b34da6a3ce929d0e0e4736",
    tenant_id="acme1m",
    call_sid="sid",
    applet="passthru",
    decision="refuse",
    reason="throttled",
    virtual_number=E164(918000000010),
    caller=E164(919800000021),
    seconds=0.0001234,
)


def new_log(written: list[bytes], log_format: LogFormat = LogFormat.JSON) -> HopLog:
    log = hop_log(Settings(log_format=log_format), lambda: NOW_US, written.append)
    assert log is not None
    return log


@asynccontextmanager
async def running(log: HopLog) -> AsyncIterator[None]:
    """What it still has is written at the end."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(log.run())
        # So that it has begun, and its end writes.
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()


async def test_a_line_says_what_became_of_a_hop_and_hides_who_it_was() -> None:
    written: list[bytes] = []
    log = new_log(written)
    async with running(log):
        log.put(HOP)
        log.put(HOP._replace(virtual_number=None, caller=None, tenant_id=None, call_sid=None, reason=None))
    [lines] = written
    first, second = map(orjson.loads, lines.splitlines())
    assert first == {
        "event": "hop",
        "request_id": HOP.request_id,
        "tenant": "acme1m",
        "call_sid": "sid",
        "applet": "passthru",
        "decision": "refuse",
        "reason": "throttled",
        "virtual_number": "…10",
        "caller": "…21",
        "ms": 0.123,
        "level": "info",
        "logger": "cordboard.calls",
        "timestamp": "2026-01-01T00:00:00.000000Z",
    }
    assert {second[key] for key in ("tenant", "call_sid", "reason", "virtual_number", "caller")} == {None}


async def test_people_get_words() -> None:
    written: list[bytes] = []
    log = new_log(written, LogFormat.HUMAN)
    async with running(log):
        log.put(HOP)
    text = b"".join(written).decode()
    assert re.match(r"2026-01-01T00:00:00\.000000Z \[info +\] hop +applet=passthru .*caller=…21", text), text
    assert "91980" not in text


async def test_a_reader_who_does_not_read_holds_up_nobody_and_is_told_what_he_missed() -> None:
    read_end, write_end = os.pipe()
    is_full = asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(piece: bytes) -> None:
        # The first piece fills the pipe, as somebody who has stopped reading leaves it.
        if not is_full.is_set():
            os.set_blocking(write_end, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(write_end, piece)
            os.set_blocking(write_end, True)
            loop.call_soon_threadsafe(is_full.set)
        os.write(write_end, piece)

    numbers = count()
    log = HopLog(lambda _, __: b"%d\n" % next(numbers), lambda: NOW_US, write)
    try:
        with capture_logs() as logged:
            async with running(log):
                log.put(HOP)
                await is_full.wait()
                # The thread waits in its write. Calls go on.
                for _ in range(HOP_LINES_WAITING_MAX + 3):
                    log.put(HOP)
                read = asyncio.to_thread(_read_until, read_end, b"%d\n" % HOP_LINES_WAITING_MAX)
                rest = await asyncio.wait_for(read, 10)
        assert rest.endswith(b"%d\n" % HOP_LINES_WAITING_MAX)
    finally:
        os.close(read_end)
        os.close(write_end)
    # An engine that other tests share logs in the same process.
    assert [line for line in logged if line["event"].startswith("hops.")] == [
        {"event": "hops.dropped", "lines": 3, "log_level": "warning"}
    ]


def _read_until(descriptor: int, end: bytes) -> bytes:
    read = b""
    while not read.endswith(end):
        read += os.read(descriptor, 1 << 16)
    return read


async def test_lines_of_hops_and_others_do_not_tear_each_other() -> None:
    """Both into one pipe that is slower than they are, from a process of their own."""
    script = """
import asyncio, logging, structlog
from cordboard.logs import configure_logging, hop_log
from cordboard.settings import LogFormat, Settings
from tests.test_logs import HOP, NOW_US

async def main():
    configure_logging("info", LogFormat.JSON)
    log = hop_log(Settings(log_format=LogFormat.JSON), lambda: NOW_US)
    task = asyncio.ensure_future(log.run())
    for step in range(40):
        for _ in range(100):
            log.put(HOP)
        structlog.get_logger("other").info("other", text="x" * 9_000)
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    lines = (await process.communicate())[1].splitlines()
    events = [orjson.loads(line)["event"] for line in lines]
    assert (events.count("hop"), events.count("other")) == (4_000, 40)


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        (Settings(), True),
        (Settings(log_level="debug"), True),
        (Settings(log_level="warning"), False),
        (Settings(log_hops=False), False),
    ],
)
def test_hops_are_logged_where_they_are_wanted(settings: Settings, is_on: bool) -> None:
    assert (hop_log(settings, lambda: NOW_US) is not None) is is_on
