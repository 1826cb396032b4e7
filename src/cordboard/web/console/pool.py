"""The pool by virtual number: what stands on it, what is free, and how easily a PIN is guessed there."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.numbers import PIN_DIGITS_MAX
from cordboard.switchboard.service import Switchboard
from cordboard.web.console.frame import PAGE_MAX, TENANT, Frame, Page, Visit
from cordboard.web.console.records import Row
from cordboard.web.errors import Refused
from cordboard.web.pool import PooledNumber, last_number, pool_page
from cordboard.web.query import Query, cursor_of

# Lengths that tenants use; longer ones are never short.
LENGTHS_SHOWN: Final = (4, 5, 6)
# With the limit of 60 wrong PINs an hour on a VN, a chance of 1 in 10,000 is one hit in a week (README, How
# long PINs should be).
CHANCE_BAD: Final = 1e-3
CHANCE_POOR: Final = 1e-4


class PoolQuery(BaseModel):
    vn: str | None = None
    cursor: str | None = None


class PoolPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        return [self._frame.get(f"{TENANT}/pool", self._show)]

    async def _show(self, visit: Visit) -> Page:
        fault, wanted, after = None, None, None
        try:
            query = Query(visit.form, visit.tenant.settings, PoolQuery)
            wanted, after = query.number("vn"), query.after(last_number)
        except Refused as refused:
            fault = refused.problem.message
        page = await pool_page(self._switchboard, visit.tenant, wanted, after, PAGE_MAX)
        return Page(
            "pool.html",
            {
                "fault": fault,
                "lengths": LENGTHS_SHOWN,
                "numbers": [_row(item) for item in page.items],
                "next_cursor": None if page.next_number is None else cursor_of([page.next_number]),
                "wanted": None if wanted is None else wanted.plus,
            },
            200 if fault is None else 400,
        )


def _row(item: PooledNumber) -> Row:
    state = item.state
    chances = {
        length: state.pins[length - 1] / 10**length
        for length in range(1, PIN_DIGITS_MAX + 1)
        if state.pins[length - 1]
    }
    chance = max(chances.values(), default=0.0)
    return {
        "vn": state.number.plus,
        "region": state.region,
        "type": state.type,
        "state": state.word,
        "allocations": state.load,
        "callers": state.callers,
        "pins": sum(state.pins),
        "free": [item.free_pins(length) for length in LENGTHS_SHOWN],
        "chance": f"1 in {round(1 / chance):,}" if chance else None,
        "chance_tone": "bad" if chance > CHANCE_BAD else "ask" if chance > CHANCE_POOR else "good",
    }
