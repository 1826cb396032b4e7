"""GreenPin and GreenVN, second generation (exotel.md 9): the same paths, another form of everything else.

A create is of this generation by its `caller_id_number`, a path by its id (`gp_…`, `gvn_…`), a bulk update by
being a bare array; from there on its errors have this generation's form too. What goes wrong before that is
known (credentials, version, a create or bulk body that is too large or no JSON) is answered in the form of
the first generation, which is the contract.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import orjson

from cordboard.routing.allocate import (
    Code,
    Fault,
    Generation,
    ReleaseCause,
    Standing,
    Unacceptable,
    id_prefix,
    id_text,
)
from cordboard.routing.model import Product
from cordboard.routing.second_generation import OutOfRange, SecondDraft
from cordboard.storage.allocations import AllocationName, AlreadyReleased, NotFound
from cordboard.storage.database import DatabaseAway
from cordboard.storage.listing import count_calls_of
from cordboard.switchboard.allocating import Changed, IdempotencyKey, Repeated
from cordboard.switchboard.second_wishes import SecondRevision, SecondWish
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import POOL_CHANGED
from cordboard.web.account_time import iso_text
from cordboard.web.bodies import read_object
from cordboard.web.envelope import Answer, RawAnswer, propagation
from cordboard.web.errors import Problem, Refused, problem_of
from cordboard.web.exchange import Exchange, TenantHandler
from cordboard.web.idempotency import REPLAYED, idempotency_key
from cordboard.web.second_schemas import (
    parse_call_party,
    parse_second_create,
    parse_second_update,
    parse_swap,
)

# What a create or an update may break, with the statuses that only this generation has.
SECOND_RULES: Final = (
    (400, Code.BAD_NUMBER),
    (403, Code.NOT_PERMITTED),
    *(
        (409, code)
        for code in (Code.NOTHING_FREE, Code.ALL_DUPLICATES, Code.BOTH_SIDES, Code.PIN_OR_NUMBER_TAKEN)
    ),
    (422, Code.BAD),
)
SECOND_ENDED: Final = (409, Code.DELETED)

_DIGITS_OF_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

SecondHandler = Callable[[Exchange, Product], Awaitable[RawAnswer]]


def names_second(given_id: str) -> bool:
    """Whether an id, good or bad, is written as this generation writes them."""
    return given_id.startswith(tuple(map(id_prefix, Product)))


def second_name(product: Product, given_id: str) -> AllocationName | None:
    """The allocation that `gp_` or `gvn_` and 32 lower-case hex digits name; None for every other text."""
    digits = given_id.removeprefix(id_prefix(product))
    if digits == given_id or not _DIGITS_OF_ID.fullmatch(digits):
        return None
    return AllocationName(UUID(digits), product, Generation.SECOND)


class SecondGeneration:
    """The handlers of this generation: what reaches them is theirs, and so is every error from there on."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._allocating = switchboard.allocating

    def by_id(self, product: Product, first: TenantHandler, second: SecondHandler) -> TenantHandler:
        """A handler for a path with an id, which tells the generations apart."""
        key = f"{product.value}_id"

        async def handle(exchange: Exchange) -> Answer | RawAnswer:
            if not names_second(exchange.request.match_info[key]):
                return await first(exchange)
            try:
                return await second(exchange, product)
            except Exception as error:
                return _refused(exchange, error)

        return handle

    async def create(
        self, exchange: Exchange, product: Product, body: bytes, given: dict[str, Any]
    ) -> RawAnswer:
        """`given` is what `body` says."""
        try:
            return await self._create(exchange, product, body, given)
        except Exception as error:
            return _refused(exchange, error)

    async def show(self, exchange: Exchange, product: Product) -> RawAnswer:
        tenant, name = exchange.tenant, _name_of_path(exchange, product)
        standing = await self._allocating.find(tenant, name)
        calls = await self._switchboard.database.read(
            partial(count_calls_of, cell=tenant.cell, allocation_id=name.id)
        )
        return _answer({**self._data(standing, tenant), "call_count": calls})

    async def update(self, exchange: Exchange, product: Product) -> RawAnswer:
        """`PUT /greenpin/{id}`."""
        return await self._revise(exchange, product, parse_second_update)

    async def change_parties(self, exchange: Exchange, product: Product) -> RawAnswer:
        """`PUT /greenvn/{id}/call-party`."""
        return await self._revise(exchange, product, parse_call_party)

    async def swap(self, exchange: Exchange, product: Product) -> RawAnswer:
        """`PUT /greenvn/{id}/vn`."""
        return await self._revise(exchange, product, parse_swap)

    async def release(self, exchange: Exchange, product: Product) -> RawAnswer:
        name = _name_of_path(exchange, product)
        changed = await self._allocating.release(exchange.tenant, name, exchange.request_id)
        standing = changed.standing
        assert standing.released_at_us is not None, "it was just released"
        data = {
            f"{product.value}_id": _id_text(standing),
            "status": "deleted",
            "deleted_at": iso_text(standing.released_at_us, exchange.tenant.settings.timezone),
        }
        return _answer(data, headers=propagation(changed.is_propagated))

    async def members(self, exchange: Exchange, product: Product) -> RawAnswer:
        """Who joined by entering the PIN: they all are `to`."""
        members = await self._allocating.members(exchange.tenant, _name_of_path(exchange, product))
        zone = exchange.tenant.settings.timezone
        joined = [
            {"number": member.number.plus, "joined_at": iso_text(member.joined_at_us, zone)}
            for member in members
        ]
        return _answer({"members": joined})

    async def update_many(self, exchange: Exchange, items: list[Any]) -> RawAnswer:
        """The bulk update of GreenPins."""
        try:
            return await self._update_many(exchange, items)
        except Exception as error:
            return _refused(exchange, error)

    # ── behind the handlers ──────────────────────────────────────────────────

    async def _create(
        self, exchange: Exchange, product: Product, body: bytes, given: dict[str, Any]
    ) -> RawAnswer:
        def answer_of(standing: Standing) -> bytes:
            return _enveloped(self._data(standing, exchange.tenant))

        outcome = await self._allocating.create(
            exchange.tenant,
            SecondWish(product, parse_second_create(product, given)),
            _key_of(product, idempotency_key(exchange.request, body), body),
            answer_of,
        )
        match outcome:
            case Repeated(answer):
                return RawAnswer(answer, REPLAYED, 201)
            case Changed(standing, is_propagated):
                return RawAnswer(answer_of(standing), propagation(is_propagated), 201)

    async def _revise(
        self, exchange: Exchange, product: Product, parse: Callable[[object], SecondDraft]
    ) -> RawAnswer:
        name = _name_of_path(exchange, product)
        draft = parse(await read_object(exchange.request))
        changed = await self._allocating.update(exchange.tenant, name, SecondRevision(draft))
        standing = changed.standing
        # Own values again change nothing; it then shows when it last was changed, or made.
        updated_at_us = standing.updated_at_us or standing.created_at_us
        data = {
            **self._data(standing, exchange.tenant),
            "updated_at": iso_text(updated_at_us, exchange.tenant.settings.timezone),
        }
        return _answer(data, headers=propagation(changed.is_propagated))

    async def _update_many(self, exchange: Exchange, items: list[Any]) -> RawAnswer:
        items_max = self._switchboard.settings.bulk_items_max
        if not items:
            raise Refused(Code.MISSING, "At least one item must be given.")
        if len(items) > items_max:
            raise Refused(Code.TOO_MANY, f"At most {items_max} items can be given.")
        reports: list[dict[str, Any]] = []
        is_propagated = True
        away: DatabaseAway | None = None
        # One after the other: an id may come twice, and then the order counts.
        for item in items:
            given_id = item.get("greenpin_id") if isinstance(item, dict) else None
            report: dict[str, Any] = {"greenpin_id": given_id if isinstance(given_id, str) else None}
            try:
                if away is not None:
                    # Each further try would only wait for its own timeout.
                    raise away
                changed = await self._update_item(exchange.tenant, item, given_id)
            except Exception as error:
                away = error if isinstance(error, DatabaseAway) else away
                problem = _problem_of(error)
                report |= {"status": "failed", "code": int(problem.code), "message": problem.message}
            else:
                is_propagated &= changed.is_propagated
                report["status"] = "updated"
            reports.append(report)
        has_failed = any(report["status"] == "failed" for report in reports)
        return _answer(reports, 207 if has_failed else 200, propagation(is_propagated))

    async def _update_item(self, tenant: TenantView, item: object, given_id: object) -> Changed:
        if not isinstance(item, dict):
            raise Refused(Code.BAD, "The item must be an object.")
        if given_id is None:
            raise Refused(Code.MISSING, "greenpin_id must be given.")
        if not isinstance(given_id, str):
            raise Refused(Code.BAD, "greenpin_id must be text.")
        name = second_name(Product.GREENPIN, given_id)
        if name is None:
            raise NotFound(Product.GREENPIN)
        return await self._allocating.update(tenant, name, SecondRevision(parse_second_update(item)))

    def _data(self, standing: Standing, tenant: TenantView) -> dict[str, Any]:
        return second_data(standing, tenant, self._switchboard.clock.now_us())


