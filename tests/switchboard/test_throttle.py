"""The sliding windows over wrong PINs: who is stopped, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cordboard.clock import SECOND_US
from cordboard.node import running_switchboard
from cordboard.routing.model import AskPin, Connect, Decision, Exceeded, Matched, Reason, Refuse
from cordboard.routing.numbers import E164
from cordboard.routing.progress import Hop
from cordboard.routing.tenant import Rate, TenantSettings
from cordboard.settings import Settings
from cordboard.storage import outcomes
from cordboard.storage.database import Database
from cordboard.storage.outcomes import Failure
from cordboard.switchboard.answering import Caller, Keyed
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.throttle import WINDOW_S_MAX, Throttle
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


def fail(
    throttle: Throttle, count: int, caller: E164 | None = ANN, vn: E164 = VN, seconds: float = 0
) -> None:
    for _ in range(count):
        throttle.count_failure("acme", vn, caller, at(seconds))


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
    fail(throttle, 3)
    throttle.take_back("acme", VN, ANN, at(0))
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
    throttle.restore(
        [Failure("acme", VN, ANN, at(second)) for second in (0, 1, 2)]
        + [Failure("acme", VN, None, at(second)) for second in (2, 3)]
    )
    assert exceeded(throttle, ANN, seconds=3) == BOTH
    assert exceeded(throttle, None, seconds=3) == SHARED_ONLY
    assert exceeded(throttle, ANN, seconds=60) == SHARED_ONLY


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
