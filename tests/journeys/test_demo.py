"""The first thing that anybody runs: it ends well, shows what happened, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest


@asynccontextmanager
async def demo(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A demo whose temporary directories are made in `directory`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CORDBOARD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cordboard", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**inherited, "TMPDIR": str(directory), "PYTHONIOENCODING": "utf-8"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def said_until(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    said = ""
    while words not in said:
        line = await process.stdout.readline()
        assert line, said
        said += line.decode()
    return said


def running_in(directory: Path) -> list[str]:
    """Commands of processes that name the directory: engines and database servers."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command.replace("\0", " "))
    return found


async def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        out, _ = await process.communicate()
    said = out.decode()
    assert process.returncode == 0, said
    assert "5 calls, 7 events." in said
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 100
    for words in ("A listed caller", "⇒ connected to", "⇒ refused", "event  verified", "event  deallocated"):
        assert words in said
    assert not list(tmp_path.glob("cordboard-demo-*"))
    assert running_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demo_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    # A shell's background job ignores it, and so would whatever the job starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    async with demo(tmp_path) as process:
        await said_until(process, "It listens on")
        assert running_in(tmp_path)
        process.send_signal(number)
        out, _ = await process.communicate()
    assert process.returncode != 0, out.decode()
    assert not list(tmp_path.glob("cordboard-demo-*"))
    assert running_in(tmp_path) == []
