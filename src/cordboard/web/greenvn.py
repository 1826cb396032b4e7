"""GreenVN, first generation (exotel.md 8.3 and 8.4): make, read, change, release, and who joined."""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from uuid import UUID

from cordboard.routing.allocate import Code, Generation, Standing
from cordboard.routing.model import Party, Product, State
from cordboard.storage.allocations import AllocationName, NotFound
from cordboard.switchboard.allocating import Changed, Repeated
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import GreenVnPartiesRevision, GreenVnSwap, GreenVnWish
from cordboard.web.bodies import BULK_BYTES_MAX, JSON_BYTES_MAX, read_bytes
from cordboard.web.bulk import Done, bulk_items, make_each
from cordboard.web.documents import (
    GreenVnData,
    GreenVnItemData,
    GreenVnsBody,
    MembersData,
    SecondCallPartyBody,
    SecondGreenVnData,
    SecondGreenVnDeleted,
    SecondGreenVnShown,
    SecondGreenVnUpdated,
    SecondMembersData,
    SecondVirtualNumberBody,
)
from cordboard.web.envelope import Answer, RawAnswer, propagation
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.greenpin import members_shown
from cordboard.web.greenvn_bodies import (
    CallPartyBody,
    GreenVnBody,
    VirtualNumberBody,
    parse_call_party,
    parse_greenvn,
    parse_greenvn_object,
    parse_virtual_number,
)
from cordboard.web.idempotency import IDEMPOTENCY_HEADER, REPLAYED, idempotency_key
from cordboard.web.openapi import Operation, Route, SecondForm
from cordboard.web.schemas import parse_id
from cordboard.web.second_generation import SECOND_ENDED, SECOND_RULES, SecondGeneration
from cordboard.web.second_schemas import SecondGreenVnBody, is_second

ID_KEY: Final = "greenvn_id"
# What a create or a change may break.
_RULES: Final = (
    Code.NOTHING_FREE,
    Code.NOT_PERMITTED,
    Code.ALL_DUPLICATES,
    Code.BOTH_SIDES,
    Code.REGION,
    Code.BAD_NUMBER,
    Code.PIN_OR_NUMBER_TAKEN,
)


