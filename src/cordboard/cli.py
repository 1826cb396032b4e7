"""The command `cordboard`: run the engine, provision it, see its settings."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar
from uuid import UUID

import aiohttp
import orjson
import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cordboard.clock import SystemClock, to_datetime
from cordboard.logs import configure_logging
from cordboard.node import Node, running_database, serve
from cordboard.postal_table import BadPostalTable
from cordboard.routing.allocate import Unacceptable
from cordboard.routing.numbers import E164, parse_number
from cordboard.routing.tenant import parse_settings
from cordboard.settings import Settings
from cordboard.simulator import demo
from cordboard.storage import erasing, event_records, provisioning, sealing, throttles
from cordboard.storage.database import Database, DatabaseAway
from cordboard.storage.embedded import EngineAlreadyRunning, PostgresUnavailable, running_server
from cordboard.storage.event_records import EventRecord
from cordboard.storage.events import EventState
from cordboard.storage.facts import EventKind
from cordboard.storage.provisioning import CredentialKind
from cordboard.storage.sealing import CannotOpen, DataKeyMissing, DataKeys
from cordboard.web.account_time import iso_text
from cordboard.web.admin import new_virtual_numbers
from cordboard.web.errors import Refused
from cordboard.web.events import event_data, shown_data
from cordboard.web.query import LIMIT_DEFAULT, LIMIT_MAX, WITHHELD_WORD, span_of
from cordboard.web.schemas import NewTenantBody, NewVirtualNumbersBody, checked
from cordboard.web.tenant_settings import checked_settings
from cordboard.webhooks.destinations import Destinations

Result = TypeVar("Result")

DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the embedded database and the admin token [CORDBOARD_DATA_DIR]."),
]

app: Final = typer.Typer(
    help="Cordboard: a call-flow engine for number masking.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tenant_app: Final = typer.Typer(
    help="Tenants: accounts with their own pool of numbers.", no_args_is_help=True
)
vn_app: Final = typer.Typer(help="Virtual numbers of a tenant.", no_args_is_help=True)
token_app: Final = typer.Typer(help="API tokens of a tenant.", no_args_is_help=True)
key_app: Final = typer.Typer(help="Applet keys of a tenant.", no_args_is_help=True)
app.add_typer(tenant_app, name="tenant")
app.add_typer(vn_app, name="vn")
app.add_typer(token_app, name="token")
secret_app: Final = typer.Typer(
    help="Webhook secrets of a tenant: what its events are signed with.", no_args_is_help=True
)
events_app: Final = typer.Typer(help="Events of a tenant, and their delivery.", no_args_is_help=True)
app.add_typer(key_app, name="applet-key")
app.add_typer(secret_app, name="webhook-secret")
app.add_typer(events_app, name="events")
data_key_app: Final = typer.Typer(
    help="The keys that seal told events and kept answers [CORDBOARD_DATA_KEY].", no_args_is_help=True
)
app.add_typer(data_key_app, name="data-key")
throttle_app: Final = typer.Typer(help="Windows of wrong PINs that may be full.", no_args_is_help=True)
app.add_typer(throttle_app, name="throttle")

_console = Console()


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on [CORDBOARD_HOST].")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one [CORDBOARD_PORT].")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run the engine until Ctrl-C or SIGTERM."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    configure_logging(settings.log_level, settings.log_format)
    _run(serve(settings, _announce))


@app.command("demo")
def demo_command() -> None:
    """Start an engine in a temporary directory, allocate, place simulated calls, and show every hop."""
    raise typer.Exit(_run(demo.run()))


@app.command("settings")
def settings_command() -> None:
    """All settings of the engine, with their environment variable, value and reason."""
    settings = _settings()
    table = Table("variable", "value", "default", "what it is")
    for name, field in Settings.model_fields.items():
        table.add_row(
            f"CORDBOARD_{name.upper()}",
            str(getattr(settings, name)),
            str(field.default),
            field.description,
        )
    _console.print(table)


@app.command("explain")
def explain_command(
    tenant_id: str,
    vn: Annotated[str, typer.Argument(help="The virtual number dialled.")],
    caller: Annotated[str, typer.Argument(help="Who calls.")] = WITHHELD_WORD,
    pin: Annotated[str | None, typer.Option(help="What the caller would enter.")] = None,
    at: Annotated[str | None, typer.Option(help="Another instant than now, as 2026-03-01 12:00:00.")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show numbers and PINs whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's answer as it is.")] = False,
    url: Annotated[str | None, typer.Option(help="The engine; by default the one of the settings.")] = None,
    data_dir: DataDir = None,
) -> None:
    """What a call would be answered by the running engine, and why. Nothing is dialled or recorded."""
    settings = _settings(data_dir=data_dir)
    given = {"vn": vn, "caller": caller, "pin": pin, "at": at, "reveal": "true" if reveal else None}
    query = {key: value for key, value in given.items() if value is not None}
    told = _run(_ask_engine(settings, url, f"/admin/v1/tenants/{tenant_id}/explain", query))
    if as_json:
        print_json(told)
    else:
        _console.print(_explanation_table(told))


@app.command("erase")
def erase_command(
    number: Annotated[str, typer.Option(help="Whom, as +91…")],
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only; by default of all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and erase nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Erase one person everywhere, and say what was done. Broken off, it goes on when run again."""
    settings = _settings(data_dir=data_dir)
    configure_logging(settings.log_level, settings.log_format)
    keys = DataKeys(settings.data_keys())

    async def erase(database: Database) -> erasing.Erased:
        country = parse_settings({}).country
        if tenant is not None:
            country = parse_settings((await provisioning.get_tenant(database, tenant)).settings).country
        parsed = _number(number, country)
        return await erasing.erase(database, parsed, tenant, keys, _now_us(), is_dry_run=dry_run)

    counts = _on_tenant(data_dir, erase).to_json()
    if as_json:
        print_json(counts)
        return
    table = Table("what", "would be erased" if dry_run else "erased")
    for what, count in counts.items():
        table.add_row(what.replace("_", " "), str(count))
    _console.print(table)


