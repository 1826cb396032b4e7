"""`python -m benchmarks [part …] [--quick] [--sizes N,N] [--minutes N] [--rounds N] [--workers N]
[--output DIR]`.

Writes report.html and report.json (report-quick.… with --quick), and prints the same figures as a table.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

from benchmarks.api import api
from benchmarks.beside import HOPS, Effort, beside
from benchmarks.choose import choices
from benchmarks.cores import Cores
from benchmarks.decide import decide
from benchmarks.endurance import endurance
from benchmarks.engine import Engine, EngineDidNotStart, built, has_workers
from benchmarks.expiry import expiry
from benchmarks.feed import feed
from benchmarks.figures import Figure, skipped
from benchmarks.floor import floor
from benchmarks.generator import Unanswered, UnexpectedReply
from benchmarks.hops import hops
from benchmarks.machine import machine, postgres_settings
from benchmarks.page import write_page
from benchmarks.progress import say
from benchmarks.report import Run, print_report, write_json
from benchmarks.servers import DidNotStart
from benchmarks.starts import starts
from benchmarks.targets import read_limits, results
from benchmarks.verify import verify
from benchmarks.webhooks import webhooks
from benchmarks.workers import workers
from benchmarks.world import NoRoom
from benchmarks.writes import writes
from cordboard.tables.board import BoardTables


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is spent on what."""

    is_quick: bool
    sizes: tuple[int, ...]
    # Where everything that is measured at one size only is measured.
    main_size: int
    seconds: float
    verify_s: float
    rounds: int
    # Each starts the engine twice.
    workers_rounds: int
    beside_hops: tuple[str, ...]
    decisions: int
    restarts: int
    commits: int
    choices_on: int
    choices: int
    events: int
    wave: int
    minutes: float
    # Of the engine, in all scenarios but the one that compares them; None leaves it at its default.
    workers: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.workers is None else {"CORDBOARD_WORKERS": str(self.workers)}


FULL: Final = Plan(
    is_quick=False,
    sizes=(1_000, 100_000, 1_000_000, 10_000_000),
    main_size=100_000,
    seconds=5.0,
    verify_s=20.0,
    rounds=7,
    workers_rounds=5,
    beside_hops=HOPS,
    decisions=100_000,
    restarts=3,
    commits=500,
    choices_on=1_000_000,
    choices=10_000,
    events=10_000,
    wave=100_000,
    minutes=30.0,
)
# Under three minutes, to see that everything works and what has become twice as slow.
QUICK: Final = replace(
    FULL,
    is_quick=True,
    sizes=(1_000, 100_000),
    main_size=1_000,
    seconds=0.5,
    verify_s=1.5,
    rounds=2,
    workers_rounds=1,
    beside_hops=HOPS[:1],
    decisions=10_000,
    restarts=1,
    commits=100,
    choices_on=50_000,
    choices=2_000,
    events=2_000,
    wave=5_000,
    minutes=0.5,
)


