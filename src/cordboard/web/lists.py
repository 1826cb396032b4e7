"""Lists, an extension of ours (exotel.md 11.1): allocations, calls and verifications, newest first.

Good: `?vn=08000000010&state=active&limit=100`, `?caller=withheld&from_date=2026-03-01&to_date=2026-03-01`.
Bad: `?colour=red` (code 2); a filter blank or given twice, `?limit=0`, `?to_date=tomorrow` (5);
`?number=12` (16); `?from_date=2026-03-02&to_date=2026-03-01` (23).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import UUID

from cordboard.routing.allocate import Code, Generation, Standing, side_key
from cordboard.routing.model import Product, Side
from cordboard.routing.numbers import E164
from cordboard.storage import listing
from cordboard.storage.listing import (
    DECISIONS,
    OUTCOMES,
    AllocationFilter,
    AllocationKey,
    CallFilter,
    CallRecord,
    CallRecordKey,
    EndRecord,
    Page,
    VerificationFilter,
    VerificationKey,
    VerificationRecord,
)
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.account_time import iso_text
from cordboard.web.documents import (
    CallData,
    CallListQuery,
    GreenPinData,
    GreenPinListQuery,
    GreenVnData,
    GreenVnListQuery,
    ListQuery,
    PageOf,
    SecondGreenPinData,
    SecondGreenVnData,
    VerificationData,
    VerificationListQuery,
)
from cordboard.web.envelope import Answer
from cordboard.web.exchange import TENANT_PATH, Exchange, TenantHandler, Tenants
from cordboard.web.greenpin import greenpin_data
from cordboard.web.greenvn import greenvn_data
from cordboard.web.openapi import Operation, Route
from cordboard.web.query import LATEST_US, LIMIT_MAX, Query, cursor_of, is_storable
from cordboard.web.second_generation import second_data

_FILTER_CODES: Final = (Code.UNSUPPORTED_FILTER, Code.BAD, Code.BAD_NUMBER, Code.DATE_RANGE)
_BIGINT_MAX: Final = 2**63 - 1

ItemOf = Callable[[Standing, TenantView, int], dict[str, Any]]
Item = TypeVar("Item")
Key = TypeVar("Key", AllocationKey, CallRecordKey, VerificationKey)


class Lists:
    def __init__(self, switchboard: Switchboard) -> None:
        self._clock = switchboard.clock
        self._database = switchboard.database

    def routes(self, tenants: Tenants) -> list[Route]:
        greenpins = self.allocations(Product.GREENPIN, GreenPinListQuery, "transaction_id", greenpin_data)
        greenvns = self.allocations(
            Product.GREENVN,
            GreenVnListQuery,
            "connection_id",
            lambda standing, _, now_us: greenvn_data(standing, now_us),
        )
        return [
            tenants.route(
                "GET",
                f"{TENANT_PATH}/greenpin",
                greenpins,
                Operation(
                    "List allocations",
                    query=GreenPinListQuery,
                    data=PageOf[GreenPinData | SecondGreenPinData],
                    codes=_FILTER_CODES,
                ),
            ),
            tenants.route(
                "GET",
                f"{TENANT_PATH}/greenvn",
                greenvns,
                Operation(
                    "List allocations",
                    query=GreenVnListQuery,
                    data=PageOf[GreenVnData | SecondGreenVnData],
                    codes=_FILTER_CODES,
                ),
            ),
            tenants.route(
                "GET",
                f"{TENANT_PATH}/calls",
                self._calls,
                Operation("List calls", query=CallListQuery, data=PageOf[CallData], codes=_FILTER_CODES),
            ),
            tenants.route(
                "GET",
                f"{TENANT_PATH}/verifications",
                self._verifications,
                Operation(
                    "List verifications",
                    description="Each PIN entry once, without its digits.",
                    query=VerificationListQuery,
                    data=PageOf[VerificationData],
                    codes=_FILTER_CODES,
                ),
            ),
        ]

    def allocations(
        self, product: Product, known: type[ListQuery], client_id_key: str, item_of: ItemOf
    ) -> TenantHandler:
        """Lists the allocations of `product`, whose client id the wire calls `client_id_key`.

        `item_of(standing, tenant, now_us)` words one of them.
        """

        async def show(exchange: Exchange) -> Answer:
            query = Query(exchange.request, exchange.tenant.settings, known)
            wanted = AllocationFilter(
                product=product,
                client_id=query.text(client_id_key),
                virtual_number=query.number("vn"),
                number=query.number("number"),
                state=query.state("state"),
            )
            span, after, limit = query.span(), query.after(_allocation_key), query.limit()
            tenant, now_us = exchange.tenant, self._clock.now_us()
            page = await self._database.read_snapshot(
                lambda connection: listing.list_allocations(
                    connection, tenant.cell, tenant.id, wanted, span, after, limit, now_us
                )
            )

            def worded(standing: Standing) -> dict[str, Any]:
                # Each in the form of the generation that made it.
                word = second_data if standing.generation is Generation.SECOND else item_of
                return word(standing, tenant, now_us)

            return _answer(page, worded)

        return show

    async def _calls(self, exchange: Exchange) -> Answer:
        query = Query(exchange.request, exchange.tenant.settings, CallListQuery)
        wanted = CallFilter(
            call_sid=query.text("call_sid"),
            caller=query.caller("caller"),
            virtual_number=query.number("vn"),
            allocation_id=query.id("allocation_id"),
            decision=query.word("decision", DECISIONS),
        )
        span, after, limit = query.span(), query.after(_call_key), query.limit()
        tenant = exchange.tenant
        page = await self._database.read_snapshot(
            lambda connection: listing.list_calls(
                connection, tenant.cell, tenant.id, wanted, span, after, limit
            )
        )
        return _answer(page, lambda call: _call_data(call, tenant.settings.timezone))

    async def _verifications(self, exchange: Exchange) -> Answer:
        query = Query(exchange.request, exchange.tenant.settings, VerificationListQuery)
        wanted = VerificationFilter(
            call_sid=query.text("call_sid"),
            caller=query.caller("caller"),
            virtual_number=query.number("vn"),
            allocation_id=query.id("allocation_id"),
            outcome=query.word("outcome", OUTCOMES),
        )
        span, after, limit = query.span(), query.after(_verification_key), query.limit()
        tenant = exchange.tenant
        page = await self._database.read_snapshot(
            lambda connection: listing.list_verifications(
                connection, tenant.cell, tenant.id, wanted, span, after, limit
            )
        )
        return _answer(page, lambda entry: _verification_data(entry, tenant.settings.timezone))


# ── cursors: the key at which a page ended ───────────────────────────────────


def _allocation_key(parts: Any) -> AllocationKey:
    """Raises ValueError or TypeError for what `_cursor` never made; so do the other two."""
    created_at_us, id = parts
    return AllocationKey(_within(LATEST_US, created_at_us), UUID(_checked_text(id)))


def _call_key(parts: Any) -> CallRecordKey:
    first_hop_at_us, call_sid, virtual_number, caller = parts
    return CallRecordKey(
        _within(LATEST_US, first_hop_at_us),
        _checked_text(call_sid),
        _within(_BIGINT_MAX, virtual_number),
        _within(_BIGINT_MAX, caller),
    )


def _verification_key(parts: Any) -> VerificationKey:
    *call, shown = parts
    # A cursor that says more would have more read than a page.
    return VerificationKey(*_call_key(call), shown=_within(LIMIT_MAX, shown))


def _within(largest: int, value: object) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError
    return value


def _checked_text(value: object) -> str:
    if not isinstance(value, str) or not is_storable(value):
        raise ValueError
    return value


# ── what is answered ─────────────────────────────────────────────────────────


def _answer(page: Page[Item, Key], data_of: Callable[[Item], dict[str, Any]]) -> Answer:
    next_cursor = None if page.next_key is None else cursor_of(page.next_key)
    return Answer({"items": [data_of(item) for item in page.items], "next_cursor": next_cursor})


def _call_data(call: CallRecord, zone: str) -> dict[str, Any]:
    # A CallSid has one end, which only its connected call has to do with.
    dialled = call.end.dialled if call.end is not None and call.decision == "connect" else None
    return {
        "call_sid": call.call_sid,
        "vn": call.virtual_number.plus,
        "caller": _plus(call.caller),
        "decision": call.decision,
        "reason": call.reason,
        "matched": call.matched,
        "allocation_id": _id_text(call.allocation_id),
        "product": None if call.product is None else call.product.value,
        "side": _side_text(call.side),
        "to": _plus(dialled or call.target),
        "first_hop_at": iso_text(call.first_hop_at_us, zone),
        "last_hop_at": iso_text(call.last_hop_at_us, zone),
        "request_id": call.request_id,
        "end": None if call.end is None else _end_data(call.end, zone),
    }


def _end_data(end: EndRecord, zone: str) -> dict[str, Any]:
    return {
        "call_type": end.call_type,
        "dial_call_status": end.dial_call_status,
        "dial_call_duration": end.dial_call_duration_s,
        "on_call_duration": end.on_call_duration_s,
        "recording_url": end.recording_url,
        "start_time": end.start_time,
        "ended_at": iso_text(end.ended_at_us, zone),
        "request_id": end.request_id,
    }


def _verification_data(entry: VerificationRecord, zone: str) -> dict[str, Any]:
    return {
        "call_sid": entry.call_sid,
        "vn": entry.virtual_number.plus,
        "caller": _plus(entry.caller),
        "outcome": entry.outcome,
        "reason": entry.reason,
        "allocation_id": _id_text(entry.allocation_id),
        "side": _side_text(entry.side),
        "verified_at": iso_text(entry.verified_at_us, zone),
        "request_id": entry.request_id,
    }


def _plus(number: E164 | None) -> str | None:
    return None if number is None else number.plus


def _id_text(id: UUID | None) -> str | None:
    return None if id is None else str(id)


def _side_text(side: Side | None) -> str | None:
    return None if side is None else side_key(side)
