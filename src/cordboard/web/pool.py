"""`GET …/pool`: how much room each VN of a tenant has left."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from cordboard.routing.allocate import Code
from cordboard.routing.numbers import E164, PIN_DIGITS_MAX
from cordboard.storage import allocations
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.tables.records import VirtualNumberState
from cordboard.web.documents import PageOf, PooledNumberData, PoolQuery
from cordboard.web.envelope import Answer
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route
from cordboard.web.query import Query, cursor_of

_POOL: Final = Operation(
    "Show the pool",
    description="By virtual number: what stands on it, and how many PINs of each length are free.",
    query=PoolQuery,
    data=PageOf[PooledNumberData],
    codes=(Code.UNSUPPORTED_FILTER, Code.BAD, Code.BAD_NUMBER),
)


class Pool:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard

    def routes(self, tenants: Tenants) -> list[Route]:
        return [tenants.route("GET", f"{TENANT_PATH}/pool", self._show, _POOL)]

    async def _show(self, exchange: Exchange) -> Answer:
        tenant = exchange.tenant
        query = Query(exchange.request, tenant.settings, PoolQuery)
        wanted, after, limit = query.number("vn"), query.after(last_number), query.limit()
        page = await pool_page(self._switchboard, tenant, wanted, after, limit)
        return Answer(
            {
                "items": [_item(item) for item in page.items],
                "next_cursor": None if page.next_number is None else cursor_of([page.next_number]),
            }
        )


class PooledNumber(NamedTuple):
    """A VN and how many of its PINs rest after a release, by length."""

    state: VirtualNumberState
    cooling: Mapping[int, int]

    def free_pins(self, length: int) -> int:
        return self.state.free_pins(length) - self.cooling.get(length, 0)


class PoolPage(NamedTuple):
    items: list[PooledNumber]
    # The VN behind which the next page begins; None if there is no more.
    next_number: E164 | None


async def pool_page(
    switchboard: Switchboard, tenant: TenantView, wanted: E164 | None, after: E164 | None, limit: int
) -> PoolPage:
    """The VNs of a tenant in their order, or the one that is wanted. Raises DatabaseAway."""
    with switchboard.keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
        if wanted is None:
            # One more than is shown tells whether there is another page.
            states = list(islice(board.pool(after), limit + 1))
        else:
            found = board.virtual_number(wanted)
            states = [] if found is None else [found]
    shown, is_last = states[:limit], len(states) <= limit
    now_us = switchboard.clock.now_us()
    cooling = await switchboard.database.read(
        lambda connection: allocations.cooling_pin_counts(
            connection, tenant.cell, [state.number for state in shown], now_us
        )
    )
    items = [PooledNumber(state, cooling.get(state.number, {})) for state in shown]
    return PoolPage(items, None if is_last else shown[-1].number)


def last_number(parts: Any) -> E164:
    """Raises ValueError or TypeError for what `cursor_of` never made."""
    (number,) = parts
    if type(number) is not int or not 0 <= number < 10**15:
        raise ValueError
    return E164(number)


def _item(item: PooledNumber) -> dict[str, Any]:
    state = item.state
    return {
        "vn": state.number.plus,
        "region": state.region,
        "type": state.type,
        "state": state.word,
        "allocations": state.load,
        "numbers": state.callers,
        "free_pins": {str(length): item.free_pins(length) for length in range(1, PIN_DIGITS_MAX + 1)},
    }
