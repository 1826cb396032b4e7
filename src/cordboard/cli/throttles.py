"""Windows of wrong PINs: which are full, and lifting them."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.table import Table

from cordboard.cli.reach import ask_engine, now_us, number_of, on_tenant, settings_of
from cordboard.cli.shell import AsJson, DataDir, Url, fail, show
from cordboard.storage import throttles

app: Final = typer.Typer(help="Windows of wrong PINs that may be full.", no_args_is_help=True)


@app.command("list")
def throttle_list(
    tenant_id: str,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show callers' numbers whole.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The windows of wrong PINs of a running engine, the full ones first."""
    settings = settings_of(data_dir=data_dir)
    query = {"reveal": "true"} if reveal else {}
    told = ask_engine(settings, url, f"/tenants/{tenant_id}/throttles", query)
    table = Table("scope", "caller", "virtual number", "wrong PINs", "limit", "full until")
    for window in told["windows"]:
        is_withheld = window["scope"] == "caller" and window["caller"] is None
        caller = "withheld" if is_withheld else window["caller"]
        failures = str(window["failures"])
        table.add_row(window["scope"], caller, window["vn"], failures, window["limit"], window["full_until"])
    show(table, told, as_json=as_json)


@app.command("clear")
def throttle_clear(
    tenant_id: str,
    caller: Annotated[str | None, typer.Option(help="Lift what stands against this caller.")] = None,
    vn: Annotated[
        str | None, typer.Option(help="Lift what stands on this number, also for withheld callers.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Lift everything of the tenant.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let PINs be entered again: lift the tenant's own window, or a caller's, a number's, or all."""
    if sum((caller is not None, vn is not None, everything)) > 1:
        fail("--caller, --vn and --all: at most one of them may be given")
    by_caller = None if caller is None else number_of(caller, "--caller")
    by_vn = None if vn is None else number_of(vn, "--vn")
    scope = throttles.scope_of(by_caller, by_vn, is_all=everything)
    on_tenant(
        data_dir, lambda database: throttles.lift(database, tenant_id, scope, by_caller or by_vn, now_us())
    )
    word = "all" if scope is None else scope.value
    show(f"lifted for {tenant_id}: {word}", {"id": tenant_id, "scope": word}, as_json=as_json)
