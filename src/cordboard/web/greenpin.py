"""GreenPin, first generation (exotel.md 8.5): make, read, update, release, and who joined.

What is of the second generation goes on to web/second_generation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from cordboard.routing.allocate import Code, Generation, Standing, side_key
from cordboard.routing.model import NEVER_US, Party, Product, State
from cordboard.storage.allocations import AllocationName, Member, NotFound
from cordboard.storage.database import DatabaseAway
from cordboard.switchboard.allocating import Changed, Repeated
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import GreenPinRevision, GreenPinWish
from cordboard.web.account_time import iso_text, plain_text
from cordboard.web.bodies import (
    BULK_BYTES_MAX,
    JSON_BYTES_MAX,
    object_of,
    parse_json,
    read_bytes,
    read_object,
)
from cordboard.web.bulk import Done, bulk_answer, bulk_items, item_done, item_refused, make_each
from cordboard.web.documents import (
    GreenPinData,
    GreenPinItemData,
    GreenPinItemsBody,
    GreenPinsBody,
    MembersData,
    SecondGreenPinChangeBody,
    SecondGreenPinData,
    SecondGreenPinDeleted,
    SecondGreenPinItemBody,
    SecondGreenPinShown,
    SecondGreenPinUpdated,
    SecondItemData,
    SecondMembersData,
)
from cordboard.web.envelope import Answer, RawAnswer, propagation
from cordboard.web.errors import Refused, problem_of
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.idempotency import IDEMPOTENCY_HEADER, REPLAYED, idempotency_key
from cordboard.web.openapi import Operation, Route, SecondForm
from cordboard.web.schemas import UPDATABLE, GreenPinBody, parse_create, parse_id, parse_update
from cordboard.web.second_generation import SECOND_ENDED, SECOND_RULES, SecondGeneration
from cordboard.web.second_schemas import SecondGreenPinBody, is_second

# What a create or an update may break.
_RULES: Final = (
    Code.NOTHING_FREE,
    Code.NOT_PERMITTED,
    Code.ALL_DUPLICATES,
    Code.BOTH_SIDES,
    Code.BAD_NUMBER,
    Code.CLIENT_ID_TAKEN,
    Code.PIN_OR_NUMBER_TAKEN,
)


class GreenPins:
    def __init__(self, switchboard: Switchboard, second: SecondGeneration) -> None:
        self._switchboard = switchboard
        self._second = second
        self._allocating = switchboard.allocating

    def routes(self, tenants: Tenants) -> list[Route]:
        all_path = f"{TENANT_PATH}/greenpin"
        one_path = f"{all_path}/{{greenpin_id}}"
        second = self._second
        by_id = partial(second.by_id, Product.GREENPIN)
        return [
            tenants.route(
                "POST",
                all_path,
                self._create,
                Operation(
                    "Make an allocation",
                    description=(
                        "At least one side has numbers and at least one has virtual numbers; the other side"
                        " inherits the latter. A PIN that is not given is drawn."
                    ),
                    body=GreenPinBody,
                    required=("transaction_id",),
                    headers=(IDEMPOTENCY_HEADER,),
                    data=GreenPinData,
                    codes=_RULES,
                    second=SecondForm(
                        SecondGreenPinBody,
                        SecondGreenPinData,
                        201,
                        codes=SECOND_RULES,
                        required=("caller_id_number", "from"),
                    ),
                ),
            ),
            tenants.route(
                "PUT",
                all_path,
                self._update_many,
                Operation(
                    "Change many allocations",
                    description="Each item by itself, in their order.",
                    body=GreenPinItemsBody,
                    data=list[GreenPinItemData],
                    also={207: "Some items failed; the others are changed."},
                    second=SecondForm(list[SecondGreenPinItemBody], list[SecondItemData]),
                ),
            ),
            tenants.route(
                "POST",
                f"{all_path}/bulk",
                self._create_many,
                Operation(
                    "Make many allocations",
                    description="Each item by itself; what became of them comes in their order.",
                    body=GreenPinsBody,
                    data=list[GreenPinItemData],
                    also={207: "Some items failed; the others are made."},
                ),
            ),
            tenants.route(
                "GET",
                one_path,
                by_id(self._show, second.show),
                Operation(
                    "Show an allocation",
                    data=GreenPinData,
                    codes=(Code.NOT_FOUND,),
                    second=SecondForm(data=SecondGreenPinShown),
                ),
            ),
            tenants.route(
                "PUT",
                one_path,
                by_id(self._update, second.update),
                Operation(
                    "Change an allocation",
                    description=f"At least one of {UPDATABLE}; what is not named stays as it is.",
                    body=GreenPinBody,
                    data=GreenPinData,
                    codes=(*_RULES, Code.NOT_FOUND, Code.DELETED),
                    second=SecondForm(
                        SecondGreenPinChangeBody, SecondGreenPinUpdated, codes=(*SECOND_RULES, SECOND_ENDED)
                    ),
                ),
            ),
            tenants.route(
                "DELETE",
                one_path,
                by_id(self._release, second.release),
                Operation(
                    "End an allocation",
                    data=GreenPinData,
                    codes=(Code.NOT_FOUND, Code.DELETED),
                    second=SecondForm(data=SecondGreenPinDeleted, codes=(SECOND_ENDED,)),
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
        given = object_of(parse_json(body))
        if is_second(given):
            return await self._second.create(exchange, Product.GREENPIN, body, given)
        client_id, draft = parse_create(given)

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
                return RawAnswer(answer, REPLAYED)
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
        name = _name_of_path(exchange)
        changed = await self._allocating.release(exchange.tenant, name, exchange.request_id)
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

    async def _update_many(self, exchange: Exchange) -> Answer | RawAnswer:
        given = parse_json(await read_bytes(exchange.request, BULK_BYTES_MAX))
        if isinstance(given, list):
            return await self._second.update_many(exchange, given)
        items = bulk_items(object_of(given), "greenpins", self._switchboard.settings.bulk_items_max)
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
        return greenpin_data(standing, tenant, self._switchboard.clock.now_us())


def greenpin_data(standing: Standing, tenant: TenantView, now_us: int) -> dict[str, Any]:
    """The keys of the page, in its order; `now_us` tells whether it is past its end."""
    allocation = standing.allocation
    is_active = standing.is_active(now_us)
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
