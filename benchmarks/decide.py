"""Full decisions on a board of 100,000 allocations: reader opened, decided, reader closed."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.report import Figure, quantile
from cordboard.routing.changes import AllocationStands, VirtualNumberStands
from cordboard.routing.decide import decide as decide_call
from cordboard.routing.model import (
    NEW_CALL,
    NOT_EXCEEDED,
    Allocation,
    AllocationId,
    AskPin,
    Call,
    CallRules,
    Connect,
    Decision,
    Entry,
    NoEntry,
    Party,
    PinEntry,
    Product,
    Reason,
    Refuse,
    RightPin,
    Usage,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.settings import SHARED_MEMORY
from cordboard.tables.board import BoardTables

PART: Final = "decide"
LISTED_AIM_US: Final = 6.0
ALLOCATIONS: Final = 100_000
VIRTUAL_NUMBERS: Final = 100
LOADED_AT_ONCE: Final = 5_000
CELL, TENANT_NO = 7, 1

_A, _B, _STRANGER, _VN = (91_00000_00000 + first * 1_0000_0000 for first in (98, 97, 96, 80))
_NOW_US: Final = 1_767_587_400_000_000
_HOUR_US: Final = 3_600_000_000
_RULES: Final = CallRules()


def decide(samples: int) -> Iterator[Figure]:
    """Each case `samples` times, on allocations in random order."""
    directory = Path(
        tempfile.mkdtemp(prefix="cordboard-bench-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    )
    try:
        tables = BoardTables(directory)
        try:
            _fill(tables)
            yield from _measure(tables, samples)
        finally:
            tables.close()
    finally:
        shutil.rmtree(directory)


def _measure(tables: BoardTables, samples: int) -> Iterator[Figure]:
    dice = random.Random(2026)
    picked = [dice.randrange(ALLOCATIONS) for _ in range(samples)]
    timer_ns = _timer_ns(samples)
    yield Figure(PART, "the timer itself", p50_us=timer_ns / 1e3, note="included in all that follow")
    size = f"{tables.size_bytes() / ALLOCATIONS:,.0f} B an allocation"
    notes = {"listed caller": f"aim: median under {LISTED_AIM_US:g} µs; {size}"}
    for case, (call_of, is_right) in _CASES.items():
        spent_ns: list[int] = []
        for index in picked:
            call = call_of(index)
            started_ns = time.perf_counter_ns()
            with tables.reader(CELL, TENANT_NO) as board:
                decision = decide_call(call, board, _NOW_US)
            spent_ns.append(time.perf_counter_ns() - started_ns)
            assert is_right(decision), f"{case}: {decision}"
        spent_ns.sort()
        yield Figure(
            PART,
            case,
            p50_us=quantile(spent_ns, 0.5) / 1e3,
            p99_us=quantile(spent_ns, 0.99) / 1e3,
            p999_us=quantile(spent_ns, 0.999) / 1e3,
            note=notes.get(case, ""),
        )


def _timer_ns(samples: int) -> float:
    spent_ns: list[int] = []
    for _ in range(samples):
        started_ns = time.perf_counter_ns()
        spent_ns.append(time.perf_counter_ns() - started_ns)
    return median(spent_ns)


# ── the board: two numbers a side, a PIN a side, a VN a side ─────────────────


def _fill(tables: BoardTables) -> None:
    tables.load(CELL, (VirtualNumberStands(TENANT_NO, _vn(index)) for index in range(VIRTUAL_NUMBERS)))
    for start in range(0, ALLOCATIONS, LOADED_AT_ONCE):
        tables.load(
            CELL,
            (AllocationStands(TENANT_NO, 1, _allocation(i)) for i in range(start, start + LOADED_AT_ONCE)),
        )


def _allocation(index: int) -> Allocation:
    return Allocation(
        id=AllocationId(random.Random(index).randbytes(16)),
        product=Product.GREENPIN,
        usage=Usage.TWOWAY,
        expires_at_us=_NOW_US + (1 + index % 100) * _HOUR_US,
        a=Party(
            (_number(_A, index, 0), _number(_A, index, 1)),
            (_vn(index),),
            (Pin(f"{index // 50:04d}"),),
            listed_need_pin=False,
        ),
        b=Party(
            (_number(_B, index, 0), _number(_B, index, 1)),
            (_vn(index + 1),),
            (_b_pin(index),),
            listed_need_pin=True,
        ),
        common_pin=False,
        has_members=False,
    )


def _number(first: int, index: int, which: int) -> E164:
    return E164(first + 2 * index + which)


def _vn(index: int) -> E164:
    return E164(_VN + index % VIRTUAL_NUMBERS)


def _b_pin(index: int) -> Pin:
    return Pin(f"{index // 50 + 5_000:04d}")


# ── the calls ────────────────────────────────────────────────────────────────


def _call(virtual_number: E164, caller: E164, entry: Entry) -> Call:
    return Call(virtual_number, caller, entry, NEW_CALL, NOT_EXCEEDED, _RULES)


def _listed(index: int) -> Call:
    return _call(_vn(index), _number(_A, index, index % 2), NoEntry())


def _stranger(index: int) -> Call:
    return _call(_vn(index + 1), E164(_STRANGER + index), NoEntry())


def _keyed(index: int, pin: Pin) -> Call:
    return _call(_vn(index + 1), E164(_STRANGER + index), PinEntry(pin, digest_of(pin.digits)))


def _is_refused_as_unknown(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and decision.reason is Reason.UNKNOWN_VN


_CASES: Final[dict[str, tuple[Callable[[int], Call], Callable[[Decision], bool]]]] = {
    "listed caller": (_listed, lambda decision: isinstance(decision, Connect)),
    "stranger is asked": (_stranger, lambda decision: isinstance(decision, AskPin)),
    "PIN right": (
        lambda index: _keyed(index, _b_pin(index)),
        lambda decision: isinstance(decision.outcome, RightPin),
    ),
    "PIN wrong": (
        lambda index: _keyed(index, Pin("77777")),
        lambda decision: isinstance(decision.outcome, WrongPin),
    ),
    "unknown VN": (
        lambda index: _call(E164(_vn(index) + VIRTUAL_NUMBERS), _number(_A, index, 0), NoEntry()),
        _is_refused_as_unknown,
    ),
}