@data_key_app.command("new")
def data_key_new() -> None:
    """Print a fresh key; nothing is kept."""
    sys.stdout.write(sealing.new_key() + "\n")


@data_key_app.command("rotate")
def data_key_rotate(data_dir: DataDir = None) -> None:
    """Seal with the first key of CORDBOARD_DATA_KEY what is sealed with another one of them.

    First every engine is started anew with the new key before the old one; when this is done, the old one
    can go.
    """
    keys = DataKeys(_settings(data_dir=data_dir).data_keys())
    if not keys:
        _fail("CORDBOARD_DATA_KEY is not set")
    count = _on_database(data_dir, lambda database: sealing.rotate(database, keys))
    _console.print(f"sealed anew: {count['events']} events, {count['answers']} answers")


@tenant_app.command("add")
def tenant_add(
    tenant_id: str,
    settings: Annotated[str, typer.Option(help="Settings as a JSON object.")] = "{}",
    data_dir: DataDir = None,
) -> None:
    """Make a tenant; its API token, applet key and webhook secret are shown now and never again."""
    try:
        new = checked(NewTenantBody, {"id": tenant_id, "settings": orjson.loads(settings)})
        destinations = Destinations.of_settings(_settings(data_dir=data_dir))
        given = checked_settings(new.settings or {}, destinations)
    except orjson.JSONDecodeError:
        _fail("--settings: not JSON")
    except Unacceptable as refused:
        _fail(refused.fault.message)
    try:
        made = _on_database(
            data_dir, lambda database: provisioning.add_tenant(database, tenant_id, given, _now_us())
        )
    except provisioning.TenantExists:
        _fail(f"tenant {tenant_id} exists already")
    print_json(
        {
            "id": tenant_id,
            "api_token": made.api_token.secret,
            "applet_key": made.applet_key.secret,
            "webhook_secret": made.webhook_secret.secret,
        }
    )


@tenant_app.command("list")
def tenant_list(data_dir: DataDir = None) -> None:
    """All tenants."""
    table = Table("tenant", "cell", "virtual numbers", "made")
    for tenant in _on_database(data_dir, provisioning.list_tenants):
        made = to_datetime(tenant.created_at_us).isoformat(timespec="seconds")
        table.add_row(tenant.id, str(tenant.cell), str(tenant.virtual_numbers), made)
    _console.print(table)


