"""The real engine as a process of its own, with a tenant and live allocations, made over HTTP."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from benchmarks.cores import Cores, cpu_s, descendants, until_quiet
from benchmarks.generator import Load, drive, pace
from cordboard.settings import SHARED_MEMORY
from cordboard.simulator.client import Client, Credentials
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.wire import basic

TENANT: Final = "acme1m"
VIRTUAL_NUMBERS: Final = tuple(range(80_0000_0000, 80_0000_0020))
CLIENTS: Final = 32
# Where receivers of events listen.
CALLS_BACK: Final = "127.0.0.1"

# Ten digits after the country code; each block has room for more than a run needs.
LISTED_A, LISTED_B, STRANGERS, LATER_A, LATER_B = (first * 1_0000_0000 for first in (98, 97, 96, 88, 87))


@dataclass(frozen=True, slots=True)
class Engine:
    process: EngineProcess
    credentials: Credentials
    address: tuple[str, int]
    # The `index`th lists LISTED_A + index and LISTED_B + index, on `virtual_number_of` and with `pin_of` it.
    allocations: int

    async def measure(
        self, connections: int, requests: Iterator[bytes], seconds: float | None, *, ending: bytes = b""
    ) -> Measured:
        """A run, and all that it leaves to be done behind its replies."""
        before_s = cpu_s(self.process.pid)
        load = await drive(self.address, connections, requests, seconds, ending=ending)
        await self.settle()
        return Measured(load, (cpu_s(self.process.pid) - before_s) / load.requests * 1e6)

    async def measure_at(
        self, per_second: float, requests: Iterator[bytes], seconds: float, *, ending: bytes = b""
    ) -> Measured:
        """The same in an open loop."""
        before_s = cpu_s(self.process.pid)
        load = await pace(self.address, CLIENTS, requests, per_second, seconds, ending=ending)
        await self.settle()
        return Measured(load, (cpu_s(self.process.pid) - before_s) / load.requests * 1e6)

    async def settle(self) -> None:
        """Wait until it has written what it owes."""
        await until_quiet(self.process.pid, *descendants(self.process.pid))


@dataclass(frozen=True, slots=True)
class Measured:
    load: Load
    cpu_us: float


@asynccontextmanager
async def running_engine(cores: Cores, allocations: int) -> AsyncIterator[Engine]:
    """`cordboard serve` on a directory that is removed afterwards, with `allocations` on its board."""
    directory = Path(tempfile.mkdtemp(prefix="cordboard-bench-"))
    # As `cordboard serve` does it by itself, where there is shared memory.
    board = Path(
        tempfile.mkdtemp(prefix="cordboard-bench-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    )
    admin_token = secrets.token_urlsafe(24)
    environment = {
        "CORDBOARD_ADMIN_TOKEN": admin_token,
        "CORDBOARD_BOARD_DIR": str(board),
        "CORDBOARD_LOG_LEVEL": "info",
        "CORDBOARD_CALLBACK_ALLOW": CALLS_BACK,
    }
    process = EngineProcess(directory / "data", environment)
    try:
        with cores.starting_server():
            await process.start()
        for pid in descendants(process.pid):
            cores.pin(pid, cores.other)
        async with aiohttp.ClientSession() as session:
            client = Client(session, process.base_url, admin_token)
            # Those who are listed on A are connected without a PIN; on B they, and strangers, need it.
            credentials = await client.add_tenant(TENANT, {"aparty_pin_enabled": "false"})
            await client.add_virtual_numbers(TENANT, *(f"+91{number}" for number in VIRTUAL_NUMBERS))
        parts = urlsplit(process.base_url)
        assert parts.hostname is not None
        assert parts.port is not None
        engine = Engine(process, credentials, (parts.hostname, parts.port), allocations)
        first = (
            create_request(
                credentials, f"first-{i}", LISTED_A + i, LISTED_B + i, virtual_number_of(i), pin_of(i)
            )
            for i in range(allocations)
        )
        await drive(engine.address, CLIENTS, first, None)
        await engine.settle()
        yield engine
    finally:
        await asyncio.shield(process.clear_away())
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(board, ignore_errors=True)


def virtual_number_of(index: int) -> int:
    return VIRTUAL_NUMBERS[index % len(VIRTUAL_NUMBERS)]


def pin_of(index: int) -> str:
    """The B PIN of the `index`th allocation: unique on its VN."""
    return f"{index // len(VIRTUAL_NUMBERS):04d}"


def create_request(
    credentials: Credentials, transaction_id: str, a: int, b: int, virtual_number: int, pin: str | None
) -> bytes:
    """A create as the vendor's page shows it. Without a `pin` the engine draws one of six digits."""
    vns = [f"+91{virtual_number}"]
    given = {"pin_length": 6} if pin is None else {"pin": pin}
    body = orjson.dumps(
        {
            "transaction_id": transaction_id,
            "a": {"vns": vns, "numbers": [f"+91{a}"]},
            "b": {"vns": vns, "numbers": [f"+91{b}"], **given},
            "usage": "twoway",
            "deallocation_policy": {"duration": "2h"},
        }
    )
    head = (
        f"POST /v1/tenants/{credentials.tenant_id}/greenpin HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: {basic(credentials.tenant_id, credentials.api_token)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