class GreenVns:
    def __init__(self, switchboard: Switchboard, second: SecondGeneration) -> None:
        self._switchboard = switchboard
        self._second = second
        self._allocating = switchboard.allocating

    def routes(self, tenants: Tenants) -> list[Route]:
        all_path = f"{TENANT_PATH}/greenvn"
        one_path = f"{all_path}/{{greenvn_id}}"
        second = self._second
        by_id = partial(second.by_id, Product.GREENVN)
        return [
            tenants.route(
                "POST",
                all_path,
                self._create,
                Operation(
                    "Make an allocation",
                    description="The engine picks the virtual number, by the preferences given.",
                    body=GreenVnBody,
                    required=("connection_id", "aparty_numbers", "bparty_numbers", "usage"),
                    headers=(IDEMPOTENCY_HEADER,),
                    data=GreenVnData,
                    codes=(*_RULES, Code.CLIENT_ID_TAKEN, Code.FLOW),
                    second=SecondForm(
                        SecondGreenVnBody,
                        SecondGreenVnData,
                        201,
                        codes=SECOND_RULES,
                        required=("caller_id_number", "from", "to"),
                    ),
                ),
            ),
            tenants.route(
                "POST",
                f"{all_path}/bulk",
                self._create_many,
                Operation(
                    "Make many allocations",
                    description="Each item by itself; what became of them comes in their order.",
                    body=GreenVnsBody,
                    data=list[GreenVnItemData],
                    also={207: "Some items failed; the others are made."},
                ),
            ),
            tenants.route(
                "GET",
                one_path,
                by_id(self._show, second.show),
                Operation(
                    "Show an allocation",
                    data=GreenVnData,
                    codes=(Code.NOT_FOUND,),
                    second=SecondForm(data=SecondGreenVnShown),
                ),
            ),
            tenants.route(
                "DELETE",
                one_path,
                by_id(self._release, second.release),
                Operation(
                    "End an allocation",
                    data=GreenVnData,
                    codes=(Code.NOT_FOUND, Code.DELETED),
                    second=SecondForm(data=SecondGreenVnDeleted, codes=(SECOND_ENDED,)),
                ),
            ),
            tenants.route(
                "PUT",
                f"{one_path}/call-party",
                by_id(self._change_parties, second.change_parties),
                Operation(
                    "Change the numbers, PINs or usage",
                    description="At least one list of numbers; lists replace, what is not named stays.",
                    body=CallPartyBody,
                    data=GreenVnData,
                    codes=(*_RULES, Code.NOT_FOUND, Code.DELETED),
                    second=SecondForm(
                        SecondCallPartyBody, SecondGreenVnUpdated, codes=(*SECOND_RULES, SECOND_ENDED)
                    ),
                ),
            ),
            tenants.route(
                "PUT",
                f"{one_path}/vn",
                by_id(self._change_virtual_number, second.swap),
                Operation(
                    "Swap the virtual number",
                    description="Everything else stays. Without a body: any other one that is free.",
                    body=VirtualNumberBody,
                    data=GreenVnData,
                    codes=(*_RULES, Code.NOT_FOUND, Code.DELETED),
                    second=SecondForm(
                        SecondVirtualNumberBody,
                        SecondGreenVnUpdated,
                        codes=(*SECOND_RULES, SECOND_ENDED),
                        required=("caller_id_number",),
                    ),
                ),
            ),
            tenants.route(
                "GET",
                f"{one_path}/members",
                by_id(self._members, second.members),
                Operation(
                    "Who joined an allocation by PIN",
                    data=MembersData,
                    codes=(Code.NOT_FOUND,),
                    second=SecondForm(data=SecondMembersData),
                ),
            ),
        ]

    async def _create(self, exchange: Exchange) -> RawAnswer:
        body = await read_bytes(exchange.request, JSON_BYTES_MAX)
        given = parse_greenvn_object(body)
        if is_second(given):
            return await self._second.create(exchange, Product.GREENVN, body, given)
        wish = self._wish(given)

        def answer_of(standing: Standing) -> bytes:
            return exchange.envelope(Answer(self._data(standing)))

        outcome = await self._allocating.create(
            exchange.tenant, wish, idempotency_key(exchange.request, body), answer_of
        )
        match outcome:
            case Repeated(answer):
                return RawAnswer(answer, REPLAYED)
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
        swap = GreenVnSwap(preferences, faults, self._switchboard.postal_regions.region_of)
        return await self._changed(exchange.tenant, name, swap)

    async def _release(self, exchange: Exchange) -> Answer:
        name = _name_of_path(exchange)
        changed = await self._allocating.release(exchange.tenant, name, exchange.request_id)
        return self._answer(changed)

    async def _members(self, exchange: Exchange) -> Answer:
        members = await self._allocating.members(exchange.tenant, _name_of_path(exchange))
        return Answer(members_shown(members, exchange.tenant.settings.timezone))

    def _wish(self, given: dict[str, Any]) -> GreenVnWish:
        client_id, draft = parse_greenvn(given)
        return GreenVnWish(client_id, draft, self._switchboard.postal_regions.region_of)

    async def _changed(
        self, tenant: TenantView, name: AllocationName, revision: GreenVnPartiesRevision | GreenVnSwap
    ) -> Answer:
        return self._answer(await self._allocating.update(tenant, name, revision))

    # ── answers ──────────────────────────────────────────────────────────────

    def _answer(self, changed: Changed) -> Answer:
        return Answer(self._data(changed.standing), headers=propagation(changed.is_propagated))

    def _data(self, standing: Standing) -> dict[str, Any]:
        return greenvn_data(standing, self._switchboard.clock.now_us())


def greenvn_data(standing: Standing, now_us: int) -> dict[str, Any]:
    """The keys of the page, the VN under both its names; `now_us` tells whether it is past its end."""
    allocation = standing.allocation
    virtual_number = allocation.a.virtual_numbers[0].plus
    data: dict[str, Any] = {
        "connection_id": standing.client_id,
        "aparty_numbers": _numbers_shown(allocation.a),
        "bparty_numbers": _numbers_shown(allocation.b),
        "aparty_pins": _pins_shown(allocation.a),
        "bparty_pins": _pins_shown(allocation.b),
        "usage": allocation.usage.value,
        "state": (State.ACTIVE if standing.is_active(now_us) else State.VAULT).value,
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