@tenant_app.command("delete")
def tenant_delete(tenant_id: str, data_dir: DataDir = None) -> None:
    """Erase a tenant with all its records; refused while it has live allocations."""
    _on_tenant(data_dir, lambda database: provisioning.delete_tenant(database, tenant_id, _now_us()))
    _console.print(f"tenant {tenant_id} deleted")


@vn_app.command("add")
def vn_add(
    tenant_id: str,
    numbers: Annotated[list[str], typer.Argument(help="Numbers as +91…")],
    region: Annotated[str | None, typer.Option(help="Region code, for instance KA.")] = None,
    number_type: Annotated[str | None, typer.Option("--type", help="mobile or landline.")] = None,
    flow_id: Annotated[str | None, typer.Option(help="The platform's call flow behind the numbers.")] = None,
    reserved: Annotated[bool, typer.Option("--reserved", help="Given by name only, never picked.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Put virtual numbers into a tenant's pool: all of them, or none."""
    kind = {"region": region, "type": number_type, "flow_id": flow_id, "reserved": reserved}
    vns = [{"number": number, **kind} for number in numbers]

    async def add(database: Database) -> None:
        tenant = await provisioning.get_tenant(database, tenant_id)
        country = parse_settings(tenant.settings).country
        new = new_virtual_numbers(checked(NewVirtualNumbersBody, {"vns": vns}), country)
        await provisioning.add_virtual_numbers(database, tenant_id, new, _now_us())

    try:
        _on_tenant(data_dir, add)
    except Unacceptable as refused:
        _fail(refused.fault.message)
    except provisioning.NumberProvisioned as provisioned:
        taken = ", ".join(map(str, provisioned.numbers))
        _fail(f"{taken}: provisioned already; nothing was added")
    _console.print(f"{len(numbers)} added to {tenant_id}")


@vn_app.command("list")
def vn_list(tenant_id: str, data_dir: DataDir = None) -> None:
    """The pool of a tenant."""
    table = Table("number", "region", "type", "flow", "reserved", "drained")
    for vn in _on_tenant(data_dir, lambda database: provisioning.list_virtual_numbers(database, tenant_id)):
        is_reserved, is_drained = ("yes" if is_so else "" for is_so in (vn.is_reserved, vn.is_drained))
        table.add_row(vn.number.plus, vn.region, vn.type, vn.flow_id, is_reserved, is_drained)
    _console.print(table)


@vn_app.command("drain")
def vn_drain(tenant_id: str, number: str, data_dir: DataDir = None) -> None:
    """Give a number to no new allocation; those that it has stay."""
    _change_virtual_number(data_dir, tenant_id, number, "drained", is_drained=True)


@vn_app.command("undrain")
def vn_undrain(tenant_id: str, number: str, data_dir: DataDir = None) -> None:
    """Give a drained number to new allocations again."""
    _change_virtual_number(data_dir, tenant_id, number, "no longer drained", is_drained=False)


@vn_app.command("reserve")
def vn_reserve(tenant_id: str, number: str, data_dir: DataDir = None) -> None:
    """Give a number only to those who ask for it by name."""
    _change_virtual_number(data_dir, tenant_id, number, "reserved", is_reserved=True)


@vn_app.command("unreserve")
def vn_unreserve(tenant_id: str, number: str, data_dir: DataDir = None) -> None:
    """Let the engine pick a reserved number again."""
    _change_virtual_number(data_dir, tenant_id, number, "no longer reserved", is_reserved=False)


def _change_virtual_number(
    data_dir: Path | None, tenant_id: str, number: str, what: str, **state: bool
) -> None:
    parsed = _number(number)
    _on_tenant(
        data_dir,
        lambda database: provisioning.set_virtual_number_state(
            database, tenant_id, parsed, _now_us(), **state
        ),
    )
    _console.print(f"{number} of {tenant_id} is {what}")


@vn_app.command("delete")
def vn_delete(tenant_id: str, number: str, data_dir: DataDir = None) -> None:
    """Take a number out of the pool; refused while allocations use it."""
    parsed = _number(number)
    _on_tenant(
        data_dir,
        lambda database: provisioning.delete_virtual_number(database, tenant_id, parsed, _now_us()),
    )
    _console.print(f"{number} deleted from {tenant_id}")


def _add_credential_commands(group: typer.Typer, kind: CredentialKind, id_name: str, secret: str) -> None:
    def make(tenant_id: str, data_dir: Path | None, *, may_reveal: bool) -> None:
        made, _ = _on_tenant(
            data_dir,
            lambda database: provisioning.add_credential(
                database, tenant_id, kind, _now_us(), may_reveal=may_reveal
            ),
        )
        print_json({id_name: str(made.id), secret: made.secret})

    if kind is CredentialKind.API_TOKEN:

        @group.command("add")
        def add_token(
            tenant_id: str,
            reveal: Annotated[
                bool, typer.Option("--reveal", help="Show numbers and PINs whole to who has it.")
            ] = False,
            data_dir: DataDir = None,
        ) -> None:
            """Make one; the secret is shown now and never again."""
            make(tenant_id, data_dir, may_reveal=reveal)
    else:

        @group.command("add")
        def add(tenant_id: str, data_dir: DataDir = None) -> None:
            """Make one; the secret is shown now and never again."""
            make(tenant_id, data_dir, may_reveal=False)

    @group.command("list")
    def list_(tenant_id: str, data_dir: DataDir = None) -> None:
        """Their ids; the secrets are not kept."""
        table = Table(id_name, "made")
        for credential in _on_tenant(
            data_dir, lambda database: provisioning.list_credentials(database, tenant_id, kind)
        ):
            made = to_datetime(credential.created_at_us).isoformat(timespec="seconds")
            table.add_row(str(credential.id), made)
        _console.print(table)

    @group.command("delete")
    def delete(tenant_id: str, id: UUID, data_dir: DataDir = None) -> None:
        """End one; whoever uses it is refused from now on."""
        _on_tenant(
            data_dir,
            lambda database: provisioning.delete_credential(database, tenant_id, kind, id, _now_us()),
        )
        _console.print(f"{id} deleted")


_add_credential_commands(token_app, CredentialKind.API_TOKEN, "token_id", "api_token")
_add_credential_commands(key_app, CredentialKind.APPLET_KEY, "key_id", "applet_key")


@throttle_app.command("list")
def throttle_list(
    tenant_id: str,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show callers' numbers whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's answer as it is.")] = False,
    url: Annotated[str | None, typer.Option(help="The engine; by default the one of the settings.")] = None,
    data_dir: DataDir = None,
) -> None:
    """The windows of wrong PINs of a running engine, the full ones first."""
    settings = _settings(data_dir=data_dir)
    query = {"reveal": "true"} if reveal else {}
    told = _run(_ask_engine(settings, url, f"/admin/v1/tenants/{tenant_id}/throttles", query))
    if as_json:
        print_json(told)
        return
    table = Table("scope", "caller", "virtual number", "wrong PINs", "limit", "full until")
    for window in told["windows"]:
        is_withheld = window["scope"] == "caller" and window["caller"] is None
        caller = "withheld" if is_withheld else window["caller"]
        failures = str(window["failures"])
        table.add_row(window["scope"], caller, window["vn"], failures, window["limit"], window["full_until"])
    _console.print(table)


@throttle_app.command("clear")
def throttle_clear(
    tenant_id: str,
    caller: Annotated[str | None, typer.Option(help="Lift what stands against this caller.")] = None,
    vn: Annotated[
        str | None, typer.Option(help="Lift what stands on this number, also for withheld callers.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Lift everything of the tenant.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Let PINs be entered again: lift the tenant's own window, or a caller's, a number's, or all."""
    if sum((caller is not None, vn is not None, everything)) > 1:
        _fail("--caller, --vn and --all: at most one of them may be given")
    by_caller = None if caller is None else _number(caller)
    by_vn = None if vn is None else _number(vn)
    scope = throttles.scope_of(by_caller, by_vn, is_all=everything)
    _on_tenant(
        data_dir, lambda database: throttles.lift(database, tenant_id, scope, by_caller or by_vn, _now_us())
    )
    _console.print(f"lifted for {tenant_id}: {'all' if scope is None else scope.value}")


@secret_app.command("add")
def secret_add(tenant_id: str, data_dir: DataDir = None) -> None:
    """Make one; it is shown now and never again, and signs events beside the others from now on."""
    made = _on_tenant(
        data_dir, lambda database: provisioning.add_webhook_secret(database, tenant_id, _now_us())
    )
    print_json({"secret_id": str(made.id), "webhook_secret": made.secret})


@secret_app.command("list")
def secret_list(tenant_id: str, data_dir: DataDir = None) -> None:
    """Their ids, and which of them sign no more."""
    table = Table("secret_id", "made", "retired")
    for secret in _on_tenant(
        data_dir, lambda database: provisioning.list_webhook_secrets(database, tenant_id)
    ):
        retired = "" if secret.retired_at_us is None else iso_text(secret.retired_at_us)
        table.add_row(str(secret.id), iso_text(secret.created_at_us), retired)
    _console.print(table)


@secret_app.command("delete")
def secret_delete(tenant_id: str, id: UUID, data_dir: DataDir = None) -> None:
    """Sign nothing more with one; the last one stays."""
    _on_tenant(
        data_dir, lambda database: provisioning.retire_webhook_secret(database, tenant_id, id, _now_us())
    )
    _console.print(f"{id} deleted")


FromDate = Annotated[
    str | None, typer.Option("--from", help="Written then or later: 2026-03-01, 2026-03-01 12:00:00.")
]
ToDate = Annotated[str | None, typer.Option("--to", help="Written then or earlier; that day included.")]


@events_app.command("list")
def events_list(
    tenant_id: str,
    state: Annotated[EventState | None, typer.Option(help="Only those.")] = None,
    kind: Annotated[EventKind | None, typer.Option(help="Only those.")] = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    limit: Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="The newest so many.")] = LIMIT_DEFAULT,
    data_dir: DataDir = None,
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

    events, zone = _on_tenant(data_dir, read)
    keys = ("id", "kind", "subject", "seq", "state", "attempts", "endpoint", "created_at", "last_result")
    table = Table(*keys)
    for event in events:
        told = event_data(event, zone)
        table.add_row(*("" if told[key] is None else str(told[key]) for key in keys))
    _console.print(table)


@events_app.command("show")
def events_show(
    tenant_id: str,
    event_id: UUID,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show numbers and PINs whole.")] = False,
    data_dir: DataDir = None,
) -> None:
    """One event with its attempts and its body."""
    keys = DataKeys(_settings(data_dir=data_dir).data_keys())

    async def read(database: Database) -> dict[str, Any]:
        tenant = await provisioning.get_tenant(database, tenant_id)
        event, attempts = await database.read_snapshot(
            lambda connection: event_records.show_event(connection, tenant.cell, tenant_id, event_id)
        )
        return shown_data(event, attempts, parse_settings(tenant.settings).timezone, keys, is_whole=reveal)

    print_json(_on_tenant(data_dir, read))


@events_app.command("replay")
def events_replay(
    tenant_id: str,
    event_id: Annotated[UUID | None, typer.Argument(help="One event; else those of a time range.")] = None,
    state: Annotated[EventState, typer.Option(help="dead or delivered.")] = EventState.DEAD,
    from_date: FromDate = None,
    to_date: ToDate = None,
    data_dir: DataDir = None,
) -> None:
    """Let events be told again: before what their subjects have pending, and with a fresh schedule."""
    if (event_id is None) == (from_date is None):
        _fail("name either one event or a time range, with --from")
    if state is EventState.PENDING:
        _fail("--state: what is pending cannot be replayed")

    async def replay(database: Database) -> int:
        tenant = await provisioning.get_tenant(database, tenant_id)
        now_us = _now_us()
        if event_id is None:
            span = span_of(from_date, to_date, parse_settings(tenant.settings).timezone)
            return await event_records.replay_events(database, tenant.cell, tenant_id, state, span, now_us)
        await database.write(
            lambda connection: event_records.replay_event(
                connection, tenant.cell, tenant_id, event_id, now_us
            )
        )
        return 1

    count = _on_tenant(data_dir, replay)
    _console.print(f"{count} {'event' if count == 1 else 'events'} to be told again")


def main() -> None:
    """The console script. Input is never checked by `assert`, but our own mistakes are."""
    if not __debug__:
        _fail("python -O switches off the checks that keep a wrong value from travelling; run without it")
    app()


# ── doing ────────────────────────────────────────────────────────────────────


def _run(work: Awaitable[Result]) -> Result:
    async def run() -> Result:
        return await work

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())
    except (EngineAlreadyRunning, PostgresUnavailable, BadPostalTable, DataKeyMissing) as refused:
        _fail(str(refused))
    except CannotOpen:
        _fail("something that was kept sealed was changed since; the database may be damaged")
    except DatabaseAway as away:
        _fail(f"the database cannot be reached ({away})")
    except OSError as error:
        _fail(str(error))


async def _ask_engine(
    settings: Settings, url: str | None, path: str, query: Mapping[str, str]
) -> dict[str, Any]:
    """What the running engine answers to its operator; ends the command with the reason if it refuses."""
    token = settings.admin_token.get_secret_value() if settings.admin_token is not None else None
    if token is None:
        try:
            token = settings.admin_token_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            _fail(f"there is no admin token in {settings.admin_token_file}; has an engine run there?")
    base = url or f"http://{settings.host}:{settings.port}"
    try:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.get(base.rstrip("/") + path, params=query) as answer,
        ):
            body: dict[str, Any] = orjson.loads(await answer.read())
    except aiohttp.ClientError as error:
        _fail(f"no engine answers at {base} ({type(error).__name__})")
    except orjson.JSONDecodeError:
        _fail(f"what answers at {base} is no engine")
    if answer.status != 200:
        _fail(str(body.get("message")))
    return body


def _explanation_table(told: Mapping[str, Any]) -> Table:
    decision = told["decision"]
    words = [decision["decision"], *(decision[key] for key in ("matched", "reason") if key in decision)]
    targets = f" → {', '.join(decision['targets'])}" if "targets" in decision else ""
    title = f"{told['caller'] or 'withheld'} calls {told['vn']} at {told['at']}: {' '.join(words)}{targets}"
    table = Table("allocation", "side", "considered as", "numbers", "PINs", "what became of it", title=title)
    for candidate in told["candidates"]:
        table.add_row(
            f"{candidate['product']} {candidate['allocation_id']}",
            candidate["side"].upper(),
            candidate["relation"],
            " ".join(candidate["numbers"]),
            " ".join(candidate["pins"]),
            candidate["rule"],
        )
    return table


def _on_database(data_dir: Path | None, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Work on the database of a running engine, or start the database for as long as it takes.

    A running engine learns of the change through the feed, like of every other.
    """
    settings = _settings(data_dir=data_dir)

    async def run() -> Result:
        running = running_server(settings.postgres_dir) if settings.database_url is None else None
        if running is None:
            async with running_database(settings) as (database, _):
                return await work(database)
        database = Database(**running.connect_kwargs)
        await database.connect()
        try:
            return await work(database)
        finally:
            await database.close()

    return _run(run())


def _on_tenant(data_dir: Path | None, work: Callable[[Database], Awaitable[Result]]) -> Result:
    try:
        return _on_database(data_dir, work)
    except provisioning.NoSuchTenant:
        _fail("there is no such tenant")
    except provisioning.NoSuchVirtualNumber:
        _fail("the tenant has no such virtual number")
    except provisioning.NoSuchCredential:
        _fail("the tenant has nothing under that id")
    except provisioning.HasLiveAllocations as refused:
        _fail(f"refused: {refused.count} live allocations")
    except provisioning.TooManyWebhookSecrets:
        _fail(f"refused: a tenant has at most {provisioning.WEBHOOK_SECRETS_MAX} webhook secrets")
    except provisioning.LastWebhookSecret:
        _fail("refused: it is the last one, and events would go unsigned; add another first")
    except event_records.NoSuchEvent:
        _fail("the tenant has no such event")
    except event_records.StillPending:
        _fail("the event is pending; what was not delivered yet cannot be replayed")
    except event_records.EventMasked:
        _fail("the event is masked; what it told is no longer kept, so it cannot be replayed")
    except Refused as refused:
        _fail(refused.problem.message)


def _settings(**given: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = (
            f"CORDBOARD_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        _fail("; ".join(problems))


def _number(text: str, country: str = "IN") -> E164:
    number = parse_number(text, country)
    if number is None:
        _fail(f"{text[:4]}…: not a telephone number")
    return number


def _announce(node: Node) -> None:
    if node.admin_token_file is not None:
        sys.stdout.write(f"Admin token in {node.admin_token_file}\n")
    sys.stdout.write(f"Listening on {node.url}\n")
    sys.stdout.flush()


def print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def _now_us() -> int:
    return SystemClock().now_us()


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"cordboard: {message}\n")
    raise SystemExit(1)
