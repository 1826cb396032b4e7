"""What is kept: backups of all of it, the erasure of one person, the keys that seal the rest."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from cordboard.cli.reach import now_us, number_of, on_database, on_tenant, run, settings_of
from cordboard.cli.shell import AsJson, DataDir, fail, print_json, progress, show
from cordboard.logs import configure_logging
from cordboard.node import held
from cordboard.routing.tenant import parse_settings
from cordboard.settings import Settings
from cordboard.storage import backup, erasing, provisioning, sealing
from cordboard.storage.database import Database
from cordboard.storage.embedded import EmbeddedPostgres, running_server
from cordboard.storage.sealing import DataKeys

app: Final = typer.Typer()
data_key_app: Final = typer.Typer(
    help="The keys that seal told events and kept answers [CORDBOARD_DATA_KEY].", no_args_is_help=True
)

BackupFile = Annotated[Path, typer.Argument(help="The file of the backup.")]


@app.command("backup")
def backup_command(file: BackupFile, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Write the whole database into a file, with the engine running or not.

    The file has numbers and PINs in it, and what was sealed stays sealed: keep CORDBOARD_DATA_KEY, too.
    """
    settings = settings_of(data_dir=data_dir)
    if settings.database_url is None and not settings.postgres_dir.exists():
        fail(f"--data-dir: there is no database in {settings.data_dir}")

    async def write() -> int:
        async with _dsn(settings) as dsn:
            with progress("writing the backup") as advance:
                return await backup.dump(dsn, file, lambda size: advance(size, None))

    size = run(write())
    show(f"{file}: {size} bytes", {"file": str(file), "bytes": size}, as_json=as_json)


@app.command("restore")
def restore_command(file: BackupFile, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Fill an empty database from a backup, before the first engine is started on it."""
    settings = settings_of(data_dir=data_dir)

    async def read() -> None:
        settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        # No engine starts on the directory meanwhile.
        with held(settings.data_dir):
            async with _dsn(settings) as dsn:
                with progress("restoring"):
                    await backup.restore(dsn, file)

    run(read())
    show(f"{file}: restored", {"file": str(file)}, as_json=as_json)


@asynccontextmanager
async def _dsn(settings: Settings) -> AsyncIterator[str]:
    """The database's address; the embedded server runs for as long as it is needed."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    running = running_server(settings.postgres_dir)
    if running is not None:
        yield running.dsn
        return
    postgres = EmbeddedPostgres(settings.postgres_dir)
    await postgres.start()
    try:
        yield postgres.dsn
    finally:
        await postgres.stop()


@app.command("erase")
def erase_command(
    number: Annotated[str, typer.Option(help="Whom, as +91…")],
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only; by default of all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and erase nothing.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Erase one person everywhere, and say what was done. Broken off, it goes on when run again."""
    settings = settings_of(data_dir=data_dir)
    configure_logging(settings.log_level, settings.log_format)
    keys = DataKeys(settings.data_keys())

    async def erase(database: Database) -> erasing.Erased:
        country = parse_settings({}).country
        if tenant is not None:
            country = parse_settings((await provisioning.get_tenant(database, tenant)).settings).country
        parsed = number_of(number, "--number", country)
        with progress("erasing, tenant by tenant") as advance:
            return await erasing.erase(
                database, parsed, tenant, keys, now_us(), is_dry_run=dry_run, on_progress=advance
            )

    counts = on_tenant(data_dir, erase).to_json()
    table = Table("what", "would be erased" if dry_run else "erased")
    for what, count in counts.items():
        table.add_row(what.replace("_", " "), str(count))
    show(table, counts, as_json=as_json)


@data_key_app.command("new")
def data_key_new(as_json: AsJson = False) -> None:
    """Print a fresh key; nothing is kept."""
    key = sealing.new_key()
    if as_json:
        print_json({"data_key": key})
    else:
        sys.stdout.write(key + "\n")


@data_key_app.command("rotate")
def data_key_rotate(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Seal with the first key of CORDBOARD_DATA_KEY what is sealed with another one of them.

    First every engine is started anew with the new key before the old one; when this is done, the old one
    can go.
    """
    keys = DataKeys(settings_of(data_dir=data_dir).data_keys())
    if not keys:
        fail("CORDBOARD_DATA_KEY is not set")
    count = on_database(data_dir, lambda database: sealing.rotate(database, keys))
    show(f"sealed anew: {count['events']} events, {count['answers']} answers", dict(count), as_json=as_json)
