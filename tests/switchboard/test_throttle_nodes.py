"""Wrong PINs on several nodes of one database, and against one who has as many caller ids as he likes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from cordboard.node import running_switchboard
from cordboard.routing.model import AskPin, Connect, Decision, Reason, Refuse, ThrottleScope
from cordboard.routing.numbers import E164
from cordboard.routing.progress import Hop
from cordboard.settings import Settings
from cordboard.storage import allocations, throttles
from cordboard.storage.database import Database
from cordboard.switchboard.answering import Caller, Keyed
from cordboard.switchboard.service import Switchboard
from tests.storage.office import ANN, BEN, CAT, ENDPOINTS, GIVE_UP_S, Office, opened_office

from .clocks import SetClock

LIMITS = {
    "max_pin_attempts": 9,
    "pin_failures_per_caller": "3/15m",
    "pin_failures_per_vn": "5/1h",
    "pin_failures_per_tenant": "100/1h",
}
# An attacker's numbers: one for each call.
MADE_UP = 919_700_000_000


@asynccontextmanager
async def node(database: Database, directory: Path, clock: SetClock) -> AsyncIterator[Switchboard]:
    """One of several engines on a database, with a board of its own."""
    settings = Settings(data_dir=directory, board_dir=directory / "node")
    async with running_switchboard(settings, database, None, clock) as switchboard:
        yield switchboard


async def enter(
    switchboard: Switchboard, office: Office, caller: E164 | None, digits: str, sid: str
) -> Decision:
    tenant = switchboard.tenants.get(office.tenant.id)
    assert tenant is not None
    asked, keyed = Caller(sid, office.vn, caller), Keyed(Hop.DECISION, digits)
    return await switchboard.answering.answer(tenant, asked, keyed, is_recorded=True)


def is_throttled(decision: Decision) -> bool:
    return isinstance(decision, Refuse) and decision.reason is Reason.THROTTLED


def failures_of(switchboard: Switchboard, office: Office, clock: SetClock) -> Counter[ThrottleScope]:
    tenant = switchboard.tenants.get(office.tenant.id)
    assert tenant is not None
    count: Counter[ThrottleScope] = Counter()
    for state in switchboard.throttle.states(office.tenant.id, tenant.settings, clock.now_us()):
        count[state.window.scope] += state.failures
    return count


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not is_so():  # noqa: ASYNC110 - the feed is polled.
            await asyncio.sleep(0.01)


@pytest.fixture
async def office(database: Database) -> Office:
    """ANN and BEN on one VN, told apart from strangers by their PINs."""
    office = await opened_office(database, LIMITS)
    await office.made([ANN], [BEN], a_pin="1111", b_pin="2222")
    return office


async def test_guesses_on_one_node_count_on_the_others_once(office: Office, tmp_path: Path) -> None:
    clock = SetClock()
    async with (
        node(office.database, tmp_path / "one", clock) as one,
        node(office.database, tmp_path / "two", clock) as two,
    ):
        await enter(one, office, CAT, "9991", "a")
        await enter(two, office, CAT, "9992", "b")
        # The platform repeats a hop to the other node: one entry, and one failure.
        await enter(two, office, CAT, "9991", "a")
        for each in (one, two):
            await until(lambda each=each: failures_of(each, office, clock)[ThrottleScope.VN] == 2)  # type: ignore[misc]
        await enter(two, office, CAT, "9993", "c")
        await until(lambda: failures_of(one, office, clock)[ThrottleScope.CALLER] == 3)
        for each in (one, two):
            assert failures_of(each, office, clock) == dict.fromkeys(ThrottleScope, 3)
            assert is_throttled(await enter(each, office, CAT, "1111", "right"))
            refused = each.metrics.registry.get_sample_value("cordboard_throttled_total", {"scope": "caller"})
            assert refused == 1
        # Whoever comes later reads the same from the records.
        async with node(office.database, tmp_path / "three", clock) as three:
            assert failures_of(three, office, clock) == dict.fromkeys(ThrottleScope, 3)
            assert is_throttled(await enter(three, office, CAT, "1111", "right again"))


async def test_a_restart_over_a_kept_board_counts_what_happened_meanwhile(
    office: Office, tmp_path: Path
) -> None:
    clock = SetClock()
    async with node(office.database, tmp_path / "one", clock) as one:
        await enter(one, office, CAT, "9991", "a")
    async with node(office.database, tmp_path / "two", clock) as two:
        await enter(two, office, CAT, "9992", "b")
        async with node(office.database, tmp_path / "one", clock) as one:
            assert failures_of(one, office, clock) == dict.fromkeys(ThrottleScope, 2)
            await enter(two, office, CAT, "9993", "c")
            await until(lambda: failures_of(one, office, clock)[ThrottleScope.VN] == 3)
            assert failures_of(one, office, clock) == dict.fromkeys(ThrottleScope, 3)


async def test_what_an_operator_lifts_is_lifted_everywhere_and_for_good(
    office: Office, tmp_path: Path
) -> None:
    clock = SetClock()
    async with node(office.database, tmp_path / "two", clock) as two:
        async with node(office.database, tmp_path / "one", clock) as one:
            for n in range(3):
                await enter(one, office, CAT, f"999{n}", f"sid-{n}")
            await until(lambda: failures_of(two, office, clock)[ThrottleScope.CALLER] == 3)
            clock.move(1)
            await throttles.lift(office.database, office.tenant.id, ThrottleScope.CALLER, CAT, clock.now_us())
            for each in (one, two):
                await until(lambda each=each: failures_of(each, office, clock)[ThrottleScope.CALLER] == 0)  # type: ignore[misc]
                assert failures_of(each, office, clock)[ThrottleScope.VN] == 3
            assert isinstance(await enter(two, office, CAT, "1111", "now"), Connect)
        async with node(office.database, tmp_path / "one", clock) as one:
            counts = {ThrottleScope.VN: 3, ThrottleScope.TENANT: 3}
            assert failures_of(one, office, clock) == counts
            assert isinstance(await enter(one, office, CAT, "1111", "again"), Connect)
            # The record of it is needed as long as the failures are.
            clock.move(86_401)
            await one.database.write(
                partial(throttles.forget_cleared, older_than_us=clock.now_us() - 86_400_000_000)
            )
        assert await office.fetch("SELECT 1 FROM throttle_cleared WHERE cell = $1") == []


HOURS = 3
LIVE_PINS = 1_000


async def test_an_attacker_with_many_caller_ids_gets_sixty_wrong_guesses_an_hour(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default windows, against one who has a new number for each call and waits for nothing but them."""
    dice = random.Random(7)
    office = await opened_office(database, dict.fromkeys(ENDPOINTS, ""))
    pins = [f"{pin:04d}" for pin in dice.sample(range(10_000), LIVE_PINS)]
    standings = [
        office.standing([E164(919_600_000_000 + n)], [E164(919_500_000_000 + n)], a_pin=a_pin, b_pin=b_pin)
        for n, (a_pin, b_pin) in enumerate(zip(pins[::2], pins[1::2], strict=True))
    ]
    for start in range(0, len(standings), 100):
        made = await office.make(*standings[start : start + 100])
        assert all(isinstance(result, allocations.Made) for result in made)
    clock = SetClock()
    async with node(database, tmp_path, clock) as switchboard:
        told, guesses, hits, calls = [], 0, 0, 0
        for hour in range(1, HOURS + 1):
            decision: Decision = Refuse(Reason.NO_ALLOCATION)
            while not is_throttled(decision):
                calls += 1
                caller, sid = E164(MADE_UP + calls), f"call-{calls}"
                while True:
                    guess = f"{dice.randrange(10_000):04d}"
                    decision = await enter(switchboard, office, caller, guess, sid)
                    if is_throttled(decision):
                        break
                    guesses += 1
                    hits += isinstance(decision, Connect)
                    assert isinstance(decision, Connect) == (guess in pins)
                    if not isinstance(decision, AskPin):
                        break
            # Right up to the end of the window nobody of his gets another guess; then it is full again.
            clock.move(3_599)
            assert is_throttled(await enter(switchboard, office, E164(MADE_UP), "0000", f"early-{hour}"))
            clock.move(1)
            assert guesses - hits == 60 * hour
            told.append(f"hour {hour}: {guesses} guesses in all, {hits} of them right")
        # Behind the windows those whom the PINs are for go in and out.
        first = standings[0].allocation
        [owner] = first.a.numbers
        assert first.a.pin is not None
        assert isinstance(await enter(switchboard, office, owner, first.a.pin.digits, "owner"), Connect)
    share = LIVE_PINS / 10_000
    with capsys.disabled():
        print(f"\n{LIVE_PINS} live PINs of 4 digits on one VN, default windows:")  # noqa: T201
        print("\n".join(told))  # noqa: T201
        for digits in (4, 5, 6, 7, 8):
            share = LIVE_PINS / 10**digits
            hit = 1 - (1 - share) ** 60
            print(f"  {digits} digits: {share:.3%} a guess, {hit:.2%} for one hit or more in an hour")  # noqa: T201
