"""Calls from a shell: play one against the running engine, or ask what one would be answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, assert_never

import aiohttp
import typer
from rich.table import Table
from rich.text import Text

from cordboard.cli.reach import ask_engine, number_of, operator_of, run, settings_of, told
from cordboard.cli.shell import AsJson, DataDir, ExitCode, Url, console, print_json, show
from cordboard.clock import SystemClock
from cordboard.settings import Settings
from cordboard.simulator.client import Client
from cordboard.simulator.platform import (
    HANG_UP,
    Callee,
    CallResult,
    Connected,
    Failed,
    Flow,
    HungUp,
    Platform,
    Refused,
    Shape,
    SimulatedCaller,
    Transcript,
)
from cordboard.simulator.transcripts import hop_table, masked, result_text, transcript_json
from cordboard.simulator.wire import LegEnd
from cordboard.web.query import WITHHELD_WORD

app: Final = typer.Typer()


@app.command("call")
def call_command(
    tenant_id: str,
    vn: Annotated[str, typer.Argument(help="The virtual number dialled.")],
    caller: Annotated[str, typer.Argument(help="Who calls.")] = WITHHELD_WORD,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Keyed in at the next prompt; may be given again. Then the caller hangs up."),
    ] = None,
    flow: Annotated[Shape, typer.Option(help="With a SwitchCase, or by the branches of Passthru.")] = (
        Shape.SWITCH
    ),
    callee: Annotated[LegEnd, typer.Option(help="What becomes of the call to whoever is dialled.")] = (
        LegEnd.TALKED
    ),
    key: Annotated[
        str | None,
        typer.Option(
            envvar="CORDBOARD_APPLET_KEY",
            help="An applet key of the tenant; by default one is made, and deleted after the call.",
        ),
    ] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show numbers and PINs whole.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Play one call against the running engine, hop by hop, as the telephony platform does.

    Nobody's telephone rings. To the engine it is a call like any other: it is on record, wrong PINs count,
    and events are told. `explain` says what would happen and leaves no trace.
    """
    settings = settings_of(data_dir=data_dir)
    dialled = number_of(vn, "VN")
    number = None if caller == WITHHELD_WORD else number_of(caller, "CALLER").plus
    people = SimulatedCaller(
        number,
        dialled.plus,
        keys=(*(f"{digits}#" for digits in pin or ()), HANG_UP),
        callees=(Callee(end=callee),),
    )
    transcript = run(_place(settings, url, tenant_id, key, flow, people))
    shown = transcript if reveal else masked(transcript)
    if as_json:
        print_json(transcript_json(shown))
    else:
        console.print(hop_table(shown.hops))
        console.print(Text.assemble("⇒ ", result_text(shown.result), f"   CallSid {shown.call_sid}"))
    raise typer.Exit(_exit_code(transcript.result))


async def _place(
    settings: Settings,
    url: str | None,
    tenant_id: str,
    key: str | None,
    shape: Shape,
    caller: SimulatedCaller,
) -> Transcript:
    async with (
        operator_of(settings, url) as operator,
        aiohttp.ClientSession() as session,
        _applet_key(operator, tenant_id, key) as applet_key,
    ):
        flow = Flow.wired(operator.base_url, tenant_id, applet_key, shape)
        return await Platform(session, SystemClock()).place(caller, flow)


@asynccontextmanager
async def _applet_key(operator: Client, tenant_id: str, given: str | None) -> AsyncIterator[str]:
    """The key given, or one for as long as it is needed."""
    if given is not None:
        yield given
        return
    keys = f"/tenants/{tenant_id}/applet-keys"
    made = told(await operator.admin("POST", keys), operator.base_url, status=201)
    try:
        yield made["applet_key"]
    finally:
        await operator.admin("DELETE", f"{keys}/{made['key_id']}")


def _exit_code(result: CallResult) -> ExitCode:
    match result:
        case Connected():
            return ExitCode.DONE
        case Refused() | HungUp():
            return ExitCode.NOT_CONNECTED
        case Failed():
            return ExitCode.REFUSED
        case unmatched:
            assert_never(unmatched)


@app.command("explain")
def explain_command(
    tenant_id: str,
    vn: Annotated[str, typer.Argument(help="The virtual number dialled.")],
    caller: Annotated[str, typer.Argument(help="Who calls.")] = WITHHELD_WORD,
    pin: Annotated[str | None, typer.Option(help="What the caller would enter.")] = None,
    at: Annotated[str | None, typer.Option(help="Another instant than now, as 2026-03-01 12:00:00.")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show numbers and PINs whole.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What a call would be answered by the running engine, and why. Nothing is dialled or recorded."""
    settings = settings_of(data_dir=data_dir)
    given = {"vn": vn, "caller": caller, "pin": pin, "at": at, "reveal": "true" if reveal else None}
    query = {key: value for key, value in given.items() if value is not None}
    explained = ask_engine(settings, url, f"/tenants/{tenant_id}/explain", query)
    show(_explanation_table(explained), explained, as_json=as_json)


def _explanation_table(told: Mapping[str, Any]) -> Table:
    decision = told["decision"]
    words: Sequence[str] = [
        decision["decision"],
        *(decision[key] for key in ("matched", "reason") if key in decision),
    ]
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