def second_data(standing: Standing, tenant: TenantView, now_us: int) -> dict[str, Any]:
    """The keys of the pages, in their order; `now_us` tells whether it is past its end."""
    allocation = standing.allocation
    zone = tenant.settings.timezone
    shown_id = _id_text(standing)
    [virtual_number] = allocation.a.virtual_numbers
    parties = {
        "from": [number.plus for number in allocation.a.numbers],
        "to": [number.plus for number in allocation.b.numbers],
        "status": _status(standing, now_us),
        "record": allocation.policy.record,
    }
    times = {
        "created_at": iso_text(standing.created_at_us, zone),
        "expires_at": iso_text(allocation.expires_at_us, zone),
    }
    custom_field = {"custom_field": allocation.policy.custom_field}
    if allocation.product is Product.GREENVN:
        named = {"greenvn_id": shown_id, "virtual_number": virtual_number.plus}
        return {**named, **parties, **custom_field, **times}
    pin = allocation.b.pin
    assert pin is not None, "every GreenPin of this generation has one"
    named = {"greenpin_id": shown_id, "virtual_number": virtual_number.plus, "pin": pin.digits}
    return {**named, **parties, **times, **custom_field}


def _status(standing: Standing, now_us: int) -> str:
    if standing.is_active(now_us):
        return "active"
    was_deleted = standing.release_cause is ReleaseCause.REQUESTED
    # GreenVN's page has no `expired`.
    return "deleted" if was_deleted or standing.allocation.product is Product.GREENVN else "expired"


