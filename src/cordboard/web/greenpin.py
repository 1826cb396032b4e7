"""GreenPin, first generation (exotel.md 8.5): make, read, update, release, and who joined."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from cordboard.routing.allocate import Code, Generation, Standing, side_key
from cordboard.routing.model import NEVER_US, Party, Product, State
from cordboard.storage.allocations import AllocationName, Member, NotFound
from cordboard.storage.database import DatabaseAway
from cordboard.switchboard.allocating import Changed, IdempotencyKey, Repeated
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import GreenPinRevision, GreenPinWish
from cordboard.web.account_time import iso_text, plain_text
from cordboard.web.bodies import BULK_BYTES_MAX, JSON_BYTES_MAX, parse_object, read_bytes, read_object
from cordboard.web.bulk import Done, bulk_answer, bulk_items, item_done, item_refused, make_each
from cordboard.web.envelope import Answer, RawAnswer, propagation
from cordboard.web.errors import Refused, problem_of
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.schemas import parse_create, parse_id, parse_update

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
KEY_CHARACTERS_MAX: Final = 255


class GreenPins:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._allocating = switchboard.allocating

    def routes(self, tenants: Tenants) -> list[web.RouteDef]:
        all_path = f"{TENANT_PATH}/greenpin"
        one_path = f"{all_path}/{{greenpin_id}}"
        return [
            tenants.route("POST", all_path, self._create),
            tenants.route("PUT", all_path, self._update_many),
            tenants.route("POST", f"{all_path}/bulk", self._create_many),
            tenants.route("GET", one_path, self._show),
            tenants.route("PUT", one_path, self._update),
            tenants.route("DELETE", one_path, self._release),
            tenants.route("GET", f"{one_path}/members", self._members),
        ]

    async def _create(self, exchange: Exchange) -> RawAnswer:
        body = await read_bytes(exchange.request, JSON_BYTES_MAX)
        client_id, draft = parse_create(parse_object(body))

        def answer_of(standing: Standing) -> bytes:
            return exchange.envelope(Answer(self._data(standing, exchange.tenant)))

        outcome = await self._allocating.create(
            exchange.tenant,
            GreenPinWish(client_id, draft),
            idempotency_key(exchange.request, body),
            answer_of,
        )
        match outcome:
            case Repeated(answer):
                return RawAnswer(answer, {"Idempotent-Replayed": "true"})
            case Changed(standing, is_propagated):
                return RawAnswer(answer_of(standing), propagation(is_propagated))

    async def _show(self, exchange: Exchange) -> Answer:
        standing = await self._allocating.find(exchange.tenant, _name_of_path(exchange))
        return Answer(self._data(standing, exchange.tenant))

    async def _update(self, exchange: Exchange) -> Answer:
        name = _name_of_path(exchange)
        draft = parse_update(await read_object(exchange.request))
        changed = await self._allocating.update(exchange.tenant, name, GreenPinRevision(draft))
        return self._answer(changed, exchange.tenant)

    async def _release(self, exchange: Exchange) -> Answer:
        changed = await self._allocating.release(exchange.tenant, _name_of_path(exchange))
        return self._answer(changed, exchange.tenant)

    async def _members(self, exchange: Exchange) -> Answer:
        members = await self._allocating.members(exchange.tenant, _name_of_path(exchange))
        return Answer(members_shown(members, exchange.tenant.settings.timezone))

    # ── bulk ─────────────────────────────────────────────────────────────────

    async def _create_many(self, exchange: Exchange) -> Answer:
        body = await read_object(exchange.request, BULK_BYTES_MAX)
        items = bulk_items(body, "greenpins", self._switchboard.settings.bulk_create_items_max)

        async def make(item: dict[str, Any]) -> Done:
            made = await self._allocating.create_without_key(
                exchange.tenant, GreenPinWish(*parse_create(item))
            )
            return Done(self._data(made.standing, exchange.tenant), made.is_propagated)

        return await make_each(items, make, id_key="greenpin_id", client_id_key="transaction_id")

    async def _update_many(self, exchange: Exchange) -> Answer:
        body = await read_object(exchange.request, BULK_BYTES_MAX)
        items = bulk_items(body, "greenpins", self._switchboard.settings.bulk_items_max)
        reports: list[dict[str, Any]] = []
        is_propagated = True
        away: DatabaseAway | None = None
        # One after the other: an id may come twice, and then the order counts.
        for item in items:
            greenpin_id = item.get("greenpin_id") if isinstance(item, dict) else None
            try:
                if away is not None:
                    # Each further try would only wait for its own timeout.
                    raise away
                changed = await self._update_item(exchange.tenant, item)
            except Exception as error:
                away = error if isinstance(error, DatabaseAway) else away
                reports.append(item_refused("greenpin_id", greenpin_id, problem_of(error)))
            else:
                is_propagated &= changed.is_propagated
                data = self._data(changed.standing, exchange.tenant)
                reports.append(item_done("greenpin_id", greenpin_id, data))
        return bulk_answer(reports, is_propagated=is_propagated)

    async def _update_item(self, tenant: TenantView, item: object) -> Changed:
        if not isinstance(item, dict):
            raise Refused(Code.BAD, "The item must be an object.")
        given = item.get("greenpin_id")
        if given is None:
            raise Refused(Code.MISSING, "greenpin_id must be given.")
        if not isinstance(given, str):
            raise Refused(Code.BAD, "greenpin_id must be text.")
        return await self._allocating.update(tenant, _named(given), GreenPinRevision(parse_update(item)))

    # ── answers ──────────────────────────────────────────────────────────────

    def _answer(self, changed: Changed, tenant: TenantView) -> Answer:
        return Answer(self._data(changed.standing, tenant), headers=propagation(changed.is_propagated))

    def _data(self, standing: Standing, tenant: TenantView) -> dict[str, Any]:
        """The keys of the page, in its order."""
        allocation = standing.allocation
        is_active = standing.is_active(self._switchboard.clock.now_us())
        end_us = allocation.expires_at_us
        return {
            "transaction_id": standing.client_id,
            "greenpin_id": str(UUID(bytes=allocation.id)),
            "a": _party_data(allocation.a),
            "b": _party_data(allocation.b),
            "usage": allocation.usage.value,
            "state": (State.ACTIVE if is_active else State.VAULT).value,
            "deallocation_time": None if end_us == NEVER_US else plain_text(end_us, tenant.settings.timezone),
        }


def _party_data(party: Party) -> dict[str, Any]:
    data: dict[str, Any] = {
        "vns": [number.plus for number in party.virtual_numbers],
        "numbers": [number.plus for number in party.numbers],
    }
    if party.pin is not None:
        data["pin"] = party.pin.digits
    return data


def members_shown(members: Sequence[Member], zone: str) -> dict[str, Any]:
    """In the order of joining; `zone` is the tenant's."""
    return {
        "members": [
            {
                "number": member.number.plus,
                "side": side_key(member.side),
                "joined_at": iso_text(member.joined_at_us, zone),
            }
            for member in members
        ]
    }


def _name_of_path(exchange: Exchange) -> AllocationName:
    """Raises NotFound."""
    return _named(exchange.request.match_info["greenpin_id"])


def _named(greenpin_id: str) -> AllocationName:
    id = parse_id(greenpin_id)
    if id is None:
        raise NotFound(Product.GREENPIN)
    return AllocationName(id, Product.GREENPIN, Generation.FIRST)


def idempotency_key(request: web.Request, body: bytes) -> IdempotencyKey | None:
    """Raises Refused (400/5)."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    # Bytes that are no UTF-8 arrive as lone surrogates, which are not printable either.
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
        message = f"{IDEMPOTENCY_KEY} must be 1 to {KEY_CHARACTERS_MAX} printable characters."
        raise Refused(Code.BAD, message)
    return IdempotencyKey(key, hashlib.sha256(body).digest())
