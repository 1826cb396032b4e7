"""The sliding windows over wrong PINs: who is stopped, and when."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from cordboard.clock import SECOND_US
from cordboard.node import running_switchboard
from cordboard.routing.changes import Change, FeedRow, PinFailed, TenantGone, ThrottleCleared, encode
from cordboard.routing.model import (
    AskPin,
    Connect,
    Decision,
    Exceeded,
    Matched,
    Reason,
    Refuse,
    ThrottleScope,
)
from cordboard.routing.numbers import E164
from cordboard.routing.progress import Hop
from cordboard.routing.tenant import Rate, TenantSettings
from cordboard.settings import Settings
from cordboard.storage import outcomes
from cordboard.storage.database import Database
from cordboard.storage.throttles import OnRecord
from cordboard.switchboard.answering import Caller, Keyed
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.throttle import WINDOW_S_MAX, Throttle, Window, WindowState
from tests.storage.office import ANN, BEN, CAT, NOW_US, Office, opened_office

VN, OTHER_VN = E164(918000000010), E164(918000000011)
SETTINGS = TenantSettings(
    pin_failures_per_caller=Rate(3, 60),
    pin_failures_per_vn=Rate(5, 120),
    pin_failures_per_tenant=Rate(8, 180),
)
CALLER_ONLY, SHARED_ONLY, BOTH, NEITHER = (
    Exceeded(True, False),
    Exceeded(False, True),
    Exceeded(True, True),
    Exceeded(),
)


def at(seconds: float) -> int:
    return NOW_US + int(seconds * SECOND_US)


_entries = itertools.count(1)


def failure(caller: E164 | None = ANN, vn: E164 = VN, seconds: float = 0) -> PinFailed:
    """A wrong PIN that nobody has counted before."""
    return PinFailed("acme", vn, caller, next(_entries).to_bytes(16), at(seconds))


def fail(
    throttle: Throttle, count: int, caller: E164 | None = ANN, vn: E164 = VN, seconds: float = 0
) -> None:
    for _ in range(count):
        throttle.count(failure(caller, vn, seconds))


def exceeded(throttle: Throttle, caller: E164 | None = ANN, vn: E164 = VN, seconds: float = 0) -> Exceeded:
    return throttle.exceeded("acme", SETTINGS, vn, caller, at(seconds))


# ── windows ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "expected"), [(2, NEITHER), (3, CALLER_ONLY), (4, CALLER_ONLY)])
def test_a_caller_is_stopped_at_its_limit(count: int, expected: Exceeded) -> None:
    throttle = Throttle()
    fail(throttle, count)
    assert exceeded(throttle) == expected
    # Wherever they dial; and nobody else is.
    assert exceeded(throttle, vn=OTHER_VN) == expected
    assert exceeded(throttle, BEN) == NEITHER


@pytest.mark.parametrize(("count", "expected"), [(4, NEITHER), (5, SHARED_ONLY), (6, SHARED_ONLY)])
def test_a_vn_is_closed_to_strangers_at_its_limit(count: int, expected: Exceeded) -> None:
    throttle = Throttle()
    for n in range(count):
        fail(throttle, 1, E164(919800000100 + n))
    assert exceeded(throttle) == expected
    assert exceeded(throttle, vn=OTHER_VN) == NEITHER


@pytest.mark.parametrize(("count", "expected"), [(7, NEITHER), (8, SHARED_ONLY), (9, SHARED_ONLY)])
def test_a_tenant_is_closed_to_strangers_at_its_limit(count: int, expected: Exceeded) -> None:
    throttle = Throttle()
    for n in range(count):
        fail(throttle, 1, E164(919800000100 + n), E164(918000000100 + n))
    assert exceeded(throttle) == expected
    assert throttle.exceeded("globex", SETTINGS, VN, ANN, at(0)) == NEITHER


def test_a_failure_leaves_its_window_after_exactly_its_time() -> None:
    throttle = Throttle()
    fail(throttle, 1, seconds=0)
    fail(throttle, 2, seconds=30)
    assert exceeded(throttle, seconds=60 - 1e-6) == CALLER_ONLY
    assert exceeded(throttle, seconds=60) == NEITHER
    fail(throttle, 1, seconds=60)
    assert exceeded(throttle, seconds=90 - 1e-6) == CALLER_ONLY
    assert exceeded(throttle, seconds=90) == NEITHER


def test_withheld_callers_share_one_window_for_each_vn() -> None:
    throttle = Throttle()
    fail(throttle, 3, None)
    assert exceeded(throttle, None) == CALLER_ONLY
    assert exceeded(throttle, None, OTHER_VN) == NEITHER
    assert exceeded(throttle, ANN) == NEITHER


def test_what_proved_right_is_taken_back() -> None:
    throttle = Throttle()
    fail(throttle, 2)
    right = failure()
    throttle.count(right)
    assert exceeded(throttle) == CALLER_ONLY
    throttle.take_back(right)
    throttle.take_back(right)
    assert exceeded(throttle) == NEITHER
    fail(throttle, 1)
    assert exceeded(throttle) == CALLER_ONLY


def test_what_no_window_reaches_is_forgotten_and_nothing_else() -> None:
    throttle = Throttle()
    fail(throttle, 3, seconds=0)
    fail(throttle, 3, BEN, seconds=1)
    throttle.forget_old(at(WINDOW_S_MAX))
    assert throttle.exceeded("acme", SETTINGS, VN, BEN, at(2)) == CALLER_ONLY
    assert throttle.exceeded("acme", SETTINGS, VN, ANN, at(2)) == NEITHER
    throttle.forget_old(at(WINDOW_S_MAX + 1))
    assert throttle.exceeded("acme", SETTINGS, VN, BEN, at(2)) == NEITHER


def test_what_is_on_record_counts_after_a_restart() -> None:
    throttle = Throttle()
    throttle.take_up(
        OnRecord(
            heads={},
            failures=[
                *(failure(ANN, seconds=second) for second in (0, 1, 2)),
                *(failure(None, seconds=second) for second in (2, 3)),
            ],
            cleared=[],
        )
    )
    assert exceeded(throttle, ANN, seconds=3) == BOTH
    assert exceeded(throttle, None, seconds=3) == SHARED_ONLY
    assert exceeded(throttle, ANN, seconds=60) == SHARED_ONLY


def row(change: Change, n: int) -> FeedRow:
    return FeedRow(7, n, 1, *encode(change))


def rows(*changes: Change) -> list[FeedRow]:
    return [row(change, n) for n, change in enumerate(changes, 1)]


def test_what_another_node_counts_counts_here_once() -> None:
    throttle = Throttle()
    ours, theirs = failure(), failure()
    throttle.count(ours)
    # One's own come back by the feed; and it may be read from an earlier place again.
    throttle.follow(rows(ours, theirs))
    throttle.follow(rows(ours, theirs))
    assert exceeded(throttle) == NEITHER
    throttle.follow([row(failure(), 3)])
    assert exceeded(throttle) == CALLER_ONLY


def test_what_the_records_had_is_not_taken_from_the_feed_again() -> None:
    throttle = Throttle()
    known, new = failure(), [failure(), failure()]
    throttle.take_up(OnRecord(heads={7: 5}, failures=[known], cleared=[]))
    # A row at or before the head is among the records, or was lifted, or is older than any window.
    throttle.follow([row(failure(), n) for n in range(1, 6)])
    throttle.follow([row(new[0], 6)])
    assert exceeded(throttle) == NEITHER
    throttle.follow([row(new[1], 7)])
    assert exceeded(throttle) == CALLER_ONLY


def test_failures_of_nodes_with_other_clocks_are_put_in_their_order() -> None:
    throttle = Throttle()
    for second in (50, 10, 30):
        fail(throttle, 1, seconds=second)
    assert exceeded(throttle, seconds=70 - 1e-6) == CALLER_ONLY
    assert exceeded(throttle, seconds=70) == NEITHER


@pytest.mark.parametrize(
    ("scope", "number", "expected"),
    [
        (None, None, (NEITHER, NEITHER, NEITHER)),
        # Of ANN, of a withheld caller, both on VN; of BEN on the other VN, where only the tenant is full.
        (ThrottleScope.CALLER, ANN, (SHARED_ONLY, BOTH, SHARED_ONLY)),
        (ThrottleScope.CALLER, BEN, (BOTH, BOTH, SHARED_ONLY)),
        (ThrottleScope.VN, VN, (BOTH, SHARED_ONLY, SHARED_ONLY)),
        (ThrottleScope.TENANT, None, (BOTH, BOTH, NEITHER)),
    ],
)
def test_lifting_lifts_what_it_names_and_nothing_else(
    scope: ThrottleScope | None, number: E164 | None, expected: tuple[Exceeded, ...]
) -> None:
    throttle = Throttle()
    failures = [failure(caller, seconds=second) for caller in (ANN, None) for second in range(4)]
    cleared = ThrottleCleared("acme", scope, number, at(5))

    def asked(throttle: Throttle) -> tuple[Exceeded, ...]:
        return tuple(
            exceeded(throttle, caller, vn, seconds=6)
            for caller, vn in ((ANN, VN), (None, VN), (BEN, OTHER_VN))
        )

    throttle.follow(rows(*failures))
    assert asked(throttle) == (BOTH, BOTH, SHARED_ONLY)
    throttle.follow([row(cleared, 9)])
    assert asked(throttle) == expected
    # What was counted before stays lifted if it is told later, and after a restart.
    late = Throttle()
    late.follow(rows(cleared, *failures))
    restarted = Throttle()
    restarted.take_up(OnRecord(heads={}, failures=failures, cleared=[cleared]))
    assert asked(late) == asked(restarted) == expected
    # What comes after counts.
    fail(throttle, 8, ANN, VN, seconds=5.5)
    assert asked(throttle)[0] == BOTH


def test_windows_say_how_full_they_are_and_until_when() -> None:
    throttle = Throttle()
    fail(throttle, 3, seconds=0)
    fail(throttle, 1, None, seconds=30)
    states = {state.window: state for state in throttle.states("acme", SETTINGS, at(40))}
    vn = Window(ThrottleScope.VN, virtual_number=VN)
    assert states == {
        (ann := Window(ThrottleScope.CALLER, caller=ANN)): WindowState(ann, 3, Rate(3, 60), at(60)),
        (withheld := Window(ThrottleScope.CALLER, virtual_number=VN)): WindowState(
            withheld, 1, Rate(3, 60), None
        ),
        vn: WindowState(vn, 4, Rate(5, 120), None),
        (tenant := Window(ThrottleScope.TENANT)): WindowState(tenant, 4, Rate(8, 180), None),
    }
    assert throttle.full(lambda _: SETTINGS, at(40)) == {ThrottleScope.CALLER: 1}
    assert throttle.full(lambda _: None, at(40)) == {}
    assert throttle.full(lambda _: SETTINGS, at(60)) == {}
    # Of the VN's and the tenant's the older ones are inside still; of ANN's own none is.
    later = sorted(state.failures for state in throttle.states("acme", SETTINGS, at(61)))
    assert later == [1, 4, 4]


def test_a_tenant_that_is_gone_leaves_nothing() -> None:
    throttle = Throttle()
    fail(throttle, 8)
    throttle.follow([row(TenantGone("acme"), 1)])
    assert list(throttle.states("acme", SETTINGS, at(0))) == []


# ── in the switchboard ───────────────────────────────────────────────────────


class StandingClock:
    def now_us(self) -> int:
        return NOW_US


LIMITS = {
    "max_pin_attempts": 9,
    "pin_failures_per_caller": "3/15m",
    "pin_failures_per_vn": "5/1h",
    "pin_failures_per_tenant": "100/1h",
}


async def prepared(database: Database) -> Office:
    """ANN and BEN on one VN, told apart from strangers by their PINs."""
    office = await opened_office(database, LIMITS)
    await office.made([ANN], [BEN], a_pin="1111", b_pin="2222")
    return office


async def enter(
    switchboard: Switchboard,
    office: Office,
    caller: E164 | None,
    digits: str,
    sid: str,
    vn: E164 | None = None,
) -> Decision:
    tenant = switchboard.tenants.get(office.tenant.id)
    assert tenant is not None
    asked, keyed = Caller(sid, vn or office.vn, caller), Keyed(Hop.DECISION, digits)
    return await switchboard.answering.answer(tenant, asked, keyed, is_recorded=True)


def is_throttled(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and decision.reason is Reason.THROTTLED


async def test_a_failure_counts_before_the_pin_is_looked_at(database: Database, tmp_path: Path) -> None:
    """Ten calls at one moment do not get ten tries; and the right PIN behind them comes too late."""
    office = await prepared(database)
    async with running_switchboard(
        Settings(data_dir=tmp_path, board_dir=tmp_path / "node"), database, None, StandingClock()
    ) as switchboard:
        decisions = await asyncio.gather(
            *(enter(switchboard, office, CAT, str(3000 + n), f"sid-{n}") for n in range(10))
        )
        assert sum(isinstance(decision, AskPin) for decision in decisions) == 3
        assert sum(map(is_throttled, decisions)) == 7
        assert is_throttled(await enter(switchboard, office, CAT, "1111", "sid-right"))
        await switchboard.recording.telling.flush()
        assert len(await office.events("verification_failed")) == 3
        # Right PINs do not count: ANN enters hers as often as she likes.
        for n in range(5):
            decision = await enter(switchboard, office, ANN, "1111", f"ann-{n}")
            assert isinstance(decision, Connect)


async def test_a_closed_vn_is_open_to_those_with_a_route_and_their_own_pin(
    database: Database, tmp_path: Path
) -> None:
    office = await prepared(database)
    settings = Settings(data_dir=tmp_path, board_dir=tmp_path / "node")
    async with running_switchboard(settings, database, None, StandingClock()) as switchboard:
        for n in range(5):
            await enter(switchboard, office, E164(919800000100 + n), "9999", f"guess-{n}")
        assert is_throttled(await enter(switchboard, office, CAT, "1111", "cat"))
        decision = await enter(switchboard, office, ANN, "1111", "ann")
        assert isinstance(decision, Connect)
        assert decision.matched is Matched.PIN

    # A restart forgets nothing.
    async with running_switchboard(settings, database, None, StandingClock()) as switchboard:
        assert is_throttled(await enter(switchboard, office, CAT, "1111", "cat again"))
        assert isinstance(await enter(switchboard, office, ANN, "1111", "ann again"), Connect)
    failures = await database.read(lambda connection: outcomes.recent_failures(connection, NOW_US - 1))
    assert len(failures) == 5


async def test_withheld_callers_stop_each_other_on_one_vn_only(database: Database, tmp_path: Path) -> None:
    office = await prepared(database)
    await office.made([CAT], a_pin="3333", b_pin="4444", a_vns=[office.other_vn], b_vns=[office.other_vn])
    settings = Settings(data_dir=tmp_path, board_dir=tmp_path / "node")
    async with running_switchboard(settings, database, None, StandingClock()) as switchboard:
        for n in range(3):
            await enter(switchboard, office, None, "9999", f"guess-{n}")
        assert is_throttled(await enter(switchboard, office, None, "1111", "again"))
        decision = await enter(switchboard, office, None, "4444", "elsewhere", office.other_vn)
        assert isinstance(decision, Connect)
        assert isinstance(await enter(switchboard, office, CAT, "1111", "cat"), Connect)
