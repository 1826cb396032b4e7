"""Every metric, named once. Labels come from closed sets, never from a caller."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cordboard.routing.model import LastEntry, Matched, Reason, ThrottleScope

# From a tenth of a millisecond, what a decision takes with all its HTTP, to the budget of 1 s.
LATENCY_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
# A decision itself is some microseconds.
DECISION_BUCKETS_S: Final = (
    0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.01, 0.1,
)  # fmt: skip


DecisionWord = Matched | LastEntry | Reason

_DECISION_OF: Final = {Matched: "connect", LastEntry: "ask_pin", Reason: "refuse"}


class LatencyHistogram(Collector):
    """A histogram for the path of every call: `observe` takes a quarter of prometheus_client's time.

    Its own Histogram takes two locks and walks the buckets; here is one bisection, in one thread.
    """

    def __init__(
        self, name: str, documentation: str, buckets: Sequence[float], label: str, values: Sequence[str]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = tuple(buckets)
        self._counts = {value: [0] * (len(buckets) + 1) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe(self, value: str, seconds: float) -> None:
        """Count `seconds` under the label value, which is one of those named at the start."""
        self._counts[value][bisect_left(self._bounds, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for value, counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([value], buckets, self._sums[value])
        yield family


class DecisionCounter(Collector):
    """Decisions by kind and by how they matched or why they were refused; every word is known beforehand."""

    def __init__(self) -> None:
        self._counts: dict[DecisionWord, int] = dict.fromkeys((*Matched, *LastEntry, *Reason), 0)

    def count(self, word: DecisionWord) -> None:
        """One more; a third of what a Counter's lock takes, in the one thread that decides."""
        self._counts[word] += 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "cordboard_decisions",
            "Decisions about calls, by kind and by how they matched or why they were refused.",
            labels=["decision", "reason"],
        )
        for word, count in self._counts.items():
            family.add_metric([_DECISION_OF[type(word)], word.value], count)
        yield family


class Metrics:
    """All metrics of one engine, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = DecisionCounter()
        self.registry.register(self.decisions)
        self.decision_seconds = LatencyHistogram(
            "cordboard_decision_seconds",
            "Time of one decision on the board, in seconds.",
            DECISION_BUCKETS_S,
            "decision",
            ("connect", "ask_pin", "refuse"),
        )
        self.registry.register(self.decision_seconds)
        self.request_seconds = LatencyHistogram(
            "cordboard_request_seconds",
            "Time of one applet request inside the engine, in seconds.",
            LATENCY_BUCKETS_S,
            "applet",
            ("passthru", "gather", "connect", "greeting"),
        )
        self.registry.register(self.request_seconds)
        self.faults = Counter(
            "cordboard_faults_total",
            "Hops that were refused by a fault of ours.",
            ["fault"],
            registry=self.registry,
        )
        self.pin_outcomes = Counter(
            "cordboard_pin_outcomes_total",
            "PIN entries on record.",
            ["outcome"],
            registry=self.registry,
        )
        self.connections = Gauge(
            "cordboard_connections",
            "HTTP connections that are open.",
            registry=self.registry,
        )
        self.throttled = Counter(
            "cordboard_throttled_total",
            "Refusals because too many PINs were wrong, by whose.",
            ["scope"],
            registry=self.registry,
        )
        self.throttles_full = Gauge(
            "cordboard_throttles_full",
            "Windows of wrong PINs that are full now: entries are refused for them.",
            ["scope"],
            registry=self.registry,
        )
        for scope in ThrottleScope:
            # An alert on what has never happened needs a zero to compare with.
            self.throttled.labels(scope.value)
            self.throttles_full.labels(scope.value)
        self.pool_virtual_numbers = Gauge(
            "cordboard_pool_virtual_numbers",
            "Virtual numbers of a tenant, by what the engine may do with them.",
            ["tenant", "state"],
            registry=self.registry,
        )
        self.pool_allocations = Gauge(
            "cordboard_pool_allocations",
            "Live allocations on the virtual numbers of a tenant; one on two numbers counts on both.",
            ["tenant"],
            registry=self.registry,
        )
        self.pool_numbers = Gauge(
            "cordboard_pool_numbers",
            "Numbers with a route on the virtual numbers of a tenant; one on two of them counts on both.",
            ["tenant"],
            registry=self.registry,
        )
        self.pool_free_pins = Gauge(
            "cordboard_pool_free_pins",
            "Free PINs on that virtual number of a tenant which has the fewest, by their length.",
            ["tenant", "length"],
            registry=self.registry,
        )
        self.allocations_live = Gauge(
            "cordboard_allocations_live",
            "Allocations on the board.",
            registry=self.registry,
        )
        self.allocation_changes = Counter(
            "cordboard_allocation_changes_total",
            "Allocations made, updated, released and expired by this engine.",
            ["change"],
            registry=self.registry,
        )
        self.board_bytes = Gauge(
            "cordboard_board_bytes",
            "Size of the board, in bytes.",
            registry=self.registry,
        )
        self.board_age_seconds = Gauge(
            "cordboard_board_age_seconds",
            "Time since the board was last known to be equal to the database, in seconds.",
            registry=self.registry,
        )
        self.events_pending = Gauge(
            "cordboard_events_pending",
            "Events that wait for their delivery.",
            registry=self.registry,
        )
        self.webhook_attempts = Counter(
            "cordboard_webhook_attempts_total",
            "Attempts to deliver an event.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.webhook_seconds = Histogram(
            "cordboard_webhook_seconds",
            "Time of one delivery attempt, in seconds.",
            buckets=(*LATENCY_BUCKETS_S, 2.5, 5.0),
            registry=self.registry,
        )
        self.database_up = Gauge(
            "cordboard_database_up",
            "Whether PostgreSQL answers (1) or not (0).",
            registry=self.registry,
        )
        self.spool_records = Gauge(
            "cordboard_spool_records",
            "Outcomes and ends in the spool that the database does not have yet.",
            registry=self.registry,
        )
        self.spool_bytes = Gauge(
            "cordboard_spool_bytes",
            "Size of the spool, in bytes; it is full at the setting spool_bytes_max.",
            registry=self.registry,
        )
        self.spool_written = Counter(
            "cordboard_spool_written_total",
            "Outcomes and ends that went to the spool because the database was away.",
            registry=self.registry,
        )
        self.spool_drained = Counter(
            "cordboard_spool_drained_total",
            "Outcomes and ends that the database took from the spool.",
            registry=self.registry,
        )
        self.spool_set_aside = Gauge(
            "cordboard_spool_set_aside",
            "Pieces of the spool that could not be used and are kept beside it, for a person to look at.",
            registry=self.registry,
        )
        self.call_rows_dropped = Counter(
            "cordboard_call_rows_dropped_total",
            "Records of decisions lost: the database was away for too long, or refuses them.",
            registry=self.registry,
        )
