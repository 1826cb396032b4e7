"""Everything that answers: built once by the node, handed to the web layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cordboard.clock import Clock
from cordboard.routing.regions import PostalRegions
from cordboard.settings import Settings
from cordboard.storage.bell import Bell
from cordboard.storage.database import Database
from cordboard.storage.feed import Position
from cordboard.storage.sealing import DataKeys
from cordboard.switchboard.allocating import Allocating
from cordboard.switchboard.answering import CallAnswering
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.records import CallRecords
from cordboard.switchboard.source import BoardSource
from cordboard.switchboard.tenants import TenantDirectory
from cordboard.switchboard.throttle import Throttle
from cordboard.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Switchboard:
    settings: Settings
    clock: Clock
    metrics: Metrics
    database: Database
    bell: Bell
    keeper: BoardSource
    tenants: TenantDirectory
    records: CallRecords
    recording: Recording
    throttle: Throttle
    answering: CallAnswering
    allocating: Allocating
    postal_regions: PostalRegions
    keys: DataKeys
    wake_sender: Callable[[], None]

    async def propagate(self, position: Position) -> bool:
        """Tell everybody of a committed change; whether this node routes by it already."""
        self.bell.ring()
        return await self.keeper.wait_for(position, self.settings.propagation_timeout_s)

    async def run(self) -> None:
        """Serve until cancelled; the owner runs the database's watch, the bell and the board."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.answering.run())
            tasks.create_task(self.records.run())
            tasks.create_task(self.recording.run())
            tasks.create_task(self.allocating.run())
