"""One box for whatever the person on call was told: an id, a CallSid or a phone number.

The text comes by POST, because a number in a URL would stay in histories and logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from aiohttp import web
from multidict import MultiDict
from pydantic import BaseModel

from cordboard.routing.allocate import Standing
from cordboard.routing.model import Product
from cordboard.routing.numbers import E164, parse_number
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import allocations, listing
from cordboard.storage.database import Connection
from cordboard.storage.listing import (
    AllocationFilter,
    CallFilter,
    CallRecord,
    Span,
    VerificationFilter,
    VerificationRecord,
)
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.console.frame import TENANT, Form, Frame, Page, Visit
from cordboard.web.console.records import allocation_row, call_row, verification_row
from cordboard.web.errors import Refused
from cordboard.web.query import LATEST_US, Query
from cordboard.web.schemas import parse_id
from cordboard.web.second_generation import second_name

# The newest of each kind, which fill a screen or two; the lists of the REST API have the rest.
FOUND_MAX: Final = 25
ALWAYS: Final = Span(0, LATEST_US)

Item = TypeVar("Item")


class FindForm(BaseModel):
    """`kept_q` is what was typed on the page before, sealed."""

    q: str
    kept_q: str | None = None


class Found(NamedTuple):
    """What goes by a text, the newest first."""

    allocations: list[Standing]
    calls: list[CallRecord]
    verifications: list[VerificationRecord]


class Finding:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        return [self._frame.get(TENANT, self._show), self._frame.post(TENANT, self._find)]

    async def _show(self, visit: Visit) -> Page:
        tenant = visit.tenant
        await self._switchboard.records.flush()
        page = await self._switchboard.database.read_snapshot(
            lambda connection: listing.list_calls(
                connection, tenant.cell, tenant.id, CallFilter(), ALWAYS, None, FOUND_MAX
            )
        )
        latest = [call_row(call) for call in page.items]
        return Page("find.html", {"sought": None, "fault": None, "latest": latest})

    async def _find(self, visit: Visit) -> Page:
        tenant = visit.tenant
        try:
            text = sought_text(visit, tenant.settings)
        except Refused as refused:
            problem = refused.problem
            return Page("find.html", {"sought": None, "fault": problem.message, "latest": []}, problem.status)
        # What was answered a moment ago is written behind.
        await self._switchboard.records.flush()
        found = await find_in(self._switchboard, tenant, text, visit.now_us)
        number = parse_number(text, tenant.settings.country)
        return Page(
            "find.html",
            {
                "fault": None,
                # A number that was sought is masked like every other.
                "sought": text if number is None else str(number),
                "is_number": number is not None,
                "found_max": FOUND_MAX,
                "allocations": [allocation_row(standing, visit.now_us) for standing in found.allocations],
                "calls": [call_row(call) for call in found.calls],
                "verifications": [verification_row(entry) for entry in found.verifications],
            },
        )


def sought_text(visit: Visit, settings: TenantSettings) -> str:
    """Raises Refused."""
    fields = MultiDict(visit.form.query)
    if (kept := visit.unseal("kept_q")) is not None:
        fields["q"] = kept
    query = Query(Form(fields), settings, FindForm)
    query.must_have("q")
    text = query.text("q")
    assert text is not None, "it must be given"
    return text


async def find_in(switchboard: Switchboard, tenant: TenantView, text: str, now_us: int) -> Found:
    """Raises DatabaseAway."""
    number = parse_number(text, tenant.settings.country)
    return await switchboard.database.read_snapshot(
        lambda connection: _found(connection, tenant, text, number, now_us)
    )


async def _found(
    connection: Connection, tenant: TenantView, text: str, number: E164 | None, now_us: int
) -> Found:
    """What goes by this text: as an id of ours or of the client, as a CallSid, as a caller, party or VN."""
    call_filters = [CallFilter(call_sid=text)]
    entry_filters = [VerificationFilter(call_sid=text)]
    allocation_filters = [AllocationFilter(product, client_id=text) for product in Product]
    if number is not None:
        call_filters += [CallFilter(caller=number), CallFilter(virtual_number=number)]
        entry_filters += [VerificationFilter(caller=number), VerificationFilter(virtual_number=number)]
        for product in Product:
            allocation_filters.append(AllocationFilter(product, number=number))
            allocation_filters.append(AllocationFilter(product, virtual_number=number))
    cell, id = tenant.cell, tenant.id
    standings: dict[bytes, Standing] = {}
    if (named := allocation_id_of(text)) is not None:
        of_id = (await allocations.find(connection, cell, [named])).get(named)
        if of_id is not None and of_id.standing.tenant_id == id:
            standings[of_id.standing.allocation.id] = of_id.standing
    for wanted in allocation_filters:
        page = await listing.list_allocations(connection, cell, id, wanted, ALWAYS, None, FOUND_MAX, now_us)
        standings |= {standing.allocation.id: standing for standing in page.items}
    calls = [
        call
        for call_filter in call_filters
        for call in (
            await listing.list_calls(connection, cell, id, call_filter, ALWAYS, None, FOUND_MAX)
        ).items
    ]
    entries = [
        entry
        for entry_filter in entry_filters
        for entry in (
            await listing.list_verifications(connection, cell, id, entry_filter, ALWAYS, None, FOUND_MAX)
        ).items
    ]
    return Found(
        _newest(list(standings.values()), lambda standing: standing.created_at_us),
        _newest(list(dict.fromkeys(calls)), lambda call: call.first_hop_at_us),
        _newest(list(dict.fromkeys(entries)), lambda entry: entry.verified_at_us),
    )


def _newest(items: Sequence[Item], instant_us: Callable[[Item], int]) -> list[Item]:
    return sorted(items, key=instant_us, reverse=True)[:FOUND_MAX]


def allocation_id_of(text: str) -> UUID | None:
    """An allocation's id as either generation writes it."""
    if (id := parse_id(text)) is not None:
        return id
    for product in Product:
        if (named := second_name(product, text)) is not None:
            return named.id
    return None
