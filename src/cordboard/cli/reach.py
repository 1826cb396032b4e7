"""How a command reaches the database and the running engine, and what is said where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import asyncpg
import uvloop
from pydantic import ValidationError

from cordboard.cli.shell import ExitCode, fail
from cordboard.clock import SystemClock
from cordboard.node import running_database
from cordboard.postal_table import BadPostalTable
from cordboard.routing.numbers import E164, parse_number
from cordboard.settings import Settings
from cordboard.simulator.client import Answer, Client
from cordboard.storage import event_records, provisioning
from cordboard.storage.backup import BackupRefused
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.embedded import EngineAlreadyRunning, PostgresUnavailable, running_server
from cordboard.storage.sealing import CannotOpen, DataKeyMissing
from cordboard.supervisor import ProcessFailed
from cordboard.tracing import TracingUnavailable
from cordboard.web.app import CannotListen
from cordboard.web.errors import Refused

Result = TypeVar("Result")


def settings_of(**given: Any) -> Settings:
    """The settings, with what the command line says of them."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = (
            f"CORDBOARD_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        fail("; ".join(problems))


def run(work: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await work

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(main())
            except BaseExceptionGroup as group:
                raise _cause_of(group) from group
    except (
        EngineAlreadyRunning,
        BadPostalTable,
        DataKeyMissing,
        BackupRefused,
        CannotListen,
        ProcessFailed,
        TracingUnavailable,
    ) as refused:
        fail(str(refused))
    except PostgresUnavailable as unavailable:
        fail(str(unavailable), ExitCode.AWAY)
    except CannotOpen:
        fail("something that was kept sealed was changed since; the database may be damaged")
    except DatabaseAway as away:
        fail(f"the database cannot be reached ({away})", ExitCode.AWAY)
    except asyncpg.PostgresError as refused:
        # The class alone: the text may quote what was stored.
        fail(f"the database refuses ({type(refused).__name__})")
    except CommitUnknown:
        fail("the database was lost during the commit: look whether the change was made", ExitCode.AWAY)
    except OSError as error:
        fail(str(error))


def _cause_of(error: BaseException) -> BaseException:
    """What tasks that run together have ended by, if it was one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error


def on_database(data_dir: Path | None, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Work on the database of a running engine, or start the database for as long as it takes.

    A running engine learns of the change through the feed, like of every other.
    """
    settings = settings_of(data_dir=data_dir)

    async def main() -> Result:
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

    return run(main())


def on_tenant(data_dir: Path | None, work: Callable[[Database], Awaitable[Result]]) -> Result:
    try:
        return on_database(data_dir, work)
    except provisioning.NoSuchTenant:
        fail("there is no such tenant")
    except provisioning.NoSuchVirtualNumber:
        fail("the tenant has no such virtual number")
    except provisioning.NoSuchCredential:
        fail("the tenant has nothing under that id")
    except provisioning.HasLiveAllocations as refused:
        fail(f"refused: {refused.count} live allocations")
    except provisioning.TooManyWebhookSecrets:
        fail(f"refused: a tenant has at most {provisioning.WEBHOOK_SECRETS_MAX} webhook secrets")
    except provisioning.LastWebhookSecret:
        fail("refused: it is the last one, and events would go unsigned; add another first")
    except event_records.NoSuchEvent:
        fail("the tenant has no such event")
    except event_records.StillPending:
        fail("the event is pending; what was not delivered yet cannot be replayed")
    except event_records.EventMasked:
        fail("the event is masked; what it told is no longer kept, so it cannot be replayed")
    except Refused as refused:
        fail(refused.problem.message)


def address_of(settings: Settings, url: str | None) -> str:
    """Where the engine listens; `url` is what --url says."""
    if url is not None:
        if not url.startswith(("http://", "https://")):
            fail("--url: must begin with http:// or https://", ExitCode.USAGE)
        return url.rstrip("/")
    # One that listens everywhere is asked on this machine.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def admin_token_of(settings: Settings) -> str | None:
    """The operator's token, as far as somebody has one. Raises OSError if its file may not be read."""
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    try:
        return settings.admin_token_file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


@asynccontextmanager
async def operator_of(settings: Settings, url: str | None) -> AsyncIterator[Client]:
    """Speaks to the running engine as its operator; ends the command if there is no token, or no engine."""
    token = admin_token_of(settings)
    if token is None:
        fail(f"there is no admin token in {settings.admin_token_file}; has an engine run there?")
    base = address_of(settings, url)
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, base, token)
    except (aiohttp.ClientError, TimeoutError) as error:
        fail(f"no engine answers at {base} ({type(error).__name__})", ExitCode.AWAY)


def told(answer: Answer, base_url: str, *, status: int = 200) -> dict[str, Any]:
    """What the engine said; ends the command with its words if it refuses."""
    if not isinstance(answer.body, dict):
        fail(f"what answers at {base_url} is no engine", ExitCode.AWAY)
    if answer.status != status:
        fail(str(answer.body.get("message")))
    return answer.body


def ask_engine(settings: Settings, url: str | None, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    """What the running engine answers to its operator under `/admin/v1`."""

    async def ask() -> dict[str, Any]:
        async with operator_of(settings, url) as client:
            return told(await client.admin("GET", path, query=query), client.base_url)

    return run(ask())


def number_of(text: str, name: str, country: str = "IN") -> E164:
    """A telephone number; `name` is what the help calls it."""
    number = parse_number(text, country)
    if number is None:
        fail(f"{name}: {text[:4]}…: not a telephone number")
    return number


def now_us() -> int:
    return SystemClock().now_us()
