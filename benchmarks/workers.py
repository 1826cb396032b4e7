"""Two web workers beside one: the passthru hop as fast as it goes, on two cores that others need, too.

What generator, node process and PostgreSQL took of the two cores is taken out: with 1.6 cores left for them,
two workers that do 1.4 times as much as one alone on a core have done 1.4 / 1.6 × 2 = 1.75 times as much.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.cores import Cores, cpu_s, descendants
from benchmarks.engine import CLIENTS, Engine, Measured, has_workers
from benchmarks.figures import Figure, measured_figure, ratio_figure, skipped
from benchmarks.generator import drive
from benchmarks.hops import applet_requests

PART: Final = "workers"
WARM_UP_S: Final = 0.5
# Connections are dealt to workers by chance: with so many, no worker has much more than its share.
CONNECTIONS: Final = 2 * CLIENTS
COUNTS: Final = (1, 2)
FINDING_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Round:
    measured: Measured
    # Of the cores that the workers may use, what others left them.
    cores_left: float


async def workers(engine: Engine, cores: Cores, rounds: int, seconds: float) -> AsyncIterator[Figure]:
    """`rounds` of `seconds` for each number of workers, the engine started for each, and left stopped."""
    await engine.stop()
    if not has_workers():
        yield skipped(PART, "this engine has no setting for the number of workers", engine.world.allocations)
        return
    if cores.shared:
        yield skipped(PART, "this machine has one core only", engine.world.allocations)
        return
    done: dict[int, list[Round]] = {number: [] for number in COUNTS}
    for _ in range(rounds):
        for number in COUNTS:
            await engine.start({"CORDBOARD_WORKERS": str(number)})
            done[number].append(await _round(engine, cores, number, seconds))
            await engine.stop()
    for number in COUNTS:
        yield measured_figure(
            PART,
            f"passthru, {number} worker{'s' if number > 1 else ''}, {CONNECTIONS} connections",
            [one.measured for one in done[number]],
            allocations=engine.world.allocations,
            note=f"{sum(one.cores_left for one in done[number]) / rounds:.2f} cores left for them",
        )
    raw = [
        two.measured.load.per_second / one.measured.load.per_second
        for one, two in zip(done[1], done[2], strict=True)
    ]
    yield ratio_figure(PART, "2 workers against 1, as it is", raw, allocations=engine.world.allocations)
    fair = [
        ratio * (one.cores_left / 1) / (two.cores_left / 2)
        for ratio, one, two in zip(raw, done[1], done[2], strict=True)
    ]
    yield ratio_figure(
        PART, "2 workers against 1, generator's share taken out", fair, allocations=engine.world.allocations
    )


async def _round(engine: Engine, cores: Cores, number: int, seconds: float) -> Round:
    requests = applet_requests(engine, "passthru")
    workers = await _workers(engine, number, requests())
    for pid in engine.own_pids:
        cores.pin(pid, cores.other)
    for place, pid in enumerate(workers):
        cores.pin(pid, (cores.server, cores.other)[place])
    others = [os.getpid(), *(pid for pid in (engine.pid, *descendants(engine.pid)) if pid not in workers)]
    before_s, others_before_s = cpu_s(*workers), cpu_s(*others)
    load = await drive(engine.address, CONNECTIONS, requests(), seconds, warm_up_s=WARM_UP_S)
    used_us = (cpu_s(*workers) - before_s) / load.requests * 1e6
    taken = (cpu_s(*others) - others_before_s) / (seconds + WARM_UP_S)
    await engine.settle()
    # One worker has a core to itself, whatever the others do on theirs.
    return Round(Measured(load, used_us), number - (taken if number > 1 else 0.0))


async def _workers(engine: Engine, number: int, requests: Iterator[bytes]) -> list[int]:
    """Which of its processes answer calls: those that such a load keeps busy."""
    pids = engine.own_pids
    before_s = {pid: cpu_s(pid) for pid in pids}
    await engine.measure(CONNECTIONS, requests, FINDING_S)
    return sorted(pids, key=lambda pid: before_s[pid] - cpu_s(pid))[:number]
