"""Events of a tenant: what was told, what is yet to be told, and telling it again."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.table import Table

from cordboard.cli.reach import now_us, on_tenant, settings_of
from cordboard.cli.shell import AsJson, DataDir, fail, print_json, progress, show
from cordboard.routing.tenant import parse_settings
from cordboard.storage import event_records, provisioning
from cordboard.storage.database import Database
from cordboard.storage.event_records import EventRecord
from cordboard.storage.events import EventState
from cordboard.storage.facts import EventKind
from cordboard.storage.sealing import DataKeys
from cordboard.web.events import event_data, shown_data
from cordboard.web.query import LIMIT_DEFAULT, LIMIT_MAX, span_of

app: Final = typer.Typer(help="Events of a tenant, and their delivery.", no_args_is_help=True)

FromDate = Annotated[
    str | None, typer.Option("--from", help="Written then or later: 2026-03-01, 2026-03-01 12:00:00.")
]
ToDate = Annotated[str | None, typer.Option("--to", help="Written then or earlier; that day included.")]


@app.command("list")
def events_list(
    tenant_id: str,
    state: Annotated[EventState | None, typer.Option(help="Only those.")] = None,
    kind: Annotated[EventKind | None, typer.Option(help="Only those.")] = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    limit: Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="The newest so many.")] = LIMIT_DEFAULT,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Events, the newest first: what became of them, and of their last attempt."""

    async def read(database: Database) -> tuple[list[EventRecord], str]:
        tenant = await provisioning.get_tenant(database, tenant_id)
        zone = parse_settings(tenant.settings).timezone
        span = span_of(from_date, to_date, zone)
        page = await database.read_snapshot(
            lambda connection: event_records.list_events(
                connection, tenant.cell, tenant_id, state, kind, span, None, limit
            )
        )
        return page.items, zone

    events, zone = on_tenant(data_dir, read)
    items = [event_data(event, zone) for event in events]
    keys = ("id", "kind", "subject", "seq", "state", "attempts", "endpoint", "created_at", "last_result")
    table = Table(*keys)
    for item in items:
        table.add_row(*("" if item[key] is None else str(item[key]) for key in keys))
    show(table, {"items": items}, as_json=as_json)


@app.command("show")
def events_show(
    tenant_id: str,
    event_id: UUID,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show numbers and PINs whole.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = True,  # noqa: ARG001 - a body is JSON, and so is what is around it.
) -> None:
    """One event with its attempts and its body, as JSON."""
    keys = DataKeys(settings_of(data_dir=data_dir).data_keys())

    async def read(database: Database) -> dict[str, Any]:
        tenant = await provisioning.get_tenant(database, tenant_id)
        event, attempts = await database.read_snapshot(
            lambda connection: event_records.show_event(connection, tenant.cell, tenant_id, event_id)
        )
        return shown_data(event, attempts, parse_settings(tenant.settings).timezone, keys, is_whole=reveal)

    print_json(on_tenant(data_dir, read))


@app.command("replay")
def events_replay(
    tenant_id: str,
    event_id: Annotated[UUID | None, typer.Argument(help="One event; else those of a time range.")] = None,
    state: Annotated[EventState, typer.Option(help="dead or delivered.")] = EventState.DEAD,
    from_date: FromDate = None,
    to_date: ToDate = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let events be told again: before what their subjects have pending, and with a fresh schedule."""
    if (event_id is None) == (from_date is None):
        fail("EVENT_ID and --from: name either one event or a time range")
    if state is EventState.PENDING:
        fail("--state: what is pending cannot be replayed")

    async def replay(database: Database) -> int:
        tenant = await provisioning.get_tenant(database, tenant_id)
        at_us = now_us()
        if event_id is None:
            span = span_of(from_date, to_date, parse_settings(tenant.settings).timezone)
            with progress("replaying events") as advance:
                return await event_records.replay_events(
                    database, tenant.cell, tenant_id, state, span, at_us, lambda count: advance(count, None)
                )
        await database.write(
            lambda connection: event_records.replay_event(connection, tenant.cell, tenant_id, event_id, at_us)
        )
        return 1

    count = on_tenant(data_dir, replay)
    show(
        f"{count} {'event' if count == 1 else 'events'} to be told again",
        {"replayed": count},
        as_json=as_json,
    )
