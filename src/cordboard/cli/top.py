"""`cordboard top`: what a running engine does now, from what it tells Prometheus and its probes.

All of it is counters and gauges of /metrics, so that what is seen here is what the dashboards show; a metric
that an engine of another version lacks is shown as a dash.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Final, NamedTuple

import aiohttp
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cordboard.cli.reach import address_of, run, settings_of
from cordboard.cli.shell import AsJson, DataDir, ExitCode, Url, console, fail, print_json
from cordboard.simulator.client import Client

app: Final = typer.Typer()

INTERVAL_S: Final = 2.0
# A scrape of a thousand tenants takes a second; an engine that takes longer than this is worth knowing.
TENANTS_SHOWN_MAX: Final = 20

Labels = tuple[tuple[str, str], ...]


class NoEngine(Exception):
    """Nobody answers there, or nobody who is an engine; the message says which."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What an engine said at one moment; `at_s` is of a clock that only goes forward."""

    at_s: float
    readiness: Mapping[str, Any]
    values: Mapping[str, Mapping[Labels, float]] = field(repr=False)

    def of(self, name: str) -> Mapping[Labels, float]:
        return self.values.get(name, {})

    def one(self, name: str) -> float | None:
        """A metric without labels; None where the engine has none of that name."""
        return self.of(name).get(())

    def summed(self, name: str, label: str) -> dict[str, float]:
        """Label value → sum over everything else."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self.of(name).items():
            sums[dict(labels).get(label, "")] += value
        return dict(sums)


class Latency(NamedTuple):
    """In milliseconds; None where nothing was counted."""

    p50: float | None
    p99: float | None


@app.command("top")
def top_command(
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = INTERVAL_S,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Calls, latencies, pools and events of the running engine, live; Ctrl-C ends it.

    With --once, and at the first look, rates and latencies are those since the engine was started. --json
    prints one object a look.
    """
    settings = settings_of(data_dir=data_dir)
    base = address_of(settings, url)
    try:
        run(_look(base, interval, is_once=once, as_json=as_json))
    except NoEngine as nobody:
        fail(str(nobody), ExitCode.AWAY)


