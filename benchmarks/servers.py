"""Server programs of the benchmarks: each a process of its own on the server's core, gone when it is left."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from benchmarks.cores import Cores

# Importing FastAPI takes a second; filling a pool of connections to a busy PostgreSQL another.
START_TIMEOUT_S: Final = 60.0


class DidNotStart(Exception):
    """The program ended, or did not say its port in time."""


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    address: tuple[str, int]


@asynccontextmanager
async def served(
    module: str, cores: Cores, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Server]:
    """`python -m module`, which prints the port it listens on and serves until it is killed.

    Raises DidNotStart.
    """
    with cores.starting_server():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                port = (await process.stdout.readline()).decode().strip()
        except TimeoutError as late:
            raise DidNotStart(f"{module} said no port within {START_TIMEOUT_S:g} s") from late
        if not port:
            raise DidNotStart(f"{module} ended before it said its port")
        yield Server(process.pid, ("127.0.0.1", int(port)))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
