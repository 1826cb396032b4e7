"""The supervisor against the real server: killed engines, killed servers, torn directories, closed doors."""

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from cordboard.storage.embedded import (
    SOCKET_PATH_BYTES_MAX,
    EmbeddedPostgres,
    EngineAlreadyRunning,
    PostgresUnavailable,
    ServerAddress,
    running_server,
)

PHONE_NUMBER = "+919812345678"

ENGINE = """
import asyncio, pathlib, sys
from cordboard.storage.embedded import EmbeddedPostgres

async def main():
    await EmbeddedPostgres(pathlib.Path(sys.argv[1])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to fall back to")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def server_pid(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().split()[0])


async def execute(address: ServerAddress, *statements: str) -> None:
    connection = await asyncpg.connect(**address.connect_kwargs)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def write_word(address: ServerAddress) -> None:
    await execute(address, "CREATE TABLE words (word text PRIMARY KEY)", "INSERT INTO words VALUES ('kept')")


async def read_words(address: ServerAddress) -> list[str]:
    connection = await asyncpg.connect(address.dsn)
    try:
        return [row["word"] for row in await connection.fetch("SELECT word FROM words")]
    finally:
        await connection.close()


@asynccontextmanager
async def another_engine(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real engine process, leader of its own process group, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE, str(directory)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await kill_engine(process)


async def is_ready(engine: asyncio.subprocess.Process) -> None:
    assert engine.stdout is not None
    assert await engine.stdout.readline() == b"ready\n"


async def kill_engine(engine: asyncio.subprocess.Process) -> None:
    # The whole group, as a terminal does with Ctrl-C: the server must not be in it.
    with suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    await engine.wait()


async def initdb_has_begun(directory: Path) -> None:
    while not list(directory.glob("data.new.*/PG_VERSION")):  # noqa: ASYNC110 - another process's work.
        await asyncio.sleep(0)


async def is_busy(address: ServerAddress) -> None:
    """Wait until a statement other than our own runs."""
    connection = await asyncpg.connect(**address.connect_kwargs)
    try:
        while not await connection.fetchval(
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        ):
            pass
    finally:
        await connection.close()


async def survive(statement: Awaitable[str]) -> None:
    with suppress(asyncpg.PostgresError, ConnectionError):
        await statement


Run = Callable[..., EmbeddedPostgres]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Makes supervisors, and leaves no server behind, whoever started it."""
    made: list[tuple[Path, EmbeddedPostgres]] = []

    def make(
        directory: Path, *, start_timeout_s: float = 60.0, settings: Mapping[str, str] | None = None
    ) -> EmbeddedPostgres:
        postgres = EmbeddedPostgres(directory, start_timeout_s=start_timeout_s, settings=settings)
        made.append((directory, postgres))
        return postgres

    yield make
    for directory, postgres in made:
        await postgres.stop()
        with suppress(PostgresUnavailable):
            if running_server(directory) is not None:
                os.kill(server_pid(directory), signal.SIGQUIT)
        await postgres.wait_closed()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "postgres"


