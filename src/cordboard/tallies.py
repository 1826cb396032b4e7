"""Counts that cost nearly nothing on the path of every call, and that several processes of a node share.

A node may be one process or several, and any of them may be scraped. Processes that are started with
PROMETHEUS_MULTIPROC_DIR keep what they count in files of that directory, from where each of them reads
all. The files are named after the slot of a process (CORDBOARD_SLOT), not after its pid: whoever is started
again in a slot counts on from there, and files do not multiply with restarts. Without that variable all
counts are of this process alone.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

from prometheus_client import values
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cordboard.routing.model import LastEntry, Matched, Reason

SLOT_VARIABLE: Final = "CORDBOARD_SLOT"
# The name is prometheus_client's, which looks for it when it is imported.
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
# It becomes a part of file names that are taken apart at `_`.
_SLOT: Final = re.compile(r"[a-z]+(-[0-9]+)?")

DecisionWord = Matched | LastEntry | Reason

_DECISION_OF: Final = {Matched: "connect", LastEntry: "ask_pin", Reason: "refuse"}


def _own_slot() -> str:
    slot = os.environ.get(SLOT_VARIABLE, "node")
    if not _SLOT.fullmatch(slot):
        raise ValueError(f"{SLOT_VARIABLE} must be a word like node or worker-0, not {slot!r}")
    return slot


# Of this process, for its whole life: the kind of a value is chosen before the first metric is made.
SLOT: Final = _own_slot()
IS_SHARED: Final = DIRECTORY_VARIABLE in os.environ
if IS_SHARED:
    values.ValueClass = values.MultiProcessValue(lambda: SLOT)  # type: ignore[no-untyped-call]


# ── for whoever starts processes ─────────────────────────────────────────────


def begin_sharing(directory: Path) -> None:
    """Make the directory, or empty it of what a node before us counted; before its first process starts.

    It is best in shared memory: each commit, each attempt to deliver and each second writes there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink()


def sharing_environment(directory: Path, slot: str) -> Mapping[str, str]:
    """What a process is started with; no two that run at the same time may have one slot."""
    return {DIRECTORY_VARIABLE: str(directory), SLOT_VARIABLE: slot}


def process_ended(directory: Path, slot: str) -> None:
    """Forget the present state of a process that is gone (connections, memory); its counts stay."""
    mark_process_dead(slot, str(directory))  # type: ignore[no-untyped-call]


def leave() -> None:
    """The same of this process, at its end."""
    if IS_SHARED:
        process_ended(Path(os.environ[DIRECTORY_VARIABLE]), SLOT)


# ── on the path of every call ────────────────────────────────────────────────


class _SharedValue(Protocol):
    def inc(self, amount: float) -> None: ...


def _shared_value(
    kind: str, family: str, sample: str, labels: Mapping[str, str], documentation: str
) -> _SharedValue:
    value: _SharedValue = values.ValueClass(
        kind, family, sample, tuple(labels), tuple(labels.values()), documentation
    )
    return value


class LatencyHistogram(Collector):
    """A histogram for the path of every call: `observe` takes a quarter of prometheus_client's time.

    Its own Histogram takes two locks and walks the buckets; here is one bisection, in one thread. Where
    counts are shared, `publish` hands on what was observed since the last time; a `kill -9` loses that.
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
        self._shared_counts = {value: self._share_buckets(value) for value in values if IS_SHARED}
        self._shared_sums = {value: self._share("_sum", {label: value}) for value in values if IS_SHARED}

    def observe(self, value: str, seconds: float) -> None:
        """Count `seconds` under the label value, which is one of those named at the start."""
        self._counts[value][bisect_left(self._bounds, seconds)] += 1
        self._sums[value] += seconds

    def publish(self) -> None:
        for value, shared_counts in self._shared_counts.items():
            counts = self._counts[value]
            for place, count in enumerate(counts):
                if count:
                    shared_counts[place].inc(count)
                    counts[place] = 0
            self._shared_sums[value].inc(self._sums[value])
            self._sums[value] = 0.0

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, counts in self._counts.items():
            buckets = list(zip(self._words(), accumulate(counts), strict=True))
            family.add_metric([value], buckets, self._sums[value])
        yield family

    def _words(self) -> list[str]:
        return [*map(floatToGoString, self._bounds), "+Inf"]

    def _share_buckets(self, value: str) -> list[_SharedValue]:
        return [self._share("_bucket", {self._label: value, "le": bound}) for bound in self._words()]

    def _share(self, suffix: str, labels: Mapping[str, str]) -> _SharedValue:
        return _shared_value("histogram", self._name, self._name + suffix, labels, self._documentation)


class DecisionCounter(Collector):
    """Decisions by kind and by how they matched or why they were refused; every word is known beforehand.

    Where counts are shared, `publish` hands on what came since the last time; a `kill -9` loses that.
    """

    _NAME: Final = "cordboard_decisions"
    _DOCUMENTATION: Final = "Decisions about calls, by kind and by how they matched or why they were refused."

    def __init__(self) -> None:
        self._counts: dict[DecisionWord, int] = dict.fromkeys((*Matched, *LastEntry, *Reason), 0)
        self._shared = {word: self._share(word) for word in self._counts if IS_SHARED}

    def count(self, word: DecisionWord) -> None:
        """One more; a third of what a Counter's lock takes, in the one thread that decides."""
        self._counts[word] += 1

    def publish(self) -> None:
        for word, shared in self._shared.items():
            if self._counts[word]:
                shared.inc(self._counts[word])
                self._counts[word] = 0

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._NAME, self._DOCUMENTATION, labels=["decision", "reason"])
        for word, count in self._counts.items():
            family.add_metric([_DECISION_OF[type(word)], word.value], count)
        yield family

    def _share(self, word: DecisionWord) -> _SharedValue:
        labels = {"decision": _DECISION_OF[type(word)], "reason": word.value}
        return _shared_value("counter", self._NAME, f"{self._NAME}_total", labels, self._DOCUMENTATION)
