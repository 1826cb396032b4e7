"""GreenVN, first generation (exotel.md 8.3 and 8.4): make, read, change, release, and who joined."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from aiohttp import web

from cordboard.routing.allocate import Generation, Standing
from cordboard.routing.model import Party, Product, State
from cordboard.storage.allocations import AllocationName, NotFound
from cordboard.switchboard.allocating import Changed, Repeated
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import GreenVnPartiesRevision, GreenVnSwap, GreenVnWish
from cordboard.web.bodies import BULK_BYTES_MAX, JSON_BYTES_MAX, read_bytes
from cordboard.web.bulk import Done, bulk_items, make_each
from cordboard.web.envelope import Answer, RawAnswer, propagation
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.greenpin import idempotency_key, members_shown
from cordboard.web.greenvn_bodies import (
    parse_call_party,
    parse_greenvn,
    parse_greenvn_object,
    parse_virtual_number,
)
from cordboard.web.schemas import parse_id

ID_KEY: Final = "greenvn_id"


class GreenVns:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._allocating = switchboard.allocating

    def routes(self, tenants: Tenants) -> list[web.RouteDef]:
        all_path = f"{TENANT_PATH}/greenvn"
        one_path = f"{all_path}/{{greenvn_id}}"
        return [
            tenants.route("POST", all_path, self._create),
            tenants.route("POST", f"{all_path}/bulk", self._create_many),
            tenants.route("GET", one_path, self._show),
            tenants.route("DELETE", one_path, self._release),
            tenants.route("PUT", f"{one_path}/call-party", self._change_parties),
            tenants.route("PUT", f"{one_path}/vn", self._change_virtual_number),
            tenants.route("GET", f"{one_path}/members", self._members),
        ]

    async def _create(self, exchange: Exchange) -> RawAnswer:
        body = await read_bytes(exchange.request, JSON_BYTES_MAX)
        wish = self._wish(parse_greenvn_object(body))

        def answer_of(standing: Standing) -> bytes:
            return exchange.envelope(Answer(self._data(standing)))

        outcome = await self._allocating.create(
            exchange.tenant, wish, idempotency_key(exchange.request, body), answer_of
        )
        match outcome:
            case Repeated(answer):
                return RawAnswer(answer, {"Idempotent-Replayed": "true"})
            case Changed(standing, is_propagated):
                return RawAnswer(answer_of(standing), propagation(is_propagated))

    async def _create_many(self, exchange: Exchange) -> Answer:
        body = parse_greenvn_object(await read_bytes(exchange.request, BULK_BYTES_MAX))
        items = bulk_items(body, "greenvns", self._switchboard.settings.bulk_create_items_max)

        async def make(item: dict[str, Any]) -> Done:
            made = await self._allocating.create_without_key(exchange.tenant, self._wish(item))
            return Done(self._data(made.standing), made.is_propagated)

        return await make_each(items, make, id_key=ID_KEY, client_id_key="connection_id")

    async def _show(self, exchange: Exchange) -> Answer:
        return Answer(self._data(await self._allocating.find(exchange.tenant, _name_of_path(exchange))))

    async def _change_parties(self, exchange: Exchange) -> Answer:
        name = _name_of_path(exchange)
        draft = parse_call_party(await _read_object(exchange))
        return await self._changed(exchange.tenant, name, GreenVnPartiesRevision(draft))

    async def _change_virtual_number(self, exchange: Exchange) -> Answer:
        name = _name_of_path(exchange)
        preferences, faults = parse_virtual_number(await _read_object(exchange))
        swap = GreenVnSwap(preferences, faults, self._switchboard.region_of)
        return await self._changed(exchange.tenant, name, swap)

    async def _release(self, exchange: Exchange) -> Answer:
        changed = await self._allocating.release(exchange.tenant, _name_of_path(exchange))
        return self._answer(changed)

    async def _members(self, exchange: Exchange) -> Answer:
        members = await self._allocating.members(exchange.tenant, _name_of_path(exchange))
        return Answer(members_shown(members, exchange.tenant.settings.timezone))

    def _wish(self, given: dict[str, Any]) -> GreenVnWish:
        client_id, draft = parse_greenvn(given)
        return GreenVnWish(client_id, draft, self._switchboard.region_of)

    async def _changed(
        self, tenant: TenantView, name: AllocationName, revision: GreenVnPartiesRevision | GreenVnSwap
    ) -> Answer:
        return self._answer(await self._allocating.update(tenant, name, revision))

    # ── answers ──────────────────────────────────────────────────────────────

    def _answer(self, changed: Changed) -> Answer:
        return Answer(self._data(changed.standing), headers=propagation(changed.is_propagated))

    def _data(self, standing: Standing) -> dict[str, Any]:
        """The keys of the page; the VN under both names that the page has for it."""
        allocation = standing.allocation
        is_active = standing.is_active(self._switchboard.clock.now_us())
        virtual_number = allocation.a.virtual_numbers[0].plus
        data: dict[str, Any] = {
            "connection_id": standing.client_id,
            "aparty_numbers": _numbers_shown(allocation.a),
            "bparty_numbers": _numbers_shown(allocation.b),
            "aparty_pins": _pins_shown(allocation.a),
            "bparty_pins": _pins_shown(allocation.b),
            "usage": allocation.usage.value,
            "state": (State.ACTIVE if is_active else State.VAULT).value,
            ID_KEY: str(UUID(bytes=allocation.id)),
            "greenvn": virtual_number,
            "green_vn": virtual_number,
        }
        if standing.flow_id is not None:
            data["flow_id"] = standing.flow_id
        return data


def _numbers_shown(party: Party) -> list[str]:
    return [number.plus for number in party.numbers]


def _pins_shown(party: Party) -> list[int]:
    """None begins with a zero, or it would not have been taken."""
    return [int(pin.digits) for pin in party.pins]


async def _read_object(exchange: Exchange) -> dict[str, Any]:
    return parse_greenvn_object(await read_bytes(exchange.request, JSON_BYTES_MAX))


def _name_of_path(exchange: Exchange) -> AllocationName:
    """Raises NotFound."""
    id = parse_id(exchange.request.match_info[ID_KEY])
    if id is None:
        raise NotFound(Product.GREENVN)
    return AllocationName(id, Product.GREENVN, Generation.FIRST)