async def _look(base: str, interval_s: float, *, is_once: bool, as_json: bool) -> None:
    async with aiohttp.ClientSession() as session:
        # Neither the probes nor the metrics ask who wants to know.
        client = Client(session, base, "")
        before, now = None, await sample(client)
        if is_once or as_json:
            while True:
                seen = summary(now, before)
                if as_json:
                    print_json(seen)
                else:
                    console.print(view(seen))
                if is_once:
                    return
                await asyncio.sleep(interval_s)
                before, now = now, await sample(client)
        with Live(view(summary(now, before)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_s)
                before, now = now, await sample(client)
                live.update(view(summary(now, before)), refresh=True)


async def sample(client: Client) -> Sample:
    """Raises NoEngine."""
    try:
        readiness = (await client.ask("GET", "/readyz")).body
        metrics = (await client.ask("GET", "/metrics")).body
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NoEngine(f"no engine answers at {client.base_url} ({type(error).__name__})") from error
    if not isinstance(readiness, dict) or not isinstance(metrics, str):
        raise NoEngine(f"what answers at {client.base_url} is no engine")
    return Sample(asyncio.get_running_loop().time(), readiness, read_metrics(metrics))


def read_metrics(text: str) -> Mapping[str, Mapping[Labels, float]]:
    """Name → labels, sorted → value. Raises NoEngine for what is not in Prometheus's format."""
    values: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                values[one.name][tuple(sorted(one.labels.items()))] = one.value
    except ValueError as error:
        raise NoEngine("what answers /metrics is no engine") from error
    return values


# ── what it means ────────────────────────────────────────────────────────────


def summary(now: Sample, before: Sample | None) -> dict[str, Any]:
    """What is shown, as JSON has it: rates per second, times in milliseconds."""
    seconds = None if before is None else now.at_s - before.at_s
    return {
        "ready": now.readiness.get("ready"),
        "database_up": now.readiness.get("database_up"),
        "board_age_s": now.readiness.get("board_age_s"),
        "allocations_live": now.one("cordboard_allocations_live"),
        "board_bytes": now.one("cordboard_board_bytes"),
        "connections": now.one("cordboard_connections"),
        "spool_records": now.one("cordboard_spool_records"),
        "interval_s": None if seconds is None else round(seconds, 3),
        "decisions": [
            {"decision": dict(labels)["decision"], "reason": dict(labels)["reason"], **counted}
            for labels, counted in _counted(now, before, "cordboard_decisions_total")
        ],
        "applets": {
            applet: {"requests": int(count), **latency._asdict()}
            for applet, (count, latency) in _latencies(now, before, "cordboard_request_seconds", "applet")
        },
        "faults": now.summed("cordboard_faults_total", "fault"),
        "pin_outcomes": now.summed("cordboard_pin_outcomes_total", "outcome"),
        "throttles_full": now.summed("cordboard_throttles_full", "scope"),
        "events_pending": now.one("cordboard_events_pending"),
        "webhook_attempts": [
            {"result": result, **counted}
            for result, counted in _counted_by(now, before, "cordboard_webhook_attempts_total", "result")
        ],
        "pools": _pools(now),
    }


def _counted(now: Sample, before: Sample | None, name: str) -> Iterator[tuple[Labels, dict[str, Any]]]:
    """Of each that was ever counted: how many, and how many a second lately."""
    for labels, value in sorted(now.of(name).items(), key=lambda item: -item[1]):
        if value:
            was = None if before is None else before.of(name).get(labels, 0.0)
            yield labels, _total_and_rate(value, was, now, before)


def _counted_by(
    now: Sample, before: Sample | None, name: str, label: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    was = None if before is None else before.summed(name, label)
    for word, value in now.summed(name, label).items():
        yield word, _total_and_rate(value, None if was is None else was.get(word, 0.0), now, before)


def _total_and_rate(value: float, was: float | None, now: Sample, before: Sample | None) -> dict[str, Any]:
    per_s = None
    if before is not None and was is not None and now.at_s > before.at_s:
        # An engine that was started anew counts from zero.
        per_s = round(max(value - was, 0.0) / (now.at_s - before.at_s), 1)
    return {"total": int(value), "per_s": per_s}


def _latencies(
    now: Sample, before: Sample | None, name: str, label: str
) -> Iterator[tuple[str, tuple[float, Latency]]]:
    """Label value → how many there were in the interval, and how long they took."""
    buckets: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    was = {} if before is None else before.of(f"{name}_bucket")
    for labels, value in now.of(f"{name}_bucket").items():
        named = dict(labels)
        buckets[named[label]].append((float(named["le"]), value - was.get(labels, 0.0)))
    for word, counts in buckets.items():
        in_order = sorted(counts)
        yield word, (in_order[-1][1], Latency(quantile_ms(in_order, 0.5), quantile_ms(in_order, 0.99)))


def quantile_ms(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The quantile of a histogram as Prometheus estimates it: evenly spread within its bucket.

    `buckets`: (upper bound in s, how many were at or below it), ascending, the last one unbounded. None where
    nothing was counted; beyond the last bound that one.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == inf:
                return round(lower * 1_000, 3)
            within = (rank - below) / (count - below) if count > below else 1.0
            return round((lower + (bound - lower) * within) * 1_000, 3)
        lower, below = bound, count
    raise AssertionError("the last bucket holds everything")


def _pools(now: Sample) -> dict[str, dict[str, Any]]:
    pools: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for labels, count in now.of("cordboard_pool_virtual_numbers").items():
        named = dict(labels)
        pools[named["tenant"]].setdefault("virtual_numbers", {})[named["state"]] = int(count)
    for tenant, count in now.summed("cordboard_pool_allocations", "tenant").items():
        pools[tenant]["allocations"] = int(count)
    for labels, count in now.of("cordboard_pool_free_pins").items():
        named = dict(labels)
        pools[named["tenant"]].setdefault("free_pins_fewest", {})[named["length"]] = int(count)
    return dict(pools)


# ── how it looks ─────────────────────────────────────────────────────────────


def view(seen: Mapping[str, Any]) -> Group:
    return Group(
        _headline(seen),
        Columns([_decisions(seen), Group(_applets(seen), _events(seen))], padding=(0, 4)),
        _pool_table(seen),
    )


def _headline(seen: Mapping[str, Any]) -> Text:
    is_ready, is_up = seen["ready"], seen["database_up"]
    return Text.assemble(
        ("ready" if is_ready else "NOT READY", "bold green" if is_ready else "bold red"),
        f"   board {_shown(seen['board_age_s'], 's old')}   {_shown(seen['allocations_live'], 'allocations')}"
        f"   {_shown(seen['connections'], 'connections')}   ",
        ("database up" if is_up else "DATABASE AWAY", "green" if is_up else "bold red"),
        f"   {_shown(seen['spool_records'], 'in the spool')}"
        f"   {_shown(seen['events_pending'], 'events pending')}",
    )


def _decisions(seen: Mapping[str, Any]) -> Table:
    table = _table("decision", "because", ">calls", ">a second")
    for row in seen["decisions"]:
        table.add_row(row["decision"], row["reason"], _shown(row["total"]), _shown(row["per_s"]))
    for fault, count in seen["faults"].items():
        table.add_row(Text("fault", style="red"), fault, _shown(count), "")
    return table


def _applets(seen: Mapping[str, Any]) -> Table:
    table = _table("applet", ">requests", ">p50 ms", ">p99 ms")
    for applet, row in seen["applets"].items():
        table.add_row(applet, _shown(row["requests"]), _shown(row["p50"]), _shown(row["p99"]))
    return table


def _events(seen: Mapping[str, Any]) -> Table:
    table = _table("told", ">attempts", ">a second")
    for row in seen["webhook_attempts"]:
        table.add_row(row["result"], _shown(row["total"]), _shown(row["per_s"]))
    return table


def _pool_table(seen: Mapping[str, Any]) -> Table:
    table = _table("tenant", "virtual numbers", ">allocations", "fewest free PINs on a number, by length")
    pools: Iterable[tuple[str, Mapping[str, Any]]] = list(seen["pools"].items())[:TENANTS_SHOWN_MAX]
    for tenant, pool in pools:
        states = ", ".join(f"{count} {word}" for word, count in pool.get("virtual_numbers", {}).items())
        free = pool.get("free_pins_fewest", {})
        pins = "  ".join(f"{length}: {free[length]:,}" for length in ("4", "5", "6") if length in free)
        table.add_row(tenant, states, _shown(pool.get("allocations")), pins)
    more = len(seen["pools"]) - TENANTS_SHOWN_MAX
    if more > 0:
        table.add_row(f"… {more} more", "", "", "")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def _shown(value: float | None, unit: str = "") -> str:
    number = "–" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:,g}"
    return f"{number} {unit}".rstrip()
