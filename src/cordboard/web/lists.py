"""Lists, an extension of ours (exotel.md 11.1): allocations, calls and verifications, newest first.

Good: `?vn=08000000010&state=active&limit=100`, `?caller=withheld&from_date=2026-03-01&to_date=2026-03-01`.
Bad: `?colour=red` (code 2); a filter blank or given twice, `?limit=0`, `?to_date=tomorrow` (5);
`?number=12` (16); `?from_date=2026-03-02&to_date=2026-03-01` (23).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
from aiohttp import web

from cordboard.routing.allocate import Code, Standing, side_key
from cordboard.routing.model import Product, Side, State
from cordboard.routing.numbers import E164, parse_number
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
    Span,
    VerificationFilter,
    VerificationKey,
    VerificationRecord,
)
from cordboard.storage.outcomes import WITHHELD
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.account_time import iso_text, parse_instants
from cordboard.web.envelope import Answer
from cordboard.web.errors import Refused
from cordboard.web.exchange import TENANT_PATH, Exchange, TenantHandler, Tenants
from cordboard.web.greenpin import greenpin_data
from cordboard.web.schemas import parse_id

LIMIT_DEFAULT: Final = 50
# Some 500 kB of answer and 20 ms of the database.
LIMIT_MAX: Final = 1_000
# 1970 to 9998: what the tables can have, with room for an offset.
LATEST_US: Final = 253_370_764_800_000_000
# How a caller without a number is asked for.
WITHHELD_WORD: Final = "withheld"

_PAGING: Final = ("from_date", "to_date", "limit", "cursor")
_KEY = re.compile(r"[a-z][a-z_.\-]{0,39}", re.ASCII | re.IGNORECASE)
_BIGINT_MAX: Final = 2**63 - 1

ItemOf = Callable[[Standing, TenantView, int], dict[str, Any]]
Item = TypeVar("Item")
Key = TypeVar("Key", AllocationKey, CallRecordKey, VerificationKey)


class Lists:
    def __init__(self, switchboard: Switchboard) -> None:
        self._clock = switchboard.clock
        self._database = switchboard.database

    def routes(self, tenants: Tenants) -> list[web.RouteDef]:
        greenpins = self.allocations(Product.GREENPIN, "transaction_id", greenpin_data)
        return [
            tenants.route("GET", f"{TENANT_PATH}/greenpin", greenpins),
            tenants.route("GET", f"{TENANT_PATH}/calls", self._calls),
            tenants.route("GET", f"{TENANT_PATH}/verifications", self._verifications),
        ]

    def allocations(self, product: Product, client_id_key: str, item_of: ItemOf) -> TenantHandler:
        """Lists the allocations of `product`, whose client id the wire calls `client_id_key`.

        `item_of(standing, tenant, now_us)` words one of them.
        """

        async def show(exchange: Exchange) -> Answer:
            query = Query(exchange, (client_id_key, "vn", "number", "state"))
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
            return _answer(page, lambda standing: item_of(standing, tenant, now_us))

        return show

    async def _calls(self, exchange: Exchange) -> Answer:
        query = Query(exchange, ("call_sid", "caller", "vn", "allocation_id", "decision"))
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
        query = Query(exchange, ("call_sid", "caller", "vn", "allocation_id", "outcome"))
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


# ── what is asked ────────────────────────────────────────────────────────────


class Query:
    """The query of a list, whose keys are known, given once and not blank.

    Everything here raises Refused, with a message that names the key and quotes no value.
    """

    def __init__(self, exchange: Exchange, filters: Collection[str]) -> None:
        given = exchange.request.query
        settings = exchange.tenant.settings
        self._country, self._timezone = settings.country, settings.timezone
        for key in given:
            if key not in filters and key not in _PAGING:
                # A key of another form may be anything, a number among it.
                named = f"{key} is" if _KEY.fullmatch(key) else "One of the keys is"
                known = ", ".join((*filters, *_PAGING))
                raise Refused(Code.UNSUPPORTED_FILTER, f"{named} no filter of this list; it has {known}.")
        for key, value in given.items():
            if len(given.getall(key)) > 1:
                raise Refused(Code.BAD, f"{key} must be given once.")
            if not value.strip():
                raise Refused(Code.BAD, f"{key} must not be blank.")
        self._given = given

    def text(self, key: str) -> str | None:
        value = self._given.get(key)
        if value is not None and not _is_storable(value):
            raise Refused(Code.BAD, f"{key} must be text without the character U+0000.")
        return value

    def word(self, key: str, words: Iterable[str]) -> str | None:
        value = self._given.get(key)
        if value is not None and value not in words:
            raise Refused(Code.BAD, f"{key} must be one of {', '.join(words)}.")
        return value

    def state(self, key: str) -> State | None:
        word = self.word(key, [state.value for state in State])
        return None if word is None else State(word)

    def number(self, key: str) -> E164 | None:
        value = self._given.get(key)
        if value is None:
            return None
        number = parse_number(value, self._country)
        if number is None:
            raise Refused(Code.BAD_NUMBER, f"{key} is not a telephone number.")
        return number

    def caller(self, key: str) -> int | None:
        """The number, or WITHHELD."""
        return WITHHELD if self._given.get(key) == WITHHELD_WORD else self.number(key)

    def id(self, key: str) -> UUID | None:
        value = self._given.get(key)
        if value is None:
            return None
        id = parse_id(value)
        if id is None:
            raise Refused(Code.BAD, f"{key} must be a UUID.")
        return id

    def span(self) -> Span:
        """From the first instant of what `from_date` names until the last of `to_date`."""
        from_date, to_date = self._instants("from_date"), self._instants("to_date")
        from_us = 0 if from_date is None else from_date.start
        before_us = LATEST_US if to_date is None else to_date.stop
        if from_date is not None and to_date is not None and from_us >= before_us:
            raise Refused(Code.DATE_RANGE, "from_date is later than to_date.")
        return Span(min(max(from_us, 0), LATEST_US), min(max(before_us, 0), LATEST_US))

    def _instants(self, key: str) -> range | None:
        value = self._given.get(key)
        if value is None:
            return None
        instants = parse_instants(value, self._timezone)
        if instants is None:
            raise Refused(
                Code.BAD, f"{key} must be YYYY-MM-DD, YYYY-MM-DD HH:mm:ss or ISO 8601 with an offset."
            )
        return instants

    def limit(self) -> int:
        value = self._given.get("limit")
        if value is None:
            return LIMIT_DEFAULT
        is_short_number = value.isascii() and value.isdigit() and len(value) <= len(str(LIMIT_MAX))
        limit = int(value) if is_short_number else 0
        if not 1 <= limit <= LIMIT_MAX:
            raise Refused(Code.BAD, f"limit must be a whole number from 1 to {LIMIT_MAX}.")
        return limit

    def after(self, key_of: Callable[[Any], Key]) -> Key | None:
        """Where the page begins, as `key_of` reads it out of the parts of a cursor."""
        cursor = self._given.get("cursor")
        if cursor is None:
            return None
        try:
            return key_of(orjson.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)))
        except (binascii.Error, ValueError, TypeError):
            message = "cursor must be the next_cursor of a page before, of the same list and filters."
            raise Refused(Code.BAD, message) from None


def _is_storable(text: str) -> bool:
    """Whether PostgreSQL could have this text at all: it has no U+0000 and no lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


# ── cursors: the key at which a page ended, as JSON in base64 ────────────────


def _cursor(key: AllocationKey | CallRecordKey | VerificationKey) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).decode()


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
    if not isinstance(value, str) or not _is_storable(value):
        raise ValueError
    return value


# ── what is answered ─────────────────────────────────────────────────────────


def _answer(page: Page[Item, Key], data_of: Callable[[Item], dict[str, Any]]) -> Answer:
    next_cursor = None if page.next_key is None else _cursor(page.next_key)
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
    }


def _plus(number: E164 | None) -> str | None:
    return None if number is None else number.plus


def _id_text(id: UUID | None) -> str | None:
    return None if id is None else str(id)


def _side_text(side: Side | None) -> str | None:
    return None if side is None else side_key(side)
