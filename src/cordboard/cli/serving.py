"""Run an engine, play one, list what can be set."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from cordboard.cli.reach import run, settings_of
from cordboard.cli.shell import Advance, AsJson, DataDir, progress, show
from cordboard.logs import configure_logging
from cordboard.node import Announced, serve
from cordboard.settings import Settings
from cordboard.simulator import demo
from cordboard.supervisor import supervise
from cordboard.switchboard.keeper import told_now_and_then
from cordboard.tables.steps import OnLoad, Step

app: Final = typer.Typer()


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on [CORDBOARD_HOST].")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one [CORDBOARD_PORT].")
    ] = None,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that answer; 0 has one process do everything [CORDBOARD_WORKERS]."),
    ] = None,
) -> None:
    """Run the engine until Ctrl-C or SIGTERM; with workers, SIGHUP replaces every process by a new one."""
    options: dict[str, Any] = {"host": host, "port": port, "data_dir": data_dir, "workers": workers}
    given = {name: value for name, value in options.items() if value is not None}
    settings = settings_of(**given)
    configure_logging(settings.log_level, settings.log_format)
    if settings.workers:
        run(supervise(lambda: Settings(**given), _announce))
        return
    with ExitStack() as loading:

        def announce(node: Announced) -> None:
            loading.close()
            _announce(node)

        run(serve(settings, announce, _shown(loading) if sys.stderr.isatty() else told_now_and_then()))


def _shown(loading: ExitStack) -> OnLoad:
    """A bar for each thing that is done to load the board."""
    shown = ""
    advance: Advance | None = None

    def show_step(step: Step) -> None:
        nonlocal shown, advance
        if advance is None or shown != step.what:
            loading.close()
            shown = step.what
            advance = loading.enter_context(progress(f"loading the board: {step.what}"))
        advance(step.done, step.of)

    return show_step


@app.command("demo")
def demo_command() -> None:
    """Start an engine in a temporary directory, allocate, place simulated calls, and show every hop."""
    raise typer.Exit(run(demo.run()))


@app.command("settings")
def settings_command(as_json: AsJson = False) -> None:
    """All settings of the engine, with their environment variable, value and reason."""
    settings = settings_of()
    rows = [
        {
            "variable": f"CORDBOARD_{name.upper()}",
            # Secrets hide themselves.
            "value": str(getattr(settings, name)),
            "default": str(field.default),
            "what_it_is": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    table = Table("variable", "value", "default", "what it is")
    for row in rows:
        table.add_row(*row.values())
    show(table, {"settings": rows}, as_json=as_json)


def _announce(node: Announced) -> None:
    if node.admin_token_file is not None:
        sys.stdout.write(f"Admin token in {node.admin_token_file}\n")
    sys.stdout.write(f"Listening on {node.url}\n")
    sys.stdout.flush()
