"""The lock that whoever changes several events takes first: that of their subjects, in order of their names.

Who holds it may wait for an event. Who changes events without it steps over those that are locked and waits
for nothing. So nobody waits in a circle, whatever order the events are changed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = load("events")


async def lock_subjects(connection: Connection, cell: int, subjects: Iterable[tuple[str, str]]) -> None:
    """Lock subjects of one cell, each the id of its tenant and its name, until the transaction ends."""
    in_order = sorted(set(subjects))
    if in_order:
        tenant_ids, names = zip(*in_order, strict=True)
        await connection.execute(_SQL["lock_subjects"], cell, tenant_ids, names)
