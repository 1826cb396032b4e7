"""Tenants and their virtual numbers, with the engine running or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.table import Table

from cordboard.cli.reach import now_us, number_of, on_database, on_tenant, settings_of
from cordboard.cli.shell import AsJson, DataDir, fail, print_json, show
from cordboard.clock import to_datetime
from cordboard.routing.allocate import Unacceptable
from cordboard.routing.tenant import parse_settings
from cordboard.storage import provisioning
from cordboard.storage.database import Database
from cordboard.web.admin import new_virtual_numbers, summary_shown, virtual_number_shown
from cordboard.web.schemas import NewTenantBody, NewVirtualNumbersBody, checked
from cordboard.web.tenant_settings import checked_settings
from cordboard.webhooks.destinations import Destinations

tenant_app: Final = typer.Typer(
    help="Tenants: accounts with their own pool of numbers.", no_args_is_help=True
)
vn_app: Final = typer.Typer(help="Virtual numbers of a tenant.", no_args_is_help=True)


@tenant_app.command("add")
def tenant_add(
    tenant_id: str,
    settings: Annotated[str, typer.Option(help="Settings as a JSON object.")] = "{}",
    data_dir: DataDir = None,
    as_json: AsJson = True,  # noqa: ARG001 - it prints nothing else; scripts may ask for it all the same.
) -> None:
    """Make a tenant; its API token, applet key and webhook secret are shown now and never again, as JSON."""
    try:
        new = checked(NewTenantBody, {"id": tenant_id, "settings": orjson.loads(settings)})
        destinations = Destinations.of_settings(settings_of(data_dir=data_dir))
        given = checked_settings(new.settings or {}, destinations)
    except orjson.JSONDecodeError:
        fail("--settings: not JSON")
    except Unacceptable as refused:
        fail(refused.fault.message)
    try:
        made = on_database(
            data_dir, lambda database: provisioning.add_tenant(database, tenant_id, given, now_us())
        )
    except provisioning.TenantExists:
        fail(f"tenant {tenant_id} exists already")
    print_json(
        {
            "id": tenant_id,
            "api_token": made.api_token.secret,
            "applet_key": made.applet_key.secret,
            "webhook_secret": made.webhook_secret.secret,
        }
    )


@tenant_app.command("list")
def tenant_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All tenants."""
    tenants = on_database(data_dir, provisioning.list_tenants)
    table = Table("tenant", "cell", "virtual numbers", "made")
    for tenant in tenants:
        made = to_datetime(tenant.created_at_us).isoformat(timespec="seconds")
        table.add_row(tenant.id, str(tenant.cell), str(tenant.virtual_numbers), made)
    show(table, {"tenants": list(map(summary_shown, tenants))}, as_json=as_json)


@tenant_app.command("delete")
def tenant_delete(tenant_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Erase a tenant with all its records; refused while it has live allocations."""
    on_tenant(data_dir, lambda database: provisioning.delete_tenant(database, tenant_id, now_us()))
    show(f"tenant {tenant_id} deleted", {"id": tenant_id}, as_json=as_json)


@vn_app.command("add")
def vn_add(
    tenant_id: str,
    numbers: Annotated[list[str], typer.Argument(help="Numbers as +91…")],
    region: Annotated[str | None, typer.Option(help="Region code, for instance KA.")] = None,
    number_type: Annotated[str | None, typer.Option("--type", help="mobile or landline.")] = None,
    flow_id: Annotated[str | None, typer.Option(help="The platform's call flow behind the numbers.")] = None,
    reserved: Annotated[bool, typer.Option("--reserved", help="Given by name only, never picked.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put virtual numbers into a tenant's pool: all of them, or none."""
    kind = {"region": region, "type": number_type, "flow_id": flow_id, "reserved": reserved}
    vns = [{"number": number, **kind} for number in numbers]

    async def add(database: Database) -> None:
        tenant = await provisioning.get_tenant(database, tenant_id)
        country = parse_settings(tenant.settings).country
        new = new_virtual_numbers(checked(NewVirtualNumbersBody, {"vns": vns}), country)
        await provisioning.add_virtual_numbers(database, tenant_id, new, now_us())

    try:
        on_tenant(data_dir, add)
    except Unacceptable as refused:
        fail(refused.fault.message)
    except provisioning.NumberProvisioned as provisioned:
        taken = ", ".join(map(str, provisioned.numbers))
        fail(f"{taken}: provisioned already; nothing was added")
    show(f"{len(numbers)} added to {tenant_id}", {"id": tenant_id, "added": len(numbers)}, as_json=as_json)


@vn_app.command("list")
def vn_list(tenant_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The pool of a tenant."""
    pool = on_tenant(data_dir, lambda database: provisioning.list_virtual_numbers(database, tenant_id))
    table = Table("number", "region", "type", "flow", "reserved", "drained")
    for vn in pool:
        is_reserved, is_drained = ("yes" if is_so else "" for is_so in (vn.is_reserved, vn.is_drained))
        table.add_row(vn.number.plus, vn.region, vn.type, vn.flow_id, is_reserved, is_drained)
    show(table, {"vns": list(map(virtual_number_shown, pool))}, as_json=as_json)


@vn_app.command("drain")
def vn_drain(tenant_id: str, number: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a number to no new allocation; those that it has stay."""
    _change(data_dir, tenant_id, number, "drained", as_json=as_json, is_drained=True)


@vn_app.command("undrain")
def vn_undrain(tenant_id: str, number: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a drained number to new allocations again."""
    _change(data_dir, tenant_id, number, "no longer drained", as_json=as_json, is_drained=False)


@vn_app.command("reserve")
def vn_reserve(tenant_id: str, number: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a number only to those who ask for it by name."""
    _change(data_dir, tenant_id, number, "reserved", as_json=as_json, is_reserved=True)


@vn_app.command("unreserve")
def vn_unreserve(tenant_id: str, number: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Let the engine pick a reserved number again."""
    _change(data_dir, tenant_id, number, "no longer reserved", as_json=as_json, is_reserved=False)


def _change(
    data_dir: Path | None, tenant_id: str, number: str, what: str, *, as_json: bool, **state: bool
) -> None:
    parsed = number_of(number, "NUMBER")
    on_tenant(
        data_dir,
        lambda database: provisioning.set_virtual_number_state(
            database, tenant_id, parsed, now_us(), **state
        ),
    )
    changed = {key.removeprefix("is_"): is_so for key, is_so in state.items()}
    show(
        f"{number} of {tenant_id} is {what}",
        {"id": tenant_id, "number": parsed.plus, **changed},
        as_json=as_json,
    )


@vn_app.command("delete")
def vn_delete(tenant_id: str, number: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Take a number out of the pool; refused while allocations use it."""
    parsed = number_of(number, "NUMBER")
    on_tenant(
        data_dir,
        lambda database: provisioning.delete_virtual_number(database, tenant_id, parsed, now_us()),
    )
    show(f"{number} deleted from {tenant_id}", {"id": tenant_id, "number": parsed.plus}, as_json=as_json)
