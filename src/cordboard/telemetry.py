"""Every metric, named once. Labels come from closed sets, never from a caller."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from cordboard.routing.allocate import PRECEDENCE
from cordboard.routing.model import ThrottleScope
from cordboard.tallies import IS_SHARED, SLOT, DecisionCounter, LatencyHistogram

# From a tenth of a millisecond, what a decision takes with all its HTTP, to the budget of 1 s.
LATENCY_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
# A decision itself is some microseconds.
DECISION_BUCKETS_S: Final = (
    0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.01, 0.1,
)  # fmt: skip
# What a process killed with `kill -9` takes with it; the counts of a second are some 30 writes to memory.
PUBLISHED_EVERY_S: Final = 1.0
# Ten wakings a second, 10 µs each, find a pause of 50 ms every other time.
LAG_SAMPLED_EVERY_S: Final = 0.1


class Fault(Enum):
    """Why a hop was refused although nothing is wrong with it: ours, and not the caller's or carrier's."""

    TIMEOUT = "timeout"
    SPOOL_FULL = "spool_full"
    SPOOL_UNUSABLE = "spool_unusable"
    BUG = "bug"


class PinOutcome(Enum):
    SUCCESS = "success"
    FAILURE = "failure"


class AllocationChange(Enum):
    MADE = "made"
    UPDATED = "updated"
    RELEASED = "released"
    EXPIRED = "expired"


class Metrics:
    """What the processes of a node count, each by itself: `run` in a task of the owner.

    Any process tells what all of them counted. What can be read from what they share is in `Measured`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sampled: list[tuple[Gauge, Callable[[], float]]] = []
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
        self.throttled = Counter(
            "cordboard_throttled_total",
            "Refusals because too many PINs were wrong, by whose.",
            ["scope"],
            registry=self.registry,
        )
        self.allocation_changes = Counter(
            "cordboard_allocation_changes_total",
            "Allocations made, updated, released and expired by this engine.",
            ["change"],
            registry=self.registry,
        )
        self.allocation_refusals = Counter(
            "cordboard_allocation_refusals_total",
            "Creates that were refused when they were tried, by the code of the answer.",
            ["code"],
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
        self.commit_seconds = Histogram(
            "cordboard_commit_seconds",
            "Time that PostgreSQL took for one COMMIT, in seconds.",
            buckets=(*LATENCY_BUCKETS_S, 2.5, 5.0, 10.0),
            registry=self.registry,
        )
        self.connections = self._gauge("cordboard_connections", "HTTP connections that are open.")
        self.spool_records = self._gauge(
            "cordboard_spool_records",
            "Outcomes and ends in the spool that the database does not have yet.",
        )
        self.spool_bytes = self._gauge("cordboard_spool_bytes", "Size of the spool, in bytes.")
        self.spool_bytes_max = self._gauge(
            "cordboard_spool_bytes_max", "Size at which the spool is full, in bytes."
        )
        self.spool_set_aside = self._gauge(
            "cordboard_spool_set_aside",
            "Pieces of the spool that could not be used and are kept beside it, for a person to look at.",
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
        self.call_rows_dropped = Counter(
            "cordboard_call_rows_dropped_total",
            "Records of decisions lost: the database was away for too long, or refuses them.",
            registry=self.registry,
        )
        self.database_connections_in_use = self._gauge_of_process(
            "cordboard_database_connections_in_use", "Connections of the pool to PostgreSQL that are at work."
        )
        self.database_connections_max = self._gauge_of_process(
            "cordboard_database_connections_max", "Connections to PostgreSQL that the pool may have."
        )
        self._resident_memory = self._gauge_of_process(
            "cordboard_process_resident_memory_bytes", "Memory of the process, in bytes."
        )
        self.sample(self._resident_memory, _resident_memory_bytes)
        self._event_loop_lag = Histogram(
            "cordboard_event_loop_lag_seconds",
            "How much later than asked for the event loop of the process woke a task, in seconds.",
            ["slot"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        ).labels(SLOT)
        # An alert on what has never happened needs a zero to compare with.
        for fault in Fault:
            self.faults.labels(fault.value)
        for outcome in PinOutcome:
            self.pin_outcomes.labels(outcome.value)
        for scope in ThrottleScope:
            self.throttled.labels(scope.value)
        for code in PRECEDENCE:
            self.allocation_refusals.labels(code.name.lower())
        for change in AllocationChange:
            self.allocation_changes.labels(change.value)

    def sample(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Keep a gauge at what `read` says of this process, every second and at every scrape of it."""
        self._sampled.append((gauge, read))

    async def run(self) -> None:
        """Publish every second, and at the end, until cancelled; and watch how late this loop is."""
        loop = asyncio.get_running_loop()
        publish_at_s = 0.0
        try:
            while True:
                if loop.time() >= publish_at_s:
                    self.publish()
                    publish_at_s = loop.time() + PUBLISHED_EVERY_S
                due_at_s = loop.time() + LAG_SAMPLED_EVERY_S
                await asyncio.sleep(LAG_SAMPLED_EVERY_S)
                self._event_loop_lag.observe(max(loop.time() - due_at_s, 0.0))
        finally:
            self.publish()

    def publish(self) -> None:
        """Hand on what this process counted since the last time, for all processes of the node to tell.

        Whoever is killed with `kill -9` takes what it counted of calls since then, a second at most.
        """
        self.decisions.publish()
        self.decision_seconds.publish()
        self.request_seconds.publish()
        for gauge, read in self._sampled:
            gauge.set(read())

    def exposition(self, measured: Measured) -> bytes:
        """All of it in the text format of Prometheus. Takes some milliseconds, and may run in a thread."""
        scrape = CollectorRegistry()
        if IS_SHARED:
            MultiProcessCollector(scrape)  # type: ignore[no-untyped-call]
        else:
            scrape.register(self.registry)
        scrape.register(measured)
        return generate_latest(scrape)

    def _gauge(self, name: str, documentation: str) -> Gauge:
        """What the processes of a node have together."""
        return Gauge(name, documentation, registry=self.registry, multiprocess_mode="livesum")

    def _gauge_of_process(self, name: str, documentation: str) -> Gauge:
        """What each process has, under its slot."""
        # No two processes write under one label, so that there is nothing to merge.
        gauge = Gauge(name, documentation, ["slot"], registry=self.registry, multiprocess_mode="livemax")
        return gauge.labels(SLOT)


class Measured(Collector):
    """What any process can read from what all share; made anew for each scrape, so that of tenants that are
    gone nothing stays. What cannot be read at the time of the scrape is left out."""

    def __init__(self) -> None:
        self.pool_virtual_numbers = GaugeMetricFamily(
            "cordboard_pool_virtual_numbers",
            "Virtual numbers of a tenant, by what the engine may do with them.",
            labels=["tenant", "state"],
        )
        self.pool_allocations = GaugeMetricFamily(
            "cordboard_pool_allocations",
            "Live allocations on the virtual numbers of a tenant; one on two numbers counts on both.",
            labels=["tenant"],
        )
        self.pool_numbers = GaugeMetricFamily(
            "cordboard_pool_numbers",
            "Numbers with a route on the virtual numbers of a tenant; one on two of them counts on both.",
            labels=["tenant"],
        )
        self.pool_free_pins = GaugeMetricFamily(
            "cordboard_pool_free_pins",
            "Free PINs on that virtual number of a tenant which has the fewest, by their length.",
            labels=["tenant", "length"],
        )
        self.pool_idle_virtual_numbers = GaugeMetricFamily(
            "cordboard_pool_idle_virtual_numbers",
            "Virtual numbers of a tenant that the engine may pick and on which nothing stands.",
            labels=["tenant"],
        )
        self.pool_guess_probability_max = GaugeMetricFamily(
            "cordboard_pool_guess_probability_max",
            "Chance that one random entry hits a live PIN of its length, on that virtual number of a tenant"
            " and for that length for which it is the greatest; 0 to 1.",
            labels=["tenant"],
        )
        self.throttles_full = GaugeMetricFamily(
            "cordboard_throttles_full",
            "Windows of wrong PINs that are full now: entries are refused for them.",
            labels=["scope"],
        )
        self.allocations_live = GaugeMetricFamily(
            "cordboard_allocations_live", "Allocations on the board.", labels=[]
        )
        self.board_bytes = GaugeMetricFamily(
            "cordboard_board_bytes", "Size of the board, in bytes.", labels=[]
        )
        self.board_age_seconds = GaugeMetricFamily(
            "cordboard_board_age_seconds",
            "Time since the board was last known to be equal to the database, in seconds.",
            labels=[],
        )
        self.database_up = GaugeMetricFamily(
            "cordboard_database_up", "Whether PostgreSQL answers (1) or not (0).", labels=[]
        )
        self.feed_lag_rows = GaugeMetricFamily(
            "cordboard_feed_lag_rows", "Changes in the feed that are not on the board yet.", labels=[]
        )
        self.expiry_lag_seconds = GaugeMetricFamily(
            "cordboard_expiry_lag_seconds",
            "Time since the first allocation ended that is not released yet, in seconds; 0 if there is none.",
            labels=[],
        )
        self.events_pending = GaugeMetricFamily(
            "cordboard_events_pending",
            "Events that wait for their delivery; 100,000 are counted at most.",
            labels=[],
        )
        self.events_oldest_pending_seconds = GaugeMetricFamily(
            "cordboard_events_oldest_pending_seconds",
            "Time for which the oldest pending event has waited, in seconds; 0 if there is none.",
            labels=[],
        )
        self.events_dead = GaugeMetricFamily(
            "cordboard_events_dead",
            "Events that were given up and are kept; of each tenant 10,000 are counted at most.",
            labels=[],
        )

    def collect(self) -> Iterator[Metric]:
        yield from vars(self).values()


def _resident_memory_bytes() -> float:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()
