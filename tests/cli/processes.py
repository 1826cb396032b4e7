"""A command as a shell sees it: a process with its output and its exit code; and an engine beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp


class Ran(NamedTuple):
    code: int
    out: str
    err: str


async def start(data_dir: Path, *arguments: str, stderr: int = PIPE, **more: str) -> Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CORDBOARD_")}
    environment |= {
        "CORDBOARD_DATA_DIR": str(data_dir),
        "CORDBOARD_BOARD_DIR": str(data_dir / "board"),
        "COLUMNS": "200",
        **more,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cordboard", *arguments, env=environment, stdout=PIPE, stderr=stderr
    )


async def run(data_dir: Path, *arguments: str, **more: str) -> Ran:
    process = await start(data_dir, *arguments, stderr=PIPE, **more)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[str]:
    """A running engine's address; it must end with code 0."""
    process = await start(data_dir, "serve", "--port", "0")
    assert process.stdout is not None
    try:
        url = ""
        while not url:
            line = (await process.stdout.readline()).decode()
            assert line, (await process.communicate())[1].decode()
            url = line.removeprefix("Listening on ").strip() if line.startswith("Listening") else ""
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0


def basic(token: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth("acme1m", token)}


async def until_answered(
    client: aiohttp.ClientSession, method: str, url: str, *statuses: int, **request: Any
) -> None:
    """The feed reaches the engine within its poll; the answer that says so is waited for."""
    async with asyncio.timeout(10):
        while True:
            async with client.request(method, url, **request) as answer:
                if answer.status in statuses:
                    return