class Where(Enum):
    ALONE = "without an engine"
    EVERY_SIZE = "at every size"
    MAIN_SIZE = "at one size"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`measure` takes the running engine, where there is one."""

    name: str
    where: Where
    measure: Callable[[Engine | None, Cores, Plan], AsyncIterator[Figure]]
    # Left out of a quick run that names no parts.
    is_long: bool = False


def _with_engine(
    name: str,
    where: Where,
    measure: Callable[[Engine, Cores, Plan], AsyncIterator[Figure]],
    *,
    is_long: bool = False,
) -> Scenario:
    def measured(engine: Engine | None, cores: Cores, plan: Plan) -> AsyncIterator[Figure]:
        assert engine is not None, name
        return measure(engine, cores, plan)

    return Scenario(name, where, measured, is_long)


async def _choose(_: Engine | None, __: Cores, plan: Plan) -> AsyncIterator[Figure]:
    for figure in choices(plan.choices_on, plan.choices):
        yield figure


async def _decide(engine: Engine, cores: Cores, plan: Plan) -> AsyncIterator[Figure]:
    """The engine stands still meanwhile, and its core is ours."""
    await engine.stop()
    cores.pin(0, cores.server)
    tables = BoardTables(engine.board_files())
    try:
        for figure in decide(tables, engine.world, plan.decisions):
            yield figure
    finally:
        tables.close()
        cores.pin(0, cores.other)
    await engine.start()
    await engine.settle()


# In the order in which they are measured: `starts` begins without a board and leaves a running engine, and
# what adds allocations comes behind what counts them.
SCENARIOS: Final = (
    Scenario("floor", Where.ALONE, lambda _, cores, plan: floor(cores, plan.seconds)),
    Scenario("choose", Where.ALONE, _choose, is_long=True),
    _with_engine("starts", Where.EVERY_SIZE, lambda engine, _, plan: starts(engine, plan.restarts)),
    _with_engine("decide", Where.EVERY_SIZE, _decide),
    _with_engine("hops", Where.EVERY_SIZE, lambda engine, _, plan: hops(engine, plan.seconds)),
    _with_engine(
        "beside",
        Where.MAIN_SIZE,
        lambda engine, cores, plan: beside(
            engine, cores, Effort(plan.beside_hops, plan.rounds, plan.seconds)
        ),
    ),
    _with_engine("verify", Where.MAIN_SIZE, lambda engine, _, plan: verify(engine, plan.verify_s)),
    _with_engine("feed", Where.MAIN_SIZE, lambda engine, _, plan: feed(engine, plan.commits)),
    _with_engine(
        "writes", Where.MAIN_SIZE, lambda engine, _, plan: writes(engine, plan.rounds, 2 * plan.seconds)
    ),
    _with_engine("api", Where.MAIN_SIZE, lambda engine, _, plan: api(engine, plan.seconds)),
    _with_engine(
        "webhooks", Where.MAIN_SIZE, lambda engine, _, plan: webhooks(engine, plan.events), is_long=True
    ),
    _with_engine(
        "expiry",
        Where.MAIN_SIZE,
        lambda engine, _, plan: expiry(engine, plan.wave, 2 * plan.seconds),
        is_long=True,
    ),
    _with_engine(
        "endurance",
        Where.MAIN_SIZE,
        lambda engine, _, plan: endurance(engine, plan.minutes),
        is_long=True,
    ),
    # Leaves the engine stopped.
    _with_engine(
        "workers",
        Where.MAIN_SIZE,
        lambda engine, cores, plan: workers(engine, cores, plan.workers_rounds, plan.seconds),
    ),
)

# What a scenario may end with on a machine that is not up to it; the others go on, and the run ends with 1.
FAILURES: Final = (
    UnexpectedReply,
    Unanswered,
    EngineDidNotStart,
    DidNotStart,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)


class Benchmark:
    """One run: its figures so far, and what the machine said of itself."""

    def __init__(self, plan: Plan, parts: Sequence[str], cores: Cores) -> None:
        self._plan = plan
        self._parts = parts
        self._cores = cores
        self.figures: list[Figure] = []
        self.machine = {**machine(), "placement": str(cores), "engine": _engine_text(plan)}
        self.has_failed = False

    async def run(self) -> None:
        # Whoever ends us (`timeout`, CI) must not leave an engine and its database behind.
        ourselves = asyncio.current_task()
        assert ourselves is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ourselves.cancel)
        self._cores.pin(0, self._cores.other)
        for scenario in self._wanted(Where.ALONE):
            await self._measure(scenario, None)
        if self._wanted(Where.EVERY_SIZE, Where.MAIN_SIZE):
            for size in self._plan.sizes:
                await self._at_size(size)

    def _wanted(self, *where: Where) -> list[Scenario]:
        return [one for one in SCENARIOS if one.where in where and one.name in self._parts]

    async def _at_size(self, size: int) -> None:
        where = [Where.EVERY_SIZE, *([Where.MAIN_SIZE] if size == self._plan.main_size else [])]
        wanted = self._wanted(*where)
        if not wanted:
            return
        try:
            async with built(size, self._cores, self._plan.environment) as engine:
                if wanted[0].name != "starts":
                    await engine.start()
                    await engine.settle()
                for scenario in wanted:
                    await self._measure(scenario, engine)
                    await self._note_postgres(engine)
        except NoRoom as small:
            # Of the machine, and no fault of anybody's.
            say(f"left out: {small}")
            self.figures.append(skipped("world", str(small), size))
        except FAILURES as failure:
            self._failed("world", failure, size)

    async def _note_postgres(self, engine: Engine) -> None:
        if engine.is_running and "postgres" not in self.machine:
            shown = await postgres_settings(engine)
            self.machine["postgres"] = ", ".join(f"{name} {value}" for name, value in shown.items())

    async def _measure(self, scenario: Scenario, engine: Engine | None) -> None:
        size = None if engine is None else engine.world.allocations
        say(scenario.name if size is None else f"{scenario.name} at {size:,}")
        try:
            if engine is not None and not engine.is_running and scenario.name != "starts":
                # A scenario before this one has left it so, or ended it.
                await engine.start()
            async for figure in scenario.measure(engine, self._cores, self._plan):
                self.figures.append(figure)
        except FAILURES as failure:
            self._failed(scenario.name, failure, size)

    def _failed(self, part: str, failure: BaseException, size: int | None) -> None:
        self.has_failed = True
        say(f"{part} FAILED: {type(failure).__name__}: {failure}")
        self.figures.append(skipped(part, f"{type(failure).__name__}: {failure}", size))


def _engine_text(plan: Plan) -> str:
    if not plan.workers:
        return "one process"
    return f"a node process and {plan.workers} web worker{'s' if plan.workers > 1 else ''}"


def main() -> int:
    plan, parts, output = arguments()
    limits = read_limits()
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"  # noqa: TID251 - the date of a report is the real one.
    started_s = time.perf_counter()
    benchmark = Benchmark(plan, parts, Cores())
    try:
        uvloop.run(benchmark.run())
    except asyncio.CancelledError:
        say("ended from outside")
        benchmark.has_failed = True
    finally:
        # What was measured before somebody lost patience is worth as much as it was.
        run = Run(
            plan.is_quick,
            began,
            time.perf_counter() - started_s,
            benchmark.machine,
            benchmark.figures,
            results(benchmark.figures, limits),
        )
        name = "report-quick" if plan.is_quick else "report"
        write_json(output / f"{name}.json", run)
        write_page(output / f"{name}.html", run)
        print_report(run)
        say(f"written: {output / name}.html and .json")
    return int(benchmark.has_failed)


def arguments(given_words: Sequence[str] | None = None) -> tuple[Plan, tuple[str, ...], Path]:
    """The plan, the parts that are wanted, and where the report goes. Ends the program at a bad word."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--quick", action="store_true", help="shorter runs, of some use while one works")
    parser.add_argument("--sizes", metavar="N,N", help="allocations of the worlds, in hundreds")
    parser.add_argument("--main-size", type=int, metavar="N", help="the one at which everything is measured")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of the engine that answer calls")
    parser.add_argument("--minutes", type=float, metavar="N", help="length of `endurance`")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often what is compared takes turns")
    parser.add_argument("--wave", type=int, metavar="N", help="allocations that end in one second")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path(__file__).parent, help="where the report goes"
    )
    given = parser.parse_args(given_words)
    if unknown := set(given.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    plan = QUICK if given.quick else FULL
    if given.sizes is not None:
        try:
            sizes = tuple(int(size.replace("_", "")) for size in given.sizes.split(","))
        except ValueError:
            parser.error(f"--sizes: not numbers: {given.sizes}")
        if any(size <= 0 or size % 100 for size in sizes):
            parser.error("--sizes: every hundredth allocation has a member, so sizes are in hundreds")
        plan = replace(plan, sizes=sizes, main_size=plan.main_size if plan.main_size in sizes else sizes[-1])
    if given.main_size is not None:
        if given.main_size not in plan.sizes:
            parser.error(f"--main-size: {given.main_size} is none of the sizes")
        plan = replace(plan, main_size=given.main_size)
    if given.workers is not None and not has_workers():
        parser.error("--workers: this engine has no setting for their number")
    plan = replace(
        plan,
        minutes=given.minutes or plan.minutes,
        rounds=given.rounds or plan.rounds,
        wave=given.wave or plan.wave,
        workers=given.workers,
    )
    given.output.mkdir(parents=True, exist_ok=True)
    quick = tuple(scenario.name for scenario in SCENARIOS if not (plan.is_quick and scenario.is_long))
    return plan, tuple(given.parts) or quick, given.output


if __name__ == "__main__":
    sys.exit(main())
