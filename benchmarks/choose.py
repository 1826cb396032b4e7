"""Choosing a VN among 1,000 on a board of 1,000,000 GreenVN allocations: reader opened, chosen, closed."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.latency import latency_of
from cordboard.routing.changes import AllocationStands, VirtualNumberStands
from cordboard.routing.choose import Wanted, choose
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.regions import REGIONS
from cordboard.settings import SHARED_MEMORY
from cordboard.switchboard.allocating import NOTHING_KNOWN, BoardPool
from cordboard.switchboard.picks import Picks
from cordboard.tables.board import BoardTables

PART: Final = "choose"
AIM_US: Final = 1_000.0
VIRTUAL_NUMBERS: Final = 1_000
# A board of a million of them takes some 700 MB.
BYTES_AN_ALLOCATION: Final = 1_000
LOADED_AT_ONCE: Final = 5_000
CELL, TENANT_NO = 7, 1
TENANT_ID: Final = "bench"
# An agent who is in this many allocations already, each on a VN of its own.
AGENT_ROUTES: Final = 900

_A, _B, _STRANGER, _VN = (91_00000_00000 + first * 1_0000_0000 for first in (98, 97, 96, 80))
_AGENT: Final = E164(91_95000_00001)
_TYPES: Final = ("mobile", "landline")
_NOW_US: Final = 1_767_587_400_000_000
_HOUR_US: Final = 3_600_000_000


def choices(allocations: int, samples: int) -> Iterator[Figure]:
    """Each case `samples` times, every time for other people."""
    memory = SHARED_MEMORY
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > allocations * BYTES_AN_ALLOCATION
    directory = Path(tempfile.mkdtemp(prefix="cordboard-bench-", dir=memory if has_room else None))
    try:
        tables = BoardTables(directory)
        try:
            _fill(tables, allocations)
            yield from _measure(tables, allocations, samples)
        finally:
            tables.close()
    finally:
        shutil.rmtree(directory)


def _measure(tables: BoardTables, allocations: int, samples: int) -> Iterator[Figure]:
    picks = Picks()
    dice = random.Random(2026)
    note = f"on {VIRTUAL_NUMBERS:,} VNs; aim: under {AIM_US / 1e3:g} ms"
    for case, wanted_of in _CASES.items():
        spent_ns: list[int] = []
        for index in range(samples):
            wanted = wanted_of(index, dice)
            started_ns = time.perf_counter_ns()
            with tables.reader(CELL, TENANT_NO) as board:
                chosen = choose(wanted, BoardPool(board, NOTHING_KNOWN, picks, TENANT_ID, _NOW_US))
            spent_ns.append(time.perf_counter_ns() - started_ns)
            assert chosen is not None, case
        yield Figure(PART, case, allocations=allocations, latency=latency_of(spent_ns), note=note)
        note = ""


# ── the board: a number and a PIN a side, a thousand allocations a VN ─────────


def _fill(tables: BoardTables, allocations: int) -> None:
    tables.load(
        CELL,
        (
            VirtualNumberStands(
                TENANT_NO, _vn(place), REGIONS[place % len(REGIONS)], _TYPES[place % len(_TYPES)]
            )
            for place in range(VIRTUAL_NUMBERS)
        ),
    )
    for start in range(0, allocations, LOADED_AT_ONCE):
        tables.load(
            CELL,
            (AllocationStands(TENANT_NO, 1, _allocation(i)) for i in range(start, start + LOADED_AT_ONCE)),
        )


def _allocation(index: int) -> Allocation:
    # The agent's are the first on the VNs, so that the least loaded ones are hers as often as not.
    a = _AGENT if index < AGENT_ROUTES else E164(_A + index)
    virtual_number = _vn(index)
    return Allocation(
        id=AllocationId(random.Random(index).randbytes(16)),
        product=Product.GREENVN,
        usage=Usage.TWOWAY,
        expires_at_us=_NOW_US + (1 + index % 100) * _HOUR_US,
        a=Party((a,), (virtual_number,), (_pin(index, 0),), listed_need_pin=False),
        b=Party((E164(_B + index),), (virtual_number,), (_pin(index, 1),), listed_need_pin=False),
        common_pin=False,
        has_members=False,
    )


def _vn(index: int) -> E164:
    return E164(_VN + index % VIRTUAL_NUMBERS)


def _pin(index: int, side: int) -> Pin:
    """Four digits, other ones for each allocation on a VN: each PIN is taken on some hundred VNs."""
    place = 2 * (index // VIRTUAL_NUMBERS) + side + 13 * (index % VIRTUAL_NUMBERS)
    return Pin(f"{1_000 + place % 9_000}")


# ── the requests ─────────────────────────────────────────────────────────────


def _people(index: int) -> tuple[E164, E164]:
    return E164(_STRANGER + 2 * index), E164(_STRANGER + 2 * index + 1)


def _pins(dice: random.Random) -> tuple[Pin, Pin]:
    return Pin(f"{dice.randrange(1_000, 10_000)}"), Pin(f"{dice.randrange(1_000, 10_000)}")


_CASES: Final[dict[str, Callable[[int, random.Random], Wanted]]] = {
    "no preference": lambda index, _: Wanted(_people(index), ()),
    "no preference, two PINs": lambda index, dice: Wanted(_people(index), _pins(dice)),
    "region and type": lambda index, _: Wanted(
        _people(index), (), region=REGIONS[index % len(REGIONS)], type="mobile"
    ),
    "an agent on 900 VNs": lambda index, _: Wanted((_AGENT, _people(index)[0]), ()),
    "an agent on 900 VNs, region and type": lambda index, _: Wanted(
        (_AGENT, _people(index)[0]), (), region=REGIONS[index % len(REGIONS)], type="mobile"
    ),
}
