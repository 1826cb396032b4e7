from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency import EDGES_US, latency_of, quantile

TIMES_NS = st.lists(st.integers(min_value=0, max_value=10**13), min_size=1)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.9, 90), (0.99, 99), (0.999, 100), (1.0, 100), (0.001, 1)]
)
def test_a_quantile_of_a_hundred_values_is_one_of_them(share: float, expected: int) -> None:
    assert quantile(range(1, 101), share) == expected


@given(TIMES_NS, st.sampled_from((0.5, 0.9, 0.99, 0.999, 1.0)))
def test_a_quantile_is_the_least_value_that_its_share_does_not_exceed(
    times_ns: list[int], share: float
) -> None:
    found = quantile(sorted(times_ns), share)
    needed = share * len(times_ns) - 1e-9
    assert sum(time_ns <= found for time_ns in times_ns) >= needed
    assert sum(time_ns < found for time_ns in times_ns) < needed


def test_one_slow_request_in_a_thousand_is_the_maximum_and_not_the_p999() -> None:
    latency = latency_of([1_000_000] * 999 + [9_000_000])
    assert (latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us) == (1_000, 1_000, 1_000, 9_000)


@given(TIMES_NS)
def test_every_request_is_in_the_histogram_once(times_ns: list[int]) -> None:
    latency = latency_of(times_ns)
    assert sum(count for _, count in latency.histogram) == latency.requests == len(times_ns)


def test_a_time_lies_in_the_step_whose_upper_edge_it_does_not_exceed() -> None:
    [(first_us, _), (second_us, _)] = latency_of([100_000, 100_001]).histogram
    assert first_us == pytest.approx(100)
    assert second_us == pytest.approx(100 * 10**0.1)


def test_what_is_beyond_the_last_edge_is_counted_there() -> None:
    assert latency_of([10**16]).histogram == ((EDGES_US[-1], 1),)
