"""Full decisions on the board that an engine has left: reader opened, decided, reader closed.

The process that decides has the server's core; the engine and its database are stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.figures import Figure
from benchmarks.latency import latency_of
from benchmarks.world import A_MEMBER_IN, LISTED_A, MEMBERS, STRANGERS, TENANT, World
from cordboard.clock import SystemClock
from cordboard.routing.decide import decide as decide_call
from cordboard.routing.model import (
    NEW_CALL,
    NOT_EXCEEDED,
    AskPin,
    Call,
    CallRules,
    Connect,
    Decision,
    Entry,
    NoEntry,
    PinEntry,
    Reason,
    Refuse,
    RightPin,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.switchboard.tenants import TenantDirectory
from cordboard.tables.board import BoardTables

PART: Final = "decide"
# Caches of the processor and the tree's upper pages, as a board in service has them.
WARM_UP_CALLS: Final = 2_000
_RULES: Final = CallRules()


def decide(tables: BoardTables, world: World, samples: int) -> Iterator[Figure]:
    """Each case `samples` times, on allocations in random order."""
    tenant = TenantDirectory(lambda: tables).get(TENANT)
    assert tenant is not None, "an engine has loaded this board"
    now_us = SystemClock().now_us()
    picked = world.picked(samples)
    yield _timer(samples, world.allocations)
    for case, (call_of, is_right) in _CASES.items():
        spent_ns: list[int] = []
        for index in [*picked[:WARM_UP_CALLS], *picked]:
            call = call_of(world, index)
            started_ns = time.perf_counter_ns()
            with tables.reader(tenant.cell, tenant.tenant_no) as board:
                decision = decide_call(call, board, now_us)
            spent_ns.append(time.perf_counter_ns() - started_ns)
            assert is_right(decision), f"{case}: {type(decision).__name__}"
        latency = latency_of(spent_ns[-samples:])
        yield Figure(PART, case, allocations=world.allocations, latency=latency)


def _timer(samples: int, allocations: int) -> Figure:
    spent_ns: list[int] = []
    for _ in range(samples):
        started_ns = time.perf_counter_ns()
        spent_ns.append(time.perf_counter_ns() - started_ns)
    return Figure(
        PART,
        "the timer itself",
        allocations=allocations,
        latency=latency_of(spent_ns),
        note="included in all that follow",
    )


# ── the calls ────────────────────────────────────────────────────────────────


def _e164(ten_digits: int) -> E164:
    return E164(91_00000_00000 + ten_digits)


def _call(virtual_number: int, caller: int, entry: Entry) -> Call:
    return Call(_e164(virtual_number), _e164(caller), entry, NEW_CALL, NOT_EXCEEDED, _RULES)


def _listed(world: World, index: int) -> Call:
    return _call(world.virtual_number(index), LISTED_A + 2 * index + index % 2, NoEntry())


def _member(world: World, index: int) -> Call:
    joined = index - index % A_MEMBER_IN
    return _call(world.virtual_number(joined), MEMBERS + joined, NoEntry())


def _stranger(world: World, index: int) -> Call:
    return _call(world.virtual_number(index + 1), STRANGERS + index, NoEntry())


def _keyed(world: World, index: int, digits: str) -> Call:
    pin = Pin(digits)
    return _call(world.virtual_number(index + 1), STRANGERS + index, PinEntry(pin, digest_of(pin.digits)))


def _unknown(world: World, index: int) -> Call:
    return _call(world.unknown_virtual_number(index), LISTED_A + index, NoEntry())


def _is_refused_as_unknown(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and decision.reason is Reason.UNKNOWN_VN


_CASES: Final[dict[str, tuple[Callable[[World, int], Call], Callable[[Decision], bool]]]] = {
    "listed": (_listed, lambda decision: isinstance(decision, Connect)),
    "member": (_member, lambda decision: isinstance(decision, Connect)),
    "PIN right": (
        lambda world, index: _keyed(world, index, world.b_pin(index)),
        lambda decision: isinstance(decision.outcome, RightPin),
    ),
    "PIN wrong": (
        lambda world, index: _keyed(world, index, "999999"),
        lambda decision: isinstance(decision.outcome, WrongPin),
    ),
    "stranger": (_stranger, lambda decision: isinstance(decision, AskPin)),
    "unknown VN": (_unknown, _is_refused_as_unknown),
}
