"""Who runs on which core: what is measured on one, everything else on another.

Where there is one core only, or no way to ask for one, processes stay where they are, and `shared` says so.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

# An idle engine asks for its feed ten times a second, which is some percent of a core.
QUIET_SHARE: Final = 0.1
QUIET_STEP_S: Final = 0.2
QUIET_TIMEOUT_S: Final = 30.0
HIGHEST_PRIORITY: Final = -20


class Cores:
    """`server` is for the process that is measured, `other` for the generator and PostgreSQL."""

    def __init__(self) -> None:
        usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self.shared = len(usable) < 2
        self.server, self.other = (-1, -1) if self.shared else usable[:2]

    def pin(self, pid: int, core: int) -> None:
        if sys.platform == "linux" and not self.shared:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, {core})

    @contextmanager
    def starting_server(self) -> Iterator[None]:
        """What is started inside runs on the server's core from its first thread on; we leave it."""
        self.pin(0, self.server)
        try:
            yield
        finally:
            self.pin(0, self.other)

    def __str__(self) -> str:
        if self.shared:
            return "server, generator and PostgreSQL share what there is"
        first = ", the generator first" if os.geteuid() == 0 else ""
        return f"server on core {self.server}, generator and PostgreSQL on core {self.other}{first}"


@contextmanager
def served_first() -> Iterator[None]:
    """This thread goes before all others of its core. The generator's must: PostgreSQL is on the same core,
    and what a request waits for there while it is to be sent, or its reply to be read, is no latency of the
    engine.

    Only root may do this; for others everything stays as it is.
    """
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, HIGHEST_PRIORITY)
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, thread, 0)


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on."""
    found: list[int] = []
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    queue = [pid]
    while queue:
        above = queue.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found += below
        queue += below
    return found


def is_postgres(pid: int) -> bool:
    """Whether it is one of PostgreSQL's processes."""
    try:
        name = (Path("/proc") / str(pid) / "comm").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return name.startswith("postgres")


def cpu_s(*pids: int) -> float:
    """CPU time that these processes have had, user and system; nothing for one that is gone."""
    return sum(_cpu_s(pid) for pid in pids)


def own_memory_bytes(*pids: int) -> int:
    """Memory of these processes that is theirs alone, by proc_pid_statm(5): no files, and no board."""
    return sum(_own_memory_bytes(pid) for pid in pids)


async def until_quiet(*pids: int) -> None:
    """Wait until these processes have done what was left to do, such as records written behind."""
    loop = asyncio.get_running_loop()
    gives_up_at_s = loop.time() + QUIET_TIMEOUT_S
    used_s = cpu_s(*pids)
    while loop.time() < gives_up_at_s:
        await asyncio.sleep(QUIET_STEP_S)
        used_s, before_s = cpu_s(*pids), used_s
        if used_s - before_s <= QUIET_SHARE * QUIET_STEP_S:
            return


def _parent(process: Path) -> int:
    """By proc_pid_stat(5), whose second field, the name, may have blanks and parentheses in it."""
    try:
        text = (process / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(text.rpartition(")")[2].split()[1])


def _cpu_s(pid: int) -> float:
    # In nanoseconds; the times in proc_pid_stat(5) have steps of 10 ms.
    try:
        tasks = list((Path("/proc") / str(pid) / "task").iterdir())
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _own_memory_bytes(pid: int) -> int:
    try:
        _, resident, shared, *_ = (Path("/proc") / str(pid) / "statm").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
