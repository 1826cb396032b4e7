"""Sliding windows over wrong PINs: they limit the guesser, not the victim (routing.md, Wrong PINs).

The windows are in memory, of the node's own entries before these are even looked at. Those of other nodes
come by the feed, as rows that the outcome's transaction wrote: gapless and in order, so that none is missed
or counted twice whatever clocks, commits and restarts do; asking the table for what is new by time would
miss what was committed late. After a restart they are read from the records, in one snapshot with the heads
of the feed, from where it goes on. So a guess on one node counts on the others within the feed's bound,
some milliseconds to a poll of 0.1 s.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import structlog

from cordboard.clock import SECOND_US
from cordboard.routing.changes import WINDOW_KINDS, FeedRow, PinFailed, TenantGone, ThrottleCleared, decode
from cordboard.routing.model import NOT_EXCEEDED, Exceeded, ThrottleScope
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import Rate, TenantSettings
from cordboard.storage import throttles
from cordboard.storage.database import Connection
from cordboard.storage.throttles import OnRecord

# Windows are at most a day long (web/schemas.py), and that is how far back failures are read at start.
WINDOW_S_MAX: Final = 86_400

_log = structlog.get_logger(__name__)


class Window(NamedTuple):
    """Whose failures it holds. A caller's has the caller, or the VN that withheld callers share."""

    scope: ThrottleScope
    caller: E164 | None = None
    virtual_number: E164 | None = None


class WindowState(NamedTuple):
    """How a window stands at one instant."""

    window: Window
    failures: int
    rate: Rate
    # When it lets the next entry through; None while it is not full.
    full_until_us: int | None


class _Failures:
    """Those of one tenant. What is refused for them is not counted, so that no window grows far beyond its
    limit: 1,000 in an hour are 24,000 in a day, and 10 MB if each has a caller of its own."""

    __slots__ = ("cleared", "entries", "told", "windows")

    def __init__(self) -> None:
        # Instants, the oldest first.
        self.windows: dict[Window, list[int]] = {}
        # The entries that are counted, and when.
        self.entries: dict[bytes, int] = {}
        # Until when they were lifted by an operator; None stands for all of them.
        self.cleared: dict[Window | None, int] = {}
        # The last time that a full one was told of.
        self.told: dict[Window, int] = {}

    def count(self, failed: PinFailed) -> None:
        if failed.entry in self.entries:
            return
        self.entries[failed.entry] = failed.at_us
        all_until_us = self.cleared.get(None, 0)
        for window in windows_of(failed.virtual_number, failed.caller):
            if failed.at_us <= max(all_until_us, self.cleared.get(window, 0)):
                continue
            instants = self.windows.get(window)
            if instants is None:
                self.windows[window] = [failed.at_us]
            else:
                # Nearly always the last; other nodes have other clocks, and clocks are set.
                insort(instants, failed.at_us)

    def take_back(self, failed: PinFailed) -> None:
        if self.entries.pop(failed.entry, None) is None:
            return
        for window in windows_of(failed.virtual_number, failed.caller):
            instants = self.windows.get(window)
            if instants is not None and failed.at_us in instants:
                instants.remove(failed.at_us)

    def clear(self, cleared: ThrottleCleared) -> None:
        places = _lifted(cleared)
        for place in places:
            # Failures until then may still be on their way.
            self.cleared[place] = max(self.cleared.get(place, 0), cleared.at_us)
        for window, instants in self.windows.items():
            if None in places or window in places:
                del instants[: bisect_right(instants, cleared.at_us)]
                self.told.pop(window, None)

    def forget_old(self, before_us: int) -> None:
        for window, instants in list(self.windows.items()):
            del instants[: bisect_right(instants, before_us)]
            if not instants:
                del self.windows[window]
        self.entries = {entry: at_us for entry, at_us in self.entries.items() if at_us > before_us}
        self.cleared = {place: at_us for place, at_us in self.cleared.items() if at_us > before_us}
        self.told = {window: at_us for window, at_us in self.told.items() if at_us > before_us}

    def full_until_us(self, window: Window, rate: Rate, now_us: int) -> int | None:
        instants = self.windows.get(window)
        if instants is None or len(instants) < rate.count_max:
            return None
        # Full exactly while the limit-th newest failure is inside the window.
        until_us = instants[-rate.count_max] + rate.window_s * SECOND_US
        return until_us if until_us > now_us else None


