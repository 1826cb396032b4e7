"""When an endpoint is left alone, for how long, and what opens the way again."""

from __future__ import annotations

from cordboard.clock import SECOND_US
from cordboard.webhooks.breaker import FAILURES_MAX, PAUSE_MAX_S, Breaker


def middle() -> float:
    return 0.5


def opened(now_us: int = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        assert not breaker.is_open
        breaker.failed(now_us, middle)
    assert breaker.is_open
    return breaker


def test_it_opens_with_the_last_of_many_failures_in_a_row() -> None:
    assert opened(7 * SECOND_US).probe_at_us == 8 * SECOND_US


def test_failures_of_what_was_under_way_prolong_nothing() -> None:
    breaker = opened()
    breaker.failed(0, middle)
    assert breaker.probe_at_us == SECOND_US


def test_each_probe_that_fails_doubles_the_pause_up_to_its_limit() -> None:
    breaker, now_us, pauses = opened(), 0, []
    for _ in range(8):
        now_us = breaker.probe_at_us
        breaker.begin_probe()
        breaker.failed(now_us, middle)
        pauses.append((breaker.probe_at_us - now_us) / SECOND_US)
    assert pauses == [2, 4, 8, 16, 32, PAUSE_MAX_S, PAUSE_MAX_S, PAUSE_MAX_S]


def test_a_pause_has_a_jitter_of_a_fifth() -> None:
    for roll, pause_us in ((0.0, 800_000), (1.0, 1_200_000)):
        breaker = Breaker()
        for _ in range(FAILURES_MAX):
            breaker.failed(0, lambda roll=roll: roll)  # type: ignore[misc]
        assert breaker.probe_at_us == pause_us
