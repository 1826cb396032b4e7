"""What operators and Prometheus ask: is it alive, is it ready, and how is it doing."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from cordboard.clock import SECOND_US
from cordboard.routing.model import ThrottleScope
from cordboard.routing.numbers import PIN_DIGITS_MAX
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import allocations, events, feed
from cordboard.storage.database import DatabaseAway
from cordboard.switchboard.service import Switchboard
from cordboard.telemetry import Measured
from cordboard.web.documents import Readiness
from cordboard.web.openapi import JSON, OPEN, TEXT, Operation, Route, Said

# A scrape waits 10 s by default; the database gets a part of that: two index look-ups, and then a backlog
# that takes some 0.4 s where it is as long as is counted.
DATABASE_TIMEOUT_S: Final = 1.0
BACKLOG_TIMEOUT_S: Final = 3.0


class Health:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard

    def routes(self) -> list[Route]:
        alive = Operation("Whether it is alive", answers={200: Said("It is.", {TEXT: None})})
        ready = Operation(
            "Whether it may be sent calls",
            answers={
                200: Said("The board is loaded and fresh.", {JSON: Readiness}),
                503: Said("The board is not loaded, or old.", {JSON: Readiness}),
            },
        )
        metrics = Operation("How it is doing", answers={200: Said("For Prometheus.", {TEXT: None})})
        return [
            Route("GET", "/healthz", self._healthz, OPEN, alive),
            Route("GET", "/readyz", self._readyz, OPEN, ready),
            Route("GET", "/metrics", self._metrics, OPEN, metrics),
        ]

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """200 while the board is equal to the database or was a moment ago, else 503. A node that cannot keep
        up still decides its calls; where there are others, they are better sent there."""
        age_s = self._switchboard.keeper.age_s()
        is_ready = age_s <= self._switchboard.settings.staleness_max_s
        report = {
            "ready": is_ready,
            "board_age_s": round(age_s, 3),
            "database_up": self._switchboard.database.is_up,
            "spool_records": self._switchboard.recording.spool.records,
        }
        return web.Response(
            status=200 if is_ready else 503,
            body=orjson.dumps(report),
            content_type="application/json",
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        metrics = self._switchboard.metrics
        measured = Measured()
        self._measure_board(measured)
        self._measure_throttles(measured)
        await self._measure_pools(measured)
        await self._measure_database(measured)
        metrics.publish()
        # Some milliseconds of putting text together, that no call waits for in another thread.
        body = await asyncio.to_thread(metrics.exposition, measured)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _measure_board(self, measured: Measured) -> None:
        keeper = self._switchboard.keeper
        measured.allocations_live.add_metric([], keeper.tables.allocation_count())
        measured.board_bytes.add_metric([], keeper.tables.size_bytes())
        measured.board_age_seconds.add_metric([], keeper.age_s())

    def _measure_throttles(self, measured: Measured) -> None:
        now_us = self._switchboard.clock.now_us()
        full = self._switchboard.throttle.full(self._settings_of, now_us)
        for scope in ThrottleScope:
            measured.throttles_full.add_metric([scope.value], full[scope])

    async def _measure_pools(self, measured: Measured) -> None:
        """Tenant by tenant, with a breath between them: a pool of a thousand numbers takes some 5 ms."""
        for tenant in self._switchboard.tenants.all():
            # Asked for anew: a board that was loaded meanwhile has closed the one before it.
            with self._switchboard.keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
                states = list(board.pool())
            for word, count in Counter(state.word for state in states).items():
                measured.pool_virtual_numbers.add_metric([tenant.id, word], count)
            measured.pool_allocations.add_metric([tenant.id], sum(state.load for state in states))
            measured.pool_numbers.add_metric([tenant.id], sum(state.callers for state in states))
            idle = sum(state.is_idle for state in states)
            measured.pool_idle_virtual_numbers.add_metric([tenant.id], idle)
            likeliest = max((state.guess_probability for state in states), default=0.0)
            measured.pool_guess_probability_max.add_metric([tenant.id], likeliest)
            for length in range(1, PIN_DIGITS_MAX + 1) if states else ():
                fewest = min(state.free_pins(length) for state in states)
                measured.pool_free_pins.add_metric([tenant.id, str(length)], fewest)
            await asyncio.sleep(0)

    async def _measure_database(self, measured: Measured) -> None:
        """What takes long with a large backlog comes last: if it is late, that alone is left out."""
        database = self._switchboard.database
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT_S):
                heads = await database.read(feed.heads)
                earliest_end_us = await database.read(allocations.earliest_end_us)
        except (DatabaseAway, TimeoutError):
            measured.database_up.add_metric([], 0)
            return
        measured.database_up.add_metric([], 1)
        positions = self._switchboard.keeper.tables.positions_by_cell()
        behind = sum(max(n - positions.get(cell, (0, 0))[0], 0) for cell, (n, _) in heads.items())
        measured.feed_lag_rows.add_metric([], behind)
        measured.expiry_lag_seconds.add_metric([], self._seconds_since(earliest_end_us))
        with suppress(DatabaseAway, TimeoutError):
            async with asyncio.timeout(BACKLOG_TIMEOUT_S):
                backlog = await database.read(events.backlog)
            measured.events_pending.add_metric([], backlog.pending)
            oldest_s = self._seconds_since(backlog.oldest_at_us)
            measured.events_oldest_pending_seconds.add_metric([], oldest_s)
            measured.events_dead.add_metric([], backlog.dead)

    def _seconds_since(self, instant_us: int | None) -> float:
        """0 where there is none, or it is yet to come."""
        now_us = self._switchboard.clock.now_us()
        return 0.0 if instant_us is None else max(now_us - instant_us, 0) / SECOND_US

    def _settings_of(self, tenant_id: str) -> TenantSettings | None:
        tenant = self._switchboard.tenants.get(tenant_id)
        return None if tenant is None else tenant.settings
