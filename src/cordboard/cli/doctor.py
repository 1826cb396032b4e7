"""`cordboard doctor`: looks at everything that an engine needs, and says what to do about what is wrong.

It changes nothing, starts nothing and sends no event. Each check answers for itself: what one finds out does
not keep the next one from looking.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import ssl
import stat
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import asyncpg
import typer
from rich.table import Table
from rich.text import Text

from cordboard.cli.reach import address_of, run, settings_of
from cordboard.cli.shell import AsJson, DataDir, ExitCode, Url, progress, show
from cordboard.cli.top import NoEngine, sample
from cordboard.clock import SECOND_US, SystemClock, to_instant_us
from cordboard.node import DESCRIPTORS_BESIDE
from cordboard.settings import SHARED_MEMORY_FREE_MIN_BYTES, Settings
from cordboard.simulator.client import Client
from cordboard.storage import provisioning
from cordboard.storage.database import Database, DatabaseAway, newest_migration
from cordboard.storage.embedded import PostgresUnavailable, running_server
from cordboard.storage.sealing import DataKeyMissing, DataKeys, check_keys
from cordboard.web.tenant_settings import ENDPOINT_KEYS
from cordboard.webhooks.destinations import Destinations, Endpoint, parse_endpoint

app: Final = typer.Typer()

# 14 is the oldest that the tests of the SQL have met; server_version_num has two digits of minor version.
POSTGRES_MIN: Final = 140_000
# An allocation's end, a window of wrong PINs and a signature's time are compared between machines.
CLOCK_WARN_S: Final = 1.0
CLOCK_FAIL_S: Final = 5.0
# PostgreSQL writes 16 MB at a time ahead of itself, and 1 GB before it checkpoints.
DATA_FREE_WARN_BYTES: Final = 2 << 30
DATA_FREE_FAIL_BYTES: Final = 64 << 20
BOARD_FREE_FAIL_BYTES: Final = 32 << 20
# What the sender gives an attempt; a subscriber that needs longer gets no event either.
CONNECT_TIMEOUT_S: Final = 5.0
CONNECTS_MAX: Final = 16
# What fits a screen; the count says how many tenants there are beside them.
TENANTS_NAMED_MAX: Final = 3

CONFIG_FILE: Final = Path("cordboard.toml")


class Level(IntEnum):
    OK = 0
    WARN = 1
    FAIL = 2


class Finding(NamedTuple):
    check: str
    level: Level
    found: str
    # What to do; nothing where all is well.
    advice: str = ""


@app.command("doctor")
def doctor_command(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check configuration, directories, database, engine and callback endpoints, and say what to do.

    Changes nothing. Ends with 0 if all is well, 1 after warnings, 2 after failures.
    """
    settings = settings_of(data_dir=data_dir)
    findings = run(examine(settings, address_of(settings, url)))
    worst = max(finding.level for finding in findings)
    table = Table("check", "", "found", "what to do")
    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    for finding in findings:
        word = Text(finding.level.name.lower(), style=styles[finding.level])
        table.add_row(finding.check, word, Text(finding.found), Text(finding.advice))
    checks = [
        {
            "check": finding.check,
            "level": finding.level.name.lower(),
            "found": finding.found,
            "advice": finding.advice,
        }
        for finding in findings
    ]
    show(table, {"level": worst.name.lower(), "checks": checks}, as_json=as_json)
    # The three levels are the exit codes of this command.
    raise typer.Exit(ExitCode(worst))


async def examine(settings: Settings, base_url: str) -> list[Finding]:
    """All findings, in the order in which an engine meets these things."""
    findings = [
        *_configuration(settings),
        *_directories(settings),
        *_space(settings),
        *_descriptors(settings),
    ]
    try:
        async with _database(settings) as database:
            if database is None:
                findings.append(
                    Finding("database", Level.WARN, "the embedded one does not run", "start the engine")
                )
            else:
                findings += await _database_findings(database, settings)
    except (DatabaseAway, PostgresUnavailable) as away:
        advice = "see CORDBOARD_DATABASE_URL and the database's own log"
        findings.append(Finding("database", Level.FAIL, f"cannot be reached: {away}", advice))
    except asyncpg.PostgresError as refused:
        found = f"refuses what is asked: {type(refused).__name__}"
        findings.append(Finding("database", Level.FAIL, found, "its user must own the engine's tables"))
    findings.append(await _engine(base_url))
    return findings