class Throttle:
    """`restore` and `follow` by whoever follows the feed, `forget_old` now and then."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Failures] = {}
        self._positions: dict[int, int] = {}

    # ── what is known ────────────────────────────────────────────────────────

    async def restore(self, connection: Connection, now_us: int) -> None:
        """Begin anew with what is on record. Own entries under way are told by the feed, later."""
        self.take_up(await throttles.on_record(connection, now_us - WINDOW_S_MAX * SECOND_US))

    def take_up(self, on_record: OnRecord) -> None:
        self._tenants = {}
        for cleared in on_record.cleared:
            self._of(cleared.tenant_id).clear(cleared)
        for failed in on_record.failures:
            self.count(failed)
        self._positions = on_record.heads

    def follow(self, rows: Iterable[FeedRow]) -> None:
        """Take note of what these rows of the feed tell the windows."""
        for row in rows:
            if row.kind not in WINDOW_KINDS or row.n <= self._positions.get(row.cell, 0):
                continue
            match decode(row.kind, row.body):
                case PinFailed() as failed:
                    self.count(failed)
                case ThrottleCleared() as cleared:
                    self._of(cleared.tenant_id).clear(cleared)
                case TenantGone(tenant_id):
                    self._tenants.pop(tenant_id, None)
                case _:
                    pass

    def count(self, failed: PinFailed) -> None:
        """Count an entry as wrong, once. One's own before the PIN is looked at, so that calls at the same
        moment cannot share one unit."""
        self._of(failed.tenant_id).count(failed)

    def take_back(self, counted: PinFailed) -> None:
        """The entry was no failure."""
        if (failures := self._tenants.get(counted.tenant_id)) is not None:
            failures.take_back(counted)

    def forget_old(self, now_us: int) -> None:
        """Drop what no window reaches any more."""
        for tenant_id, failures in list(self._tenants.items()):
            failures.forget_old(now_us - WINDOW_S_MAX * SECOND_US)
            if not failures.windows and not failures.cleared:
                del self._tenants[tenant_id]

    # ── what it means ────────────────────────────────────────────────────────

    def exceeded(
        self,
        tenant_id: str,
        settings: TenantSettings,
        virtual_number: E164,
        caller: E164 | None,
        now_us: int,
    ) -> Exceeded:
        failures = self._tenants.get(tenant_id)
        if failures is None:
            return NOT_EXCEEDED
        by_caller, by_vn, by_tenant = (
            failures.full_until_us(window, _rate(settings, window), now_us) is not None
            for window in windows_of(virtual_number, caller)
        )
        return Exceeded(caller=by_caller, shared=by_vn or by_tenant)

    def refused(
        self,
        tenant_id: str,
        settings: TenantSettings,
        virtual_number: E164,
        caller: E164 | None,
        now_us: int,
    ) -> ThrottleScope:
        """Which window somebody was refused for; the log says so once each time that it is full."""
        failures = self._of(tenant_id)
        for window in windows_of(virtual_number, caller):
            rate = _rate(settings, window)
            until_us = failures.full_until_us(window, rate, now_us)
            if until_us is None:
                continue
            if abs(now_us - failures.told.get(window, 0)) >= rate.window_s * SECOND_US:
                failures.told[window] = now_us
                _log.warning(
                    "throttle.full",
                    tenant=tenant_id,
                    scope=window.scope.value,
                    caller=window.caller,
                    virtual_number=window.virtual_number,
                    failures_max=rate.count_max,
                    window_s=rate.window_s,
                )
            return window.scope
        raise AssertionError("who is refused has a full window")

    def states(self, tenant_id: str, settings: TenantSettings, now_us: int) -> Iterator[WindowState]:
        """All windows of a tenant that hold failures."""
        failures = self._tenants.get(tenant_id)
        if failures is None:
            return
        for window, instants in failures.windows.items():
            rate = _rate(settings, window)
            inside = len(instants) - bisect_right(instants, now_us - rate.window_s * SECOND_US)
            if inside:
                until_us = failures.full_until_us(window, rate, now_us)
                yield WindowState(window, inside, rate, until_us)

    def full(
        self, settings_of: Callable[[str], TenantSettings | None], now_us: int
    ) -> Counter[ThrottleScope]:
        """How many windows are full, by their scope."""
        count: Counter[ThrottleScope] = Counter()
        for tenant_id, failures in self._tenants.items():
            settings = settings_of(tenant_id)
            if settings is not None:
                count.update(
                    window.scope
                    for window in failures.windows
                    if failures.full_until_us(window, _rate(settings, window), now_us) is not None
                )
        return count

    def _of(self, tenant_id: str) -> _Failures:
        failures = self._tenants.get(tenant_id)
        if failures is None:
            failures = self._tenants[tenant_id] = _Failures()
        return failures


def windows_of(virtual_number: E164, caller: E164 | None) -> Sequence[Window]:
    """The three windows that a failure counts in."""
    return (
        # Withheld callers cannot be told apart: they share one window for each VN.
        Window(ThrottleScope.CALLER, virtual_number=virtual_number)
        if caller is None
        else Window(ThrottleScope.CALLER, caller=caller),
        Window(ThrottleScope.VN, virtual_number=virtual_number),
        Window(ThrottleScope.TENANT),
    )


def _lifted(cleared: ThrottleCleared) -> Sequence[Window | None]:
    """None stands for all of them. A VN's lifting lifts the window of its withheld callers, too."""
    number = cleared.number
    match cleared.scope:
        case None:
            return (None,)
        case ThrottleScope.TENANT:
            return (Window(ThrottleScope.TENANT),)
        case ThrottleScope.CALLER:
            return (Window(ThrottleScope.CALLER, caller=number),)
        case ThrottleScope.VN:
            withheld = Window(ThrottleScope.CALLER, virtual_number=number)
            return (Window(ThrottleScope.VN, virtual_number=number), withheld)


def _rate(settings: TenantSettings, window: Window) -> Rate:
    match window.scope:
        case ThrottleScope.CALLER:
            return settings.pin_failures_per_caller
        case ThrottleScope.VN:
            return settings.pin_failures_per_vn
        case ThrottleScope.TENANT:
            return settings.pin_failures_per_tenant
