"""What the peers share: where their data is, the query, and what its rows mean."""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

# One for each of the generator's connections would only queue up in front of PostgreSQL's one core.
POOL_SIZE: Final = 10

QUERIES: Final = {
    name: text
    for block in Path(__file__).with_name("lookup.sql").read_text(encoding="utf-8").split("-- name: ")[1:]
    for name, _, text in [block.partition("\n")]
}

PROMPT: Final[Mapping[str, object]] = {
    "gather_prompt": {"text": "Please enter your PIN, followed by the hash key."},
    "max_input_digits": 6,
    "finish_on_key": "#",
    "input_timeout": 6,
    "repeat_menu": 1,
    "repeat_gather_prompt": {"text": "This PIN is not right. Please enter your PIN again."},
}
GREETING: Final = "This number cannot be reached from yours."


@dataclass(frozen=True, slots=True)
class Wiring:
    """Environment variables of a peer."""

    dsn: str
    tenant: str
    applet_key: str
    redis_socket: str

    @classmethod
    def from_environment(cls) -> Wiring:
        return cls(*(os.environ.get(f"PEER_{name.upper()}", "") for name in cls.__slots__))

    def environment(self) -> dict[str, str]:
        return {f"PEER_{name.upper()}": getattr(self, name) for name in self.__slots__}

    def admits(self, tenant: str, key: str) -> bool:
        return tenant == self.tenant and hmac.compare_digest(key, self.applet_key)


def listening_socket() -> socket.socket:
    """Listens already when its port is printed, so that nobody who reads that is refused."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    return listener


def number_of(text: str) -> int:
    """`09800000021` → 919800000021."""
    return int("91" + text.removeprefix("0"))


async def connection_pool(wiring: Wiring) -> asyncpg.Pool[asyncpg.Record]:
    async def leave_as_it_is(_: asyncpg.Connection[asyncpg.Record]) -> None:
        """Nothing was changed that another user of the connection could see."""

    pool = await asyncpg.create_pool(wiring.dsn, min_size=POOL_SIZE, max_size=POOL_SIZE, reset=leave_as_it_is)
    assert pool is not None
    return pool


def word_for(rows: Sequence[asyncpg.Record]) -> str:
    """`connect`, `pin` or `reject`, of the rows of `matches`."""
    if not rows:
        return "reject"
    return "connect" if any(row["allocation_id"] and not row["needs_pin"] for row in rows) else "pin"


def selected(word: str) -> tuple[bytes, int]:
    """Body and status of a passthru."""
    return orjson.dumps({"select": word}), 200 if word == "connect" else 302


def dialling(targets: Sequence[int], caller_id: int | None) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "fetch_after_attempt": False,
        "destination": {"numbers": [f"+{number}" for number in targets]},
    }
    if caller_id is not None:
        reply["outgoing_phone_number"] = f"+{caller_id}"
        reply["record"] = False
    return reply


def gathering(word: str) -> Mapping[str, object]:
    if word == "pin":
        return PROMPT
    return {
        "gather_prompt": {"text": GREETING},
        "max_input_digits": 1,
        "finish_on_key": "#",
        "input_timeout": 1,
        "repeat_menu": 0,
    }