def _id_text(standing: Standing) -> str:
    return id_text(standing.allocation.id, standing.allocation.product, standing.generation)


def _name_of_path(exchange: Exchange, product: Product) -> AllocationName:
    """Raises NotFound."""
    name = second_name(product, exchange.request.match_info[f"{product.value}_id"])
    if name is None:
        raise NotFound(product)
    return name


def _key_of(product: Product, key: IdempotencyKey | None, body: bytes) -> IdempotencyKey | None:
    """Both products know the same bodies here, so a key belongs to a body under one of them."""
    if key is None:
        return None
    return replace(key, body_digest=hashlib.sha256(product.value.encode() + b"\n" + body).digest())


# ── the form of answers ──────────────────────────────────────────────────────


def _enveloped(data: Any) -> bytes:
    return orjson.dumps({"response": data})


def _answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> RawAnswer:
    return RawAnswer(_enveloped(data), headers or {}, status)


def _refused(exchange: Exchange, error: Exception) -> RawAnswer:
    problem = _problem_of(error)
    said = {
        "status": problem.status,
        "code": int(problem.code),
        "message": problem.message,
        "request_id": exchange.request_id,
    }
    return _answer(said, problem.status, problem.headers)


def _problem_of(error: Exception) -> Problem:
    """As of the first generation, but for the statuses that this one has for itself."""
    match error:
        case AlreadyReleased(product=product):
            return Problem(Code.DELETED, f"{product.value}_id: the allocation is not active any more.", 409)
        case Unacceptable(fault=OutOfRange(code=code, message=message)):
            return Problem(code, message, 422)
        case Unacceptable(fault=Fault(code=Code.NOTHING_FREE, message=message)):
            return Problem(Code.NOTHING_FREE, message, 409)
        case Unacceptable(fault=fault) if fault is POOL_CHANGED:
            message = "caller_id_number: it was just taken out of the tenant's pool."
            return Problem(fault.code, message)
        case _:
            return problem_of(error)