@pytest.fixture
def public_place() -> Iterator[Path]:
    """A directory that other users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="public-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


# Start and stop


async def test_what_was_committed_is_there_after_a_stop_and_a_start(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    await postgres.stop()
    assert not postgres.is_alive()
    await postgres.start()
    assert await read_words(postgres.address) == ["kept"]


async def test_settings_of_one_start_are_gone_with_the_next(run: Run, directory: Path) -> None:
    async def fsync(address: ServerAddress) -> str:
        connection = await asyncpg.connect(**address.connect_kwargs)
        try:
            return str(await connection.fetchval("SHOW fsync"))
        finally:
            await connection.close()

    careless = run(directory, settings={"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"})
    await careless.start()
    await write_word(careless.address)
    assert await fsync(careless.address) == "off"
    await careless.stop()
    postgres = run(directory)
    await postgres.start()
    assert await fsync(postgres.address) == "on"
    assert await read_words(postgres.address) == ["kept"]


async def test_it_can_be_stopped_twice_or_before_it_started(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.stop()
    assert not directory.exists()
    await postgres.start()
    await postgres.stop()
    await postgres.stop()
    assert not (directory / "socket").exists()


async def test_starting_a_running_server_changes_nothing(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    pid, address = server_pid(directory), postgres.address
    await postgres.start()
    assert (server_pid(directory), postgres.address) == (pid, address)


async def test_the_environment_of_the_engine_does_not_reach_the_server(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("CORDBOARD_ADMIN_TOKEN", "told-to-nobody")
    await run(directory).start()
    assert b"told-to-nobody" not in Path(f"/proc/{server_pid(directory)}/environ").read_bytes()


# Who may see what


async def test_everything_is_for_the_owner_alone(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    assert mode(directory) == 0o700
    assert mode(directory / "data") == 0o700
    assert mode(directory / "socket") == 0o700
    assert mode(directory / "socket" / ".s.PGSQL.5432") == 0o700
    assert mode(directory / "password") == 0o600
    assert mode(directory / "postgres.log") == 0o600
    assert postgres.address.password not in repr(postgres.address)


async def test_a_wrong_password_is_refused(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await execute(ServerAddress(postgres.address.socket_directory, "guessed"), "SELECT 1")


@pytest.mark.parametrize("parent_mode", [0o700, 0o755])
async def test_the_parent_keeps_its_mode(run: Run, tmp_path: Path, parent_mode: int) -> None:
    parent = tmp_path / "home"
    parent.mkdir()
    parent.chmod(parent_mode)
    await run(parent / "postgres").start()
    assert mode(parent) == parent_mode


async def test_an_empty_directory_made_for_it_is_closed(run: Run, directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o755)
    await run(directory).start()
    assert mode(directory) == 0o700


async def test_an_open_directory_with_other_files_is_neither_used_nor_closed(
    run: Run, directory: Path
) -> None:
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "holiday.jpg").touch()
    with pytest.raises(PostgresUnavailable, match=r"holds other files \(holiday.jpg\)"):
        await run(directory).start()
    assert mode(directory) == 0o755
    assert [entry.name for entry in directory.iterdir()] == ["holiday.jpg"]


async def test_the_log_names_the_error_but_no_phone_number(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    connection = await asyncpg.connect(postgres.dsn)
    for _ in range(2):
        with suppress(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO words VALUES ($1)", PHONE_NUMBER)
    await connection.close()
    log = (directory / "postgres.log").read_text()
    assert "duplicate key value violates unique constraint" in log
    assert PHONE_NUMBER not in log


# Two engines


async def test_a_second_engine_is_refused(run: Run, directory: Path) -> None:
    async with another_engine(directory) as engine:
        await is_ready(engine)
        second = run(directory)
        with pytest.raises(EngineAlreadyRunning) as refusal:
            await second.start()
        assert refusal.value.directory == directory
        await second.stop()
        assert running_server(directory) is not None


async def test_a_second_supervisor_in_the_same_process_is_refused(run: Run, directory: Path) -> None:
    await run(directory).start()
    with pytest.raises(EngineAlreadyRunning):
        await run(directory).start()


async def test_a_tool_finds_the_server_of_a_live_engine(run: Run, directory: Path) -> None:
    assert running_server(directory) is None
    postgres = run(directory)
    await postgres.start()
    assert running_server(directory) == postgres.address
    await postgres.stop()
    assert running_server(directory) is None


# Killed engines and killed servers


async def test_the_server_of_a_killed_engine_is_adopted(run: Run, directory: Path) -> None:
    async with another_engine(directory) as engine:
        await is_ready(engine)
        address = running_server(directory)
        assert address is not None
        await write_word(address)
    pid = server_pid(directory)
    postgres = run(directory)
    await postgres.start()
    assert server_pid(directory) == pid
    assert postgres.is_alive()
    assert await read_words(postgres.address) == ["kept"]
    await postgres.stop()
    assert not postgres.is_alive()
    assert running_server(directory) is None
    await postgres.start()
    assert server_pid(directory) != pid
    assert await read_words(postgres.address) == ["kept"]


async def test_a_killed_server_recovers(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    address = postgres.address
    os.kill(server_pid(directory), signal.SIGKILL)
    await postgres.wait_closed()
    assert running_server(directory) is None
    await postgres.start()
    assert postgres.address == address
    assert await read_words(postgres.address) == ["kept"]
    assert "not properly shut down" in (directory / "postgres.log").read_text()


async def test_a_killed_server_recovers_when_its_last_backend_is_done(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    connection = await asyncpg.connect(postgres.dsn)
    async with asyncio.TaskGroup() as tasks:
        # Computes for about a second and looks at nothing meanwhile, not even whether its server lives.
        busy = tasks.create_task(
            survive(connection.execute("SELECT count(*) FROM generate_series(1, 5000000)"))
        )
        await is_busy(postgres.address)
        os.kill(server_pid(directory), signal.SIGKILL)
        await postgres.wait_closed()
        await postgres.start()
        assert busy.done()
    assert await read_words(postgres.address) == ["kept"]
    assert "pre-existing shared memory block" in (directory / "postgres.log").read_text()


async def test_a_killed_server_can_be_stopped(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    os.kill(server_pid(directory), signal.SIGKILL)
    await postgres.stop()
    await run(directory).start()


async def test_a_pid_file_that_names_a_process_of_somebody_else_does_not_mislead(
    run: Run, directory: Path
) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    pid_file = directory / "data" / "postmaster.pid"
    socket_lock = directory / "socket" / ".s.PGSQL.5432.lock"
    old_pid = str(server_pid(directory))
    os.kill(int(old_pid), signal.SIGKILL)
    await postgres.wait_closed()
    # As after the restart of a container. PostgreSQL alone would refuse: the process is alive.
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
    for path in (pid_file, socket_lock):
        path.write_text(path.read_text().replace(old_pid, str(stranger.pid), 1))
    await postgres.start()
    assert await read_words(postgres.address) == ["kept"]
    stranger.kill()
    await stranger.wait()


async def test_a_server_whose_socket_was_tidied_away_is_replaced(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    (directory / "socket" / ".s.PGSQL.5432").unlink()
    await postgres.start()
    assert await read_words(postgres.address) == ["kept"]


# Long paths


async def test_a_path_too_long_for_a_socket_has_its_socket_elsewhere(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30) / "with a, comma"
    assert len(str(directory)) > SOCKET_PATH_BYTES_MAX
    async with another_engine(directory) as engine:
        await is_ready(engine)
        address = running_server(directory)
        assert address is not None
        await write_word(address)
    assert mode(address.socket_directory) == 0o700
    assert (directory / "socket").resolve() == address.socket_directory
    postgres = run(directory)
    await postgres.start()
    assert postgres.address == address
    assert await read_words(address) == ["kept"]
    os.kill(server_pid(directory), signal.SIGKILL)
    await postgres.wait_closed()
    await postgres.start()
    assert postgres.address == address, "pools remember where they connect to"
    await postgres.stop()
    assert not address.socket_directory.exists()
    assert not (directory / "socket").is_symlink()


async def test_a_name_with_spaces_and_quotes_is_a_name_like_any_other(run: Run, tmp_path: Path) -> None:
    postgres = run(tmp_path / 'it\'s "ours", é')
    await postgres.start()
    await execute(postgres.address, "SELECT 1")
    await write_word(postgres.address)
    assert await read_words(postgres.address) == ["kept"]


# Half-done starts


async def test_an_initdb_cut_short_by_the_death_of_its_engine_is_discarded(run: Run, directory: Path) -> None:
    async with another_engine(directory) as engine:
        await initdb_has_begun(directory)
        await kill_engine(engine)
    assert not (directory / "data").exists()
    postgres = run(directory)
    await postgres.start()
    await write_word(postgres.address)
    await postgres.stop()
    await postgres.start()
    assert await read_words(postgres.address) == ["kept"]
    assert not list(directory.glob("data.new.*"))


async def test_a_cancelled_start_leaves_nothing_running(run: Run, directory: Path) -> None:
    postgres = run(directory)
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(postgres.start())
        await initdb_has_begun(directory)
        starting.cancel()
    assert not (directory / "data").exists()
    assert not postgres.is_alive()
    await run(directory).start()


async def test_a_start_that_takes_too_long_is_continued_by_the_next(run: Run, directory: Path) -> None:
    first = run(directory)
    await first.start()
    await first.stop()
    impatient = run(directory, start_timeout_s=0.0)
    with pytest.raises(PostgresUnavailable, match="the next start waits for it"):
        await impatient.start()
    assert impatient.is_alive()
    patient = run(directory)
    await patient.start()
    assert impatient.is_alive(), "it was adopted, not replaced"
    await patient.stop()
    assert not impatient.is_alive()


# What cannot be helped is said clearly


async def test_a_file_is_not_a_directory(run: Run, directory: Path) -> None:
    directory.touch()
    with pytest.raises(PostgresUnavailable, match=f"cannot use {directory}"):
        await run(directory).start()
    assert running_server(directory) is None


async def test_a_place_where_nobody_can_write_is_named(run: Run) -> None:
    # Not even root makes a directory here.
    directory = Path("/proc/sys/cordboard")
    with pytest.raises(PostgresUnavailable, match=f"cannot use {directory}"):
        await run(directory).start()


async def test_a_failed_initdb_says_why(run: Run, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "password").touch(mode=0o600)
    with pytest.raises(PostgresUnavailable, match=r"initdb failed .* is empty"):
        await run(directory).start()
    (directory / "password").unlink()
    await run(directory).start()


async def test_a_server_that_cannot_start_says_why(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await postgres.stop()
    (directory / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(PostgresUnavailable, match=r"did not start.*FATAL: .*incompatible with server"):
        await postgres.start()
    (directory / "data" / "PG_VERSION").write_text("18\n")
    await run(directory).start()


async def test_a_lost_password_is_asked_for(run: Run, directory: Path) -> None:
    postgres = run(directory)
    await postgres.start()
    await postgres.stop()
    (directory / "password").unlink()
    with pytest.raises(PostgresUnavailable, match="password is missing"):
        await postgres.start()


async def test_a_server_with_another_password_is_not_adopted_and_not_stopped(
    run: Run, directory: Path
) -> None:
    async with another_engine(directory) as engine:
        await is_ready(engine)
    password = (directory / "password").read_text()
    pid = server_pid(directory)
    (directory / "password").write_text("other\n")
    postgres = run(directory)
    with pytest.raises(PostgresUnavailable, match="refuses the password"):
        await postgres.start()
    (directory / "password").write_text(password)
    await postgres.start()
    assert server_pid(directory) == pid


# Root where the kernel forbids user namespaces. A search path without `unshare` is the same to the engine.


@as_root
async def test_root_without_namespaces_runs_the_server_as_nobody(
    run: Run, public_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    directory = public_place / "postgres"
    postgres = run(directory)
    try:
        await postgres.start()
    except PostgresUnavailable as unavailable:
        pytest.skip(f"the wheel is installed where nobody may enter: {unavailable}")
    await write_word(postgres.address)
    assert Path(f"/proc/{server_pid(directory)}").stat().st_uid == (directory / "data").stat().st_uid != 0
    assert mode(directory) == 0o700
    await postgres.stop()
    # Once the files are somebody's, they stay his, whatever the kernel allows by then.
    monkeypatch.undo()
    await postgres.start()
    assert await read_words(postgres.address) == ["kept"]
    assert Path(f"/proc/{server_pid(directory)}").stat().st_uid != 0


@as_root
async def test_root_without_namespaces_opens_no_door(
    run: Run, public_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    home = public_place / "home"
    home.mkdir(mode=0o700)
    with pytest.raises(PostgresUnavailable, match=r"as nobody directly.*Run the engine as an ordinary"):
        await run(home / "postgres").start()
    assert mode(home) == 0o700
    assert not list(home.iterdir())
