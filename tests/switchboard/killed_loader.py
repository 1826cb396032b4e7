"""Opens a board until it has come so far, and is killed: `python -m … DIRECTORY CONNECT_KWARGS WHAT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson

from cordboard.clock import SystemClock
from cordboard.storage.bell import Bell
from cordboard.storage.database import Database
from cordboard.switchboard.keeper import BoardKeeper
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.steps import Step


async def main(directory: str, connect_kwargs: str, what: str) -> None:
    def die(step: Step) -> None:
        if step.what == what:
            os.kill(os.getpid(), signal.SIGKILL)

    database = Database(**orjson.loads(connect_kwargs))
    await database.connect()
    await BoardKeeper(database, Bell(database), Throttle(), Path(directory), SystemClock(), die).open()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
