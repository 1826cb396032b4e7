"""What operators and Prometheus ask: is it alive, is it ready, and how is it doing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cordboard.routing.model import ThrottleScope
from cordboard.routing.numbers import PIN_DIGITS_MAX
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import events
from cordboard.storage.database import DatabaseAway
from cordboard.switchboard.service import Switchboard
from cordboard.web.documents import Readiness
from cordboard.web.openapi import JSON, OPEN, TEXT, Operation, Route, Said

# A scrape waits 10 s by default; the database gets a part of that.
DATABASE_TIMEOUT_S: Final = 1.0


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

    async def _measure_pools(self) -> None:
        """Tenant by tenant, with a breath between them: a pool of a thousand numbers takes some 5 ms."""
        metrics = self._switchboard.metrics
        # Of tenants and states that are gone nothing may stay.
        for gauge in (
            metrics.pool_virtual_numbers,
            metrics.pool_allocations,
            metrics.pool_numbers,
            metrics.pool_free_pins,
        ):
            gauge.clear()
        for tenant in self._switchboard.tenants.all():
            # Asked for anew: a board that was loaded meanwhile has closed the one before it.
            with self._switchboard.keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
                states = list(board.pool())
            for word, count in Counter(state.word for state in states).items():
                metrics.pool_virtual_numbers.labels(tenant.id, word).set(count)
            metrics.pool_allocations.labels(tenant.id).set(sum(state.load for state in states))
            metrics.pool_numbers.labels(tenant.id).set(sum(state.callers for state in states))
            for length in range(1, PIN_DIGITS_MAX + 1) if states else ():
                fewest = min(state.free_pins(length) for state in states)
                metrics.pool_free_pins.labels(tenant.id, str(length)).set(fewest)
            await asyncio.sleep(0)

    def _settings_of(self, tenant_id: str) -> TenantSettings | None:
        tenant = self._switchboard.tenants.get(tenant_id)
        return None if tenant is None else tenant.settings

    async def _metrics(self, _: web.Request) -> web.Response:
        metrics = self._switchboard.metrics
        tables = self._switchboard.keeper.tables
        metrics.allocations_live.set(tables.allocation_count())
        await self._measure_pools()
        now_us = self._switchboard.clock.now_us()
        full = self._switchboard.throttle.full(self._settings_of, now_us)
        for scope in ThrottleScope:
            metrics.throttles_full.labels(scope.value).set(full[scope])
        metrics.board_bytes.set(tables.size_bytes())
        metrics.board_age_seconds.set(self._switchboard.keeper.age_s())
        spool = self._switchboard.recording.spool
        metrics.spool_records.set(spool.records)
        metrics.spool_bytes.set(spool.size_bytes)
        metrics.spool_set_aside.set(spool.damaged)
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT_S):
                pending = await self._switchboard.database.read(events.pending_count)
        except (DatabaseAway, TimeoutError):
            metrics.database_up.set(0)
        else:
            metrics.database_up.set(1)
            metrics.events_pending.set(pending)
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
