"""The command `cordboard`: run the engine, provision it, see what it does, keep it.

A module for each group of commands. What they share is in `shell` (how to speak to a shell) and `reach` (how
to reach the engine and its database).
"""

from __future__ import annotations

from typing import Final

import typer
from typer.exceptions import TyperException

from cordboard.cli import calls, credentials, doctor, events, keeping, serving, tenants, throttles, top
from cordboard.cli.shell import ExitCode, fail

__all__ = ["app", "main"]

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 refused, with the reason on stderr; 2 a bad command line; 3 the engine or its"
    " database cannot be reached; 4 (call) nobody was dialled; 130 interrupted. doctor: 0 all is well, 1"
    " warnings, 2 failures."
)

app: Final = typer.Typer(
    name="cordboard",
    help="Cordboard: a call-flow engine for number masking.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (
    serving.app,
    calls.app,
    top.app,
    doctor.app,
    keeping.app,
):
    # Commands of the first level.
    app.add_typer(group)
app.add_typer(tenants.tenant_app, name="tenant")
app.add_typer(tenants.vn_app, name="vn")
app.add_typer(credentials.token_app, name="token")
app.add_typer(credentials.key_app, name="applet-key")
app.add_typer(credentials.secret_app, name="webhook-secret")
app.add_typer(events.app, name="events")
app.add_typer(throttles.app, name="throttle")
app.add_typer(keeping.data_key_app, name="data-key")


def main() -> None:
    """The console script. Input is never checked by `assert`, but our own mistakes are."""
    if not __debug__:
        fail("python -O switches off the checks that keep a wrong value from travelling; run without it")
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        # Who asks for no command at all has been shown the help by now.
        if not error.format_message().strip():
            raise SystemExit(ExitCode.USAGE) from None
        # Typer would draw a box of it, which no script can read.
        fail(error.format_message(), ExitCode.USAGE)
    raise SystemExit(code or ExitCode.DONE)
