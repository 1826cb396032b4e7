"""The database in one file and back, by PostgreSQL's own pg_dump and pg_restore, which come in the same wheel
as the embedded server. A dump is one snapshot; engines go on meanwhile.

A restore fills an empty database in one transaction: all of it, or nothing. The feed's tags come back with
it, so that a board which knew changes that the backup lacks finds that out and loads anew (storage/feed.py).
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from cordboard.storage.database import DatabaseAway
from cordboard.storage.embedded import client_programs

# How often a file that grows is looked at, for whoever waits.
WATCH_INTERVAL_S: Final = 0.2
# pg_dump talks of every object of ours in 200 lines at most; an error is in the last ones.
WORDS_SHOWN_BYTES: Final = 2_000


class BackupRefused(Exception):
    """It was not done; the message says why, and what is there is as it was."""


async def dump(dsn: str, file: Path, on_progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the database into `file`, mode 0600, and return its size; an existing file is refused.

    `on_progress` hears the bytes so far. Half a backup never has the name of a whole one. Raises
    BackupRefused, OSError.
    """
    if file.exists():
        raise BackupRefused(f"{file} exists already")
    part = file.with_name(f".{file.name}.part")
    # It holds numbers and PINs. Made here, so that no moment has it readable by others.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(part, on_progress))
            try:
                await _run("pg_dump", dsn, "--format=custom", "--no-owner", "--no-acl", f"--file={part}")
            finally:
                watching.cancel()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        # Unlike rename, it never takes another's place.
        os.link(part, file)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


async def restore(dsn: str, file: Path) -> None:
    """Fill the empty database from a backup. Raises BackupRefused, DatabaseAway, OSError."""
    if not file.is_file():
        raise BackupRefused(f"{file}: there is no such file")
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseAway(type(error).__name__) from error
    try:
        if await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL"):
            raise BackupRefused(
                "the database is not empty: a backup is restored into one that no engine has used yet"
            )
    finally:
        await connection.close()
    await _run(
        "pg_restore", dsn, "--single-transaction", "--exit-on-error", "--no-owner", "--no-acl", str(file)
    )


async def _watch(file: Path, on_progress: Callable[[int], None]) -> None:
    while True:
        with suppress(FileNotFoundError):
            on_progress(file.stat().st_size)
        await asyncio.sleep(WATCH_INTERVAL_S)


async def _run(program: str, dsn: str, *arguments: str) -> None:
    address, secrets = without_password(dsn)
    process = await asyncio.create_subprocess_exec(
        str(client_programs() / program),
        f"--dbname={address}",
        "--no-password",
        *arguments,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        env={**os.environ, "LC_ALL": "C", **secrets},
    )
    try:
        said = (await process.communicate())[1]
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        words = said[-WORDS_SHOWN_BYTES:].decode(errors="replace").strip()
        raise BackupRefused(f"{program} ended with code {process.returncode}: {words}")


def without_password(dsn: str) -> tuple[str, Mapping[str, str]]:
    """The address as others may see it among the processes, and what goes beside it in the environment."""
    parts = urlsplit(dsn)
    user, is_user, hosts = parts.netloc.rpartition("@")
    name, is_password, password = user.partition(":")
    query = parse_qsl(parts.query)
    passwords = [value for key, value in query if key == "password"]
    if is_password:
        passwords.append(unquote(password))
    shown = urlencode([(key, value) for key, value in query if key != "password"], safe="/")
    address = urlunsplit((parts.scheme, f"{name}{is_user}{hosts}", parts.path, shown, ""))
    return address, {"PGPASSWORD": passwords[-1]} if passwords else {}