# ── this machine ─────────────────────────────────────────────────────────────


def _configuration(settings: Settings) -> Iterator[Finding]:
    """That it can be read at all is known by now: a value that is none ends the command before."""
    yield Finding("settings", Level.OK, "every value can be read")
    if CONFIG_FILE.exists():
        mode = stat.S_IMODE(CONFIG_FILE.stat().st_mode)
        has_secret = any(
            word in CONFIG_FILE.read_text(encoding="utf-8", errors="replace")
            for word in ("admin_token", "database_url", "data_key")
        )
        if has_secret and mode & 0o077:
            yield Finding(
                str(CONFIG_FILE),
                Level.FAIL,
                f"has secrets, and mode {mode:04o}",
                f"chmod 600 {CONFIG_FILE}",
            )
    is_loopback = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not is_loopback:
        yield Finding(
            "CORDBOARD_HOST",
            Level.WARN,
            f"listens on {settings.host}, without TLS",
            "let only a proxy with TLS reach it (docs/proxy.md)",
        )


def _directories(settings: Settings) -> Iterator[Finding]:
    data_dir = settings.data_dir
    if not data_dir.exists():
        parent = next(place for place in data_dir.absolute().parents if place.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding("data directory", Level.OK, f"{data_dir} will be made")
        else:
            yield Finding(
                "data directory", Level.FAIL, f"{parent} cannot be written", "see CORDBOARD_DATA_DIR"
            )
        return
    if os.access(data_dir, os.W_OK | os.X_OK):
        yield Finding("data directory", Level.OK, f"{data_dir} can be written")
    else:
        yield Finding(
            "data directory",
            Level.FAIL,
            f"{data_dir} cannot be written by uid {os.getuid()}",
            "run this as the engine's user, or give the directory to it",
        )
    private = {
        "admin token": settings.admin_token_file,
        "database directory": settings.postgres_dir,
        "spool directory": settings.spool_dir,
        "board directory": settings.node_dir(),
    }
    for check, path in private.items():
        with suppress(FileNotFoundError, PermissionError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                right = "600" if path.is_file() else "700"
                yield Finding(
                    check, Level.FAIL, f"{path} is open to others ({mode:04o})", f"chmod {right} {path}"
                )
            else:
                yield Finding(check, Level.OK, f"{path} is private")


def _space(settings: Settings) -> Iterator[Finding]:
    data, board = _nearest(settings.data_dir), _nearest(settings.node_dir())
    need = DATA_FREE_FAIL_BYTES + settings.spool_bytes_max
    yield _room("space for data", data, need, max(need, DATA_FREE_WARN_BYTES))
    yield _room("space for the board", board, BOARD_FREE_FAIL_BYTES, SHARED_MEMORY_FREE_MIN_BYTES)
    if board.stat().st_dev == data.stat().st_dev:
        yield Finding(
            "board directory",
            Level.WARN,
            f"{settings.node_dir()} is on the disk of the data",
            "give the machine or container shared memory: /dev/shm, 256 MB or more",
        )


def _room(check: str, place: Path, fail_bytes: int, warn_bytes: int) -> Finding:
    free = shutil.disk_usage(place).free
    level = Level.FAIL if free < fail_bytes else Level.WARN if free < warn_bytes else Level.OK
    advice = "" if level is Level.OK else f"make room: {warn_bytes >> 20:,} MB are comfortable"
    return Finding(check, level, f"{free >> 20:,} MB free at {place}", advice)


def _descriptors(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + DESCRIPTORS_BESIDE
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        yield Finding("file descriptors", Level.OK, f"{wanted:,} of them may be open")
    else:
        yield Finding(
            "file descriptors",
            Level.WARN,
            f"{hard:,} may be open, {wanted:,} are needed for CORDBOARD_CONNECTIONS_MAX",
            "raise the limit (LimitNOFILE=, ulimit -Hn), or lower the setting",
        )


def _nearest(place: Path) -> Path:
    return next(existing for existing in (place.absolute(), *place.absolute().parents) if existing.exists())


# ── the database ─────────────────────────────────────────────────────────────


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database | None]:
    """The database as it is, not migrated; None: the embedded one, which does not run."""
    if settings.database_url is not None:
        database = Database(settings.database_url.get_secret_value())
    else:
        running = running_server(settings.postgres_dir)
        if running is None:
            yield None
            return
        database = Database(**running.connect_kwargs)
    try:
        await database.connect()
    except (asyncpg.PostgresError, ValueError) as refused:
        # The class alone: the text may quote the address, and with it a password.
        raise DatabaseAway(type(refused).__name__) from None
    try:
        yield database
    finally:
        await database.close()


async def _database_findings(database: Database, settings: Settings) -> list[Finding]:
    findings = [await _version(database), await _clock(database)]
    has_schema, finding = await _migrations(database)
    findings.append(finding)
    if has_schema:
        findings.append(await _keys(database, settings))
        findings += await _endpoints(database, Destinations.of_settings(settings))
    return findings


async def _version(database: Database) -> Finding:
    async def read(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> tuple[int, str]:
        number = await connection.fetchval("SELECT current_setting('server_version_num')::integer")
        return number, await connection.fetchval("SELECT current_setting('server_version')")

    number, text = await database.read(read)
    if number < POSTGRES_MIN:
        return Finding("database", Level.FAIL, f"PostgreSQL {text}", "14 is the oldest that will do")
    return Finding("database", Level.OK, f"PostgreSQL {text} answers")


async def _clock(database: Database) -> Finding:
    clock = SystemClock()
    before_us = clock.now_us()
    theirs = await database.read(lambda connection: connection.fetchval("SELECT clock_timestamp()"))
    ours_us = (before_us + clock.now_us()) // 2
    apart_s = abs(to_instant_us(theirs) - ours_us) / SECOND_US
    level = Level.FAIL if apart_s > CLOCK_FAIL_S else Level.WARN if apart_s > CLOCK_WARN_S else Level.OK
    advice = "" if level is Level.OK else "let both machines follow the same time servers (chrony, ntpd)"
    return Finding("clock", level, f"{apart_s:.3f} s apart from the database's", advice)


async def _migrations(database: Database) -> tuple[bool, Finding]:
    """Whether there are tables to look into, and what is to be said of them."""

    async def read(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> int:
        if not await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL"):
            return 0
        done: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_migration")
        return done

    done, newest = await database.read(read), newest_migration()
    if not done:
        return False, Finding(
            "migrations", Level.WARN, "the database is empty", "the engine's first start fills it"
        )
    if done < newest:
        found = f"at {done}, this version has {newest}"
        return False, Finding("migrations", Level.WARN, found, "the engine's next start brings it there")
    if done > newest:
        found = f"at {done}, this version knows {newest}"
        return False, Finding("migrations", Level.FAIL, found, "upgrade: a newer engine was here")
    return True, Finding("migrations", Level.OK, f"at {done}, the newest")


async def _keys(database: Database, settings: Settings) -> Finding:
    keys = DataKeys(settings.data_keys())
    try:
        await database.read(lambda connection: check_keys(connection, keys))
    except DataKeyMissing as missing:
        return Finding("data keys", Level.FAIL, str(missing), "add it to CORDBOARD_DATA_KEY")
    return Finding("data keys", Level.OK, "whatever is sealed can be opened")


# ── callback endpoints ───────────────────────────────────────────────────────


async def _endpoints(database: Database, destinations: Destinations) -> list[Finding]:
    """One finding for each host and port that some tenant's events go to."""
    tenants_of: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    faults: list[Finding] = []
    for summary in await provisioning.list_tenants(database):
        with suppress(provisioning.NoSuchTenant):
            settings = (await provisioning.get_tenant(database, summary.id)).settings
            for key in ENDPOINT_KEYS:
                text = settings.get(key)
                if not text:
                    continue
                endpoint, fault = parse_endpoint(text), destinations.fault_of(text)
                if endpoint is None or fault is not None:
                    faults.append(
                        Finding("callbacks", Level.FAIL, f"{summary.id}: {key} {fault}", "set another one")
                    )
                else:
                    tenants_of[endpoint.url.scheme, endpoint.host].add(summary.id)
    asked = [
        _knock(parse_endpoint(f"{scheme}://{host}/"), scheme, sorted(tenants), destinations)
        for (scheme, host), tenants in sorted(tenants_of.items())
    ]
    return [*faults, *await _some_at_a_time(asked)]


async def _some_at_a_time(asked: Sequence[Awaitable[Finding]]) -> list[Finding]:
    slots = asyncio.Semaphore(CONNECTS_MAX)
    with progress("knocking at callback endpoints") as advance:
        done = 0

        async def one(question: Awaitable[Finding]) -> Finding:
            nonlocal done
            async with slots:
                finding = await question
            done += 1
            advance(done, len(asked))
            return finding

        return list(await asyncio.gather(*map(one, asked)))


async def _knock(
    endpoint: Endpoint | None, scheme: str, tenants: Sequence[str], destinations: Destinations
) -> Finding:
    """Look the name up, connect, and agree on TLS; nothing is sent."""
    assert endpoint is not None, "it was one a moment ago"
    whose = ", ".join(tenants[:TENANTS_NAMED_MAX])
    if len(tenants) > TENANTS_NAMED_MAX:
        whose += f" and {len(tenants) - TENANTS_NAMED_MAX} more"
    where = f"{endpoint.host} ({whose})"
    host, port = endpoint.url.raw_host or "", endpoint.url.port or 0
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            addresses = await _addresses(host, port)
            if not destinations.trusts(endpoint.url):
                addresses = [one for one in addresses if destinations.permits(ip_address(one), port)]
            if not addresses:
                return Finding(
                    "callbacks",
                    Level.FAIL,
                    f"{where} leads to an address that is not public",
                    "if it is meant, open it with CORDBOARD_CALLBACK_ALLOW",
                )
            context = ssl.create_default_context() if scheme == "https" else None
            server_name = host if context is not None else None
            _, writer = await asyncio.open_connection(
                addresses[0], port, ssl=context, server_hostname=server_name
            )
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    except ssl.SSLError as error:
        found = f"{where}: {error.reason or 'no TLS'}"
        return Finding("callbacks", Level.FAIL, found, "the subscriber needs a certificate that is trusted")
    except TimeoutError:
        found = f"{where} does not answer within {CONNECT_TIMEOUT_S:g} s"
        return Finding("callbacks", Level.WARN, found, "events wait for it until they are too old")
    except OSError as error:
        found = f"{where} cannot be reached: {_words_of(error)}"
        return Finding("callbacks", Level.WARN, found, "events wait for it until they are too old")
    return Finding("callbacks", Level.OK, f"{where} takes connections")


def _words_of(error: OSError) -> str:
    """The system's own words, which do not depend on who called it."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)


async def _addresses(host: str, port: int) -> list[str]:
    """In the order in which they would be tried. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


# ── the engine ───────────────────────────────────────────────────────────────


async def _engine(base_url: str) -> Finding:
    async with aiohttp.ClientSession() as session:
        try:
            seen = await sample(Client(session, base_url, ""))
        except NoEngine as nobody:
            return Finding("engine", Level.WARN, str(nobody), "start it, or name it with --url")
    age_s = seen.readiness.get("board_age_s")
    if not seen.readiness.get("ready"):
        return Finding(
            "engine",
            Level.FAIL,
            f"its board is {age_s} s old",
            "it loads, or the database is away: see its log (board., database.)",
        )
    if spooled := seen.readiness.get("spool_records"):
        found = f"ready, and {spooled} records wait in the spool"
        return Finding("engine", Level.WARN, found, "the database was away; they go there by themselves")
    return Finding("engine", Level.OK, f"ready; its board is {age_s} s old")
