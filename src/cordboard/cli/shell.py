"""What all commands share of how they speak to a shell: options, output, progress, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class ExitCode(IntEnum):
    """Scripts build on these; `cordboard --help` and the README list them."""

    DONE = 0
    # What was asked for cannot be, and one line on stderr says why. `doctor`: warnings.
    REFUSED = 1
    # The command line itself. `doctor`: failures.
    USAGE = 2
    # The engine or its database cannot be reached.
    AWAY = 3
    # `call`: nobody was dialled.
    NOT_CONNECTED = 4
    # As shells say it of Ctrl-C: 128 and the signal.
    INTERRUPTED = 130


DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the embedded database and the admin token [CORDBOARD_DATA_DIR]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str | None, typer.Option(help="The engine; by default the one of the settings.")]

console: Final = Console()

Advance = Callable[[int, int | None], None]
"""(done, of how many; None where nobody knows)"""


def print_json(value: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def show(shown: Table | str, data: Mapping[str, Any], *, as_json: bool) -> None:
    """The same for a person and for a program."""
    if as_json:
        print_json(data)
    elif isinstance(shown, str):
        # As it is: what looks like markup may be somebody's name.
        sys.stdout.write(shown + "\n")
    else:
        console.print(shown)


def fail(message: str, code: ExitCode = ExitCode.REFUSED) -> NoReturn:
    """End the command with one line on stderr."""
    sys.stderr.write(f"cordboard: {' '.join(message.split())}\n")
    raise SystemExit(code)


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """A bar on stderr for as long as it takes, if a person looks on; it leaves nothing behind."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
