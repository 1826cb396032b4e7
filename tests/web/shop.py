"""A tenant with four lines, and how it speaks to the REST API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from cordboard.clock import SystemClock
from cordboard.node import Node
from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer, Client, Credentials
from cordboard.storage.database import Connection
from cordboard.switchboard.service import Switchboard

ADMIN_TOKEN = "made-up-admin-token"
BULK_ITEMS_MAX = 5

AGENT = "+919800000021"
OTHER_AGENT = "+919800000022"
CUSTOMER = "+919800000031"
OTHER_CUSTOMER = "+919800000032"
UNKNOWN_ID = "6447bb53-70c3-40ea-850b-de2fd3c585ee"

_numbers = count(1)

# What a request may change, and how a tenant's rows are told from those of the other tests.
_ROWS_OF_TENANT = {
    "tenant": "id = $1",
    "credential": "tenant_id = $1",
    "virtual_number": "tenant_id = $1",
    "allocation": "tenant_id = $1",
    "carried_allocation": "tenant_id = $1",
    "event": "tenant_id = $1",
    "idempotent_answer": "tenant_id = $1",
    "party_number": "allocation_id IN (SELECT id FROM allocation WHERE tenant_id = $1)",
    "route": "allocation_id IN (SELECT id FROM allocation WHERE tenant_id = $1)",
    "pin_claim": "allocation_id IN (SELECT id FROM allocation WHERE tenant_id = $1)",
    "caller_line": "virtual_number IN (SELECT number FROM virtual_number WHERE tenant_id = $1)",
}


class ShiftedClock:
    """The real time and what a test has added to it."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._shift_us = 0

    def now_us(self) -> int:
        return self._clock.now_us() + self._shift_us

    def advance(self, seconds: float) -> None:
        self._shift_us += int(seconds * 1_000_000)


@dataclass(frozen=True, slots=True)
class Shop:
    """`lines` are its virtual numbers."""

    client: Client
    credentials: Credentials
    lines: tuple[str, ...]
    switchboard: Switchboard
    clock: ShiftedClock

    @property
    def id(self) -> str:
        return self.credentials.tenant_id

    def order(self, transaction_id: str | None = "order", **changed: Any) -> dict[str, Any]:
        """A good create; `changed` replaces keys, those with `__` inside a party, None takes one away."""
        body: dict[str, Any] = {
            "transaction_id": transaction_id,
            "a": {"vns": [self.lines[0]], "numbers": [AGENT]},
            "b": {"vns": [self.lines[1]], "numbers": [CUSTOMER]},
        }
        return merged(body, {"transaction_id": transaction_id, **changed})

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": basic(self.id, self.credentials.api_token)}

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        return await self.client.api(self.credentials, method, path, body, headers=headers, raw=raw)

    async def post(self, body: object, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", "/greenpin", body, headers=sent)

    async def make(self, transaction_id: str = "order", **changed: Any) -> dict[str, Any]:
        """The data of a GreenPin that is made."""
        answer = await self.post(self.order(transaction_id, **changed))
        assert answer.status == 200, answer.body
        data: dict[str, Any] = answer.data
        return data

    async def get(self, greenpin_id: str) -> Answer:
        return await self.ask("GET", f"/greenpin/{greenpin_id}")

    async def put(self, greenpin_id: str, body: object) -> Answer:
        return await self.ask("PUT", f"/greenpin/{greenpin_id}", body)

    async def delete(self, greenpin_id: str) -> Answer:
        return await self.ask("DELETE", f"/greenpin/{greenpin_id}")

    async def rows(self) -> dict[str, list[str]]:
        """All that the database has of the tenant."""

        async def read(connection: Connection) -> dict[str, list[str]]:
            return {
                table: [
                    row["row"]
                    for row in await connection.fetch(
                        f"SELECT to_jsonb({table})::text AS row FROM {table} WHERE {condition} ORDER BY 1",  # noqa: S608
                        self.id,
                    )
                ]
                for table, condition in _ROWS_OF_TENANT.items()
            }

        return await self.switchboard.database.read(read)


async def open_shop(
    node: Node,
    client: Client,
    clock: ShiftedClock,
    settings: Mapping[str, Any] | None = None,
    lines: list[str] | None = None,
) -> Shop:
    name = f"shop-{next(_numbers)}"
    lines = lines or [f"+9180{next(_numbers):08d}" for _ in range(4)]
    credentials = await client.add_tenant(name, settings)
    await client.add_virtual_numbers(name, *lines)
    return Shop(client, credentials, tuple(lines), node.switchboard, clock)


async def set_dead(shop: Shop) -> None:
    """As if nobody had taken the tenant's events for a day."""

    async def write(connection: Connection) -> None:
        await connection.execute(
            "UPDATE event SET state = 'dead', finished_at = created_at, attempts = attempts + 1,"
            " leased_until = NULL WHERE tenant_id = $1 AND state = 'pending'",
            shop.id,
        )

    await shop.switchboard.database.write(write)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def merged(body: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = orjson.loads(orjson.dumps(body))
    for place, value in changed.items():
        *parents, key = place.split("__")
        where = result
        for parent in parents:
            where = where.setdefault(parent, {})
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value
    return result


def assert_refused(answer: Answer, status: int, code: Code | int, *fields: str) -> None:
    """An envelope of that status and code, whose message begins with (or has) each of `fields`."""
    body = answer.body
    assert (answer.status, body["status"], body["code"]) == (status, status, int(code)), body
    assert body["success"] is False
    for field in fields:
        assert field in body["message"], body["message"]
    assert list(body) == ["success", "status", "code", "message", "data", "request_id", "method"]
