"""`python -m benchmarks [part …] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.choose import choices
from benchmarks.cores import Cores
from benchmarks.creates import creates
from benchmarks.decide import decide
from benchmarks.engine import running_engine
from benchmarks.expiry import expiry
from benchmarks.passthru import passthru
from benchmarks.report import Figure, machine, print_report, write_json
from benchmarks.verify import verify
from benchmarks.webhooks import webhooks

PARTS: Final = ("decide", "choose", "passthru", "verify", "creates", "webhooks", "expiry")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="shorter runs, of some use while one works")
    parser.add_argument(
        "--wave", type=int, metavar="N", help="allocations that end in one second; 100,000, or 5,000 if quick"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    wave: int = given.wave or (5_000 if given.quick else 100_000)
    cores = Cores()
    facts = {**machine(), "placement": str(cores)}
    figures = uvloop.run(_run(given.parts or PARTS, cores, quick=given.quick, wave=wave))
    print_report(facts, figures)
    if given.json is not None:
        write_json(given.json, facts, figures)


async def _run(parts: tuple[str, ...] | list[str], cores: Cores, *, quick: bool, wave: int) -> list[Figure]:
    # Whoever ends us (`timeout`, CI) must not leave an engine and its database behind.
    ourselves = asyncio.current_task()
    assert ourselves is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ourselves.cancel)
    cores.pin(0, cores.other)
    figures: list[Figure] = []
    if "decide" in parts:
        figures += decide(10_000 if quick else 100_000)
    if "choose" in parts:
        figures += choices(50_000, 2_000) if quick else choices(1_000_000, 10_000)
    if set(parts) - {"decide", "choose"}:
        figures += [figure async for figure in _over_http(parts, cores, quick=quick, wave=wave)]
    return figures


async def _over_http(
    parts: tuple[str, ...] | list[str], cores: Cores, *, quick: bool, wave: int
) -> AsyncIterator[Figure]:
    async with running_engine(cores, 2_000 if quick else 10_000) as engine:
        if "passthru" in parts:
            async for figure in passthru(engine, cores, *((5, 0.3) if quick else (7, 2.0))):
                yield figure
        if "verify" in parts:
            async for figure in verify(engine, 0.7 if quick else 5.0):
                yield figure
        if "creates" in parts:
            async for figure in creates(engine, 0.7 if quick else 5.0):
                yield figure
        if "webhooks" in parts:
            async for figure in webhooks(engine, cores, 2_000 if quick else 10_000):
                yield figure
        if "expiry" in parts:
            async for figure in expiry(engine, wave, 2.0 if quick else 10.0):
                yield figure


if __name__ == "__main__":
    main()
