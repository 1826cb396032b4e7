"""Runs a real engine as a process of its own: for the demo, the journey tests and the benchmarks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cordboard.storage.embedded import (
    EmbeddedPostgres,
    EngineAlreadyRunning,
    PostgresUnavailable,
    running_server,
)

READY_PREFIX: Final = "Listening on "

# An initdb, a crash recovery and a slow machine together; a start takes about 2 s.
START_TIMEOUT_S: Final = 90.0
# Requests under way have a second, and a checkpoint of the database a minute on a slow disk.
STOP_TIMEOUT_S: Final = 60.0
LOG_LINES_SHOWN: Final = 15


class EngineDidNotStart(Exception):
    """The engine ended, or said nothing in time; the message ends with its last log lines."""


class EngineProcess:
    """`cordboard serve` over `data_dir`, listening on a free port of this machine.

    Whatever happens inside `async with`, neither the engine nor its database outlives it.
    """

    def __init__(self, data_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        # A log beside the data: a pipe would have to be emptied all the time.
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self.base_url = ""
        # What the engine said before that it listens.
        self.said: list[str] = []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CORDBOARD_")}
        # The board would otherwise be in shared memory and stay there when the directory is gone.
        board_dir = data_dir.with_name(f"{data_dir.name}.board")
        self._environment = {**inherited, "CORDBOARD_BOARD_DIR": str(board_dir), **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.clear_away()

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def postgres_dir(self) -> Path:
        return self.data_dir / "postgres"

    async def start(self) -> None:
        """Return when the engine listens. Raises EngineDidNotStart."""
        assert self._process is None, "it runs already"
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cordboard", "serve"),
                *("--host", "127.0.0.1", "--port", "0", "--data-dir", str(self.data_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
                # Ctrl-C is for whoever runs this; the engine is stopped by stop().
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while (line := await self._read_line()) and not line.startswith(READY_PREFIX):
                    self.said.append(line)
        except BaseException as error:
            # Also when cancelled: whoever is not inside `async with` yet has nobody to clear away.
            await self.clear_away()
            if isinstance(error, TimeoutError):
                raise EngineDidNotStart(self._complaint(f"not ready after {START_TIMEOUT_S:g} s")) from error
            raise
        if not line:
            code = await self.clear_away()
            raise EngineDidNotStart(self._complaint(f"it ended with code {code}"))
        self.base_url = line.removeprefix(READY_PREFIX)

    async def stop(self) -> int | None:
        """Ask the engine to stop, as an operator does, and return its exit code.

        None if it did not run, or had to be killed.
        """
        process = self._process
        if process is None:
            return None
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await self.ended()
        except TimeoutError:
            await self.kill()
            return None

    def ask_to_stop(self) -> None:
        """Send SIGTERM and do not wait; `ended` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until the engine has ended, and return its exit code."""
        assert self._process is not None
        code = await self._process.wait()
        self._process = None
        return code

    def crash(self) -> None:
        """Send SIGKILL and do not wait."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> None:
        """End the engine as a crash does. Its database goes on, for the next engine to adopt."""
        if self._process is not None:
            self.crash()
            await self.ended()

    async def clear_away(self) -> int | None:
        """Leave nothing running, whatever state things are in."""
        code = await self.stop()
        # A server that another engine looks after is not ours.
        with suppress(PostgresUnavailable, EngineAlreadyRunning):
            if running_server(self.postgres_dir) is not None:
                orphan = EmbeddedPostgres(self.postgres_dir)
                await orphan.start()
                await orphan.stop()
        return code

    def last_log_lines(self) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    async def _read_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().rstrip("\n")

    def _complaint(self, what: str) -> str:
        return f"the engine did not start: {what}\n{self.last_log_lines()}"
