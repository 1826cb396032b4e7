"""Answers calls: reads what is known of the call, decides, records, and decides what the record means."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never
from weakref import WeakValueDictionary

from cordboard.clock import Clock
from cordboard.routing.changes import PinFailed
from cordboard.routing.decide import decide
from cordboard.routing.explain import Explanation, explain
from cordboard.routing.model import (
    NEW_CALL,
    NOT_EXCEEDED,
    AskPin,
    Call,
    Connect,
    Decision,
    Entry,
    Exceeded,
    Matched,
    NoEntry,
    Outcome,
    PinEntry,
    Progress,
    Reason,
    Refuse,
    RightPin,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import Hop, after, entry_of, with_outcome
from cordboard.storage import outcomes
from cordboard.storage.calls import NO_APPLET, CallRow, CallType, NewEnd, decision_text
from cordboard.storage.database import Database
from cordboard.storage.facts import Insights
from cordboard.storage.feed import Position
from cordboard.storage.outcomes import CallKey, NewOutcome
from cordboard.switchboard.progress_writing import ProgressWriting
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.records import CallRecords
from cordboard.switchboard.source import BoardSource
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.throttle import Throttle
from cordboard.switchboard.unknown_calls import UnknownCalls
from cordboard.tables.board import BoardTables
from cordboard.tables.progress import ProgressRow, ProgressTables, WayIn
from cordboard.telemetry import Metrics, PinOutcome
from cordboard.tracing import Tracing

# A new member's next call should find it on the board; its present one does not need that.
JOIN_WAIT_S: Final = 0.2
# Ways in of calls that a greeting may ask for by CallSid: the last 100,000, 300 bytes each. They are dropped
# by generations, because one at a time takes every call longer; and one of 5,000 takes 2 ms.
WAYS_IN_GENERATIONS: Final = 20
WAYS_IN_OF_A_GENERATION_MAX: Final = 5_000


class Caller(NamedTuple):
    """Who calls what. Without a `call_sid` a call is decided, but no PIN is taken."""

    call_sid: str | None
    virtual_number: E164 | None
    number: E164 | None


class Keyed(NamedTuple):
    """What a hop brings beside that, and what it does with digits; `digits` are clean."""

    hop: Hop
    digits: str = ""
    start_time: str | None = None


class Undecided(NamedTuple):
    """A hop that has to wait for what is known of its call."""

    # What it is told if nothing is, and no digits came; None where this node does know something.
    if_new: Decision | None = None


@dataclass(frozen=True, slots=True)
class EndReport:
    """How a call ended, as the platform tells it after the dial."""

    call_sid: str
    virtual_number: E164 | None
    caller: E164 | None
    call_type: CallType
    dial_call_status: str | None
    dialled: E164 | None
    dial_call_duration_s: int
    on_call_duration_s: int
    recording_url: str | None
    start_time: str | None
    insights: Insights | None
    request_id: str | None = None


UNDECIDED: Final = Undecided()


class CallAnswering:
    """The shell around `decide`."""

    def __init__(
        self,
        database: Database,
        keeper: BoardSource,
        progress: ProgressTables,
        records: CallRecords,
        recording: Recording,
        throttle: Throttle,
        metrics: Metrics,
        clock: Clock,
        ring_bell: Callable[[], None],
        tracing: Tracing | None = None,
    ) -> None:
        self._unknown_calls = UnknownCalls(database)
        self._keeper = keeper
        self._progress = progress
        self._progress_writing = ProgressWriting(progress)
        self._records = records
        self._recording = recording
        self._throttle = throttle
        self._metrics = metrics
        self._clock = clock
        self._ring_bell = ring_bell
        self._decide_call = decide if tracing is None else tracing.traced("decision", decide)
        # The newest generation first.
        self._ways_in: deque[dict[tuple[int, str], CallKey]] = deque([{}], maxlen=WAYS_IN_GENERATIONS)
        # Two hops of one call at the same moment take turns; calls do not wait for each other.
        self._turns: WeakValueDictionary[CallKey, asyncio.Lock] = WeakValueDictionary()

    async def run(self) -> None:
        """Ask about calls that this node does not know, until cancelled."""
        await self._unknown_calls.run()

    def way_in(self, tenant: TenantView, call_sid: str) -> WayIn | None:
        """The VN and caller that are known under a CallSid."""
        key = (tenant.tenant_no, call_sid)
        for generation in self._ways_in:
            if (call := generation.get(key)) is not None:
                return WayIn(call.virtual_number, call.caller)
        return self._progress.way_in(tenant.tenant_no, call_sid.encode())

    def answer_at_once(
        self,
        tenant: TenantView,
        caller: Caller,
        *,
        is_recorded: bool,
        applet: str = NO_APPLET,
        request_id: str | None = None,
    ) -> Decision | Undecided:
        """The decision, where nothing has to be waited for and no digits matter: nearly every call is
        new and connects without a word about PINs. Else `answer` will tell.

        A greeting is not recorded: it only says what another hop will do.
        """
        call_sid, virtual_number, number = caller
        if virtual_number is None:
            return self._count(Refuse(Reason.UNKNOWN_VN))
        if call_sid is None:
            return self._count(self._answer_without_sid(tenant, virtual_number, number))
        if self._progress.get(tenant.tenant_no, call_sid.encode(), virtual_number, number) is not None:
            return Undecided()
        decision = self._decide(tenant, virtual_number, number, NoEntry(), NEW_CALL)
        if not isinstance(decision, Connect):
            return Undecided(decision)
        if is_recorded:
            call = CallKey(tenant.id, call_sid, virtual_number, number)
            self._note(tenant, call, decision, applet, request_id)
        return self._count(decision)

    async def answer(
        self,
        tenant: TenantView,
        caller: Caller,
        keyed: Keyed,
        undecided: Undecided = UNDECIDED,
        *,
        is_recorded: bool,
        applet: str = NO_APPLET,
        request_id: str | None = None,
    ) -> Decision:
        """The decision for one hop; what it verified is durable. `undecided` is what `answer_at_once` said.

        Raises SpoolFull, SpoolUnusable.
        """
        call_sid, virtual_number, number = caller
        if call_sid is None or virtual_number is None:
            at_once = self.answer_at_once(tenant, caller, is_recorded=is_recorded)
            assert not isinstance(at_once, Undecided), "without a CallSid or a VN nothing is waited for"
            return at_once
        call = CallKey(tenant.id, call_sid, virtual_number, number)
        turn = self._turns.get(call)
        if turn is None:
            turn = self._turns[call] = asyncio.Lock()
        async with turn:
            decision = await self._answer_in_turn(tenant, keyed, call, undecided, request_id)
        if is_recorded:
            self._note(tenant, call, decision, applet, request_id)
        return self._count(decision)

    def explain(
        self, tenant: TenantView, virtual_number: E164, caller: E164 | None, entry: Entry, at_us: int
    ) -> tuple[Explanation, Exceeded]:
        """The decision that a new call would get at that instant, and why; nothing is recorded or counted."""
        exceeded = self._throttle.exceeded(tenant.id, tenant.settings, virtual_number, caller, at_us)
        call = Call(virtual_number, caller, entry, NEW_CALL, exceeded, tenant.settings.call_rules)
        with self._keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
            return explain(call, board, at_us), exceeded

    async def end(self, tenant: TenantView, report: EndReport) -> None:
        """Record how a call ended, once for its CallSid. Raises SpoolFull, SpoolUnusable."""
        now_us = self._clock.now_us()
        waiting: CallRow | None = None
        derived: CallRow | None = None
        if report.virtual_number is not None:
            # If the record of the call went down with a process, the board still says who was connected.
            call = CallKey(tenant.id, report.call_sid, report.virtual_number, report.caller)
            waiting = self._records.of_call(call)
            known = self._progress.get(
                tenant.tenant_no, report.call_sid.encode(), report.virtual_number, report.caller
            )
            decision = self._decide(
                tenant, report.virtual_number, report.caller, NoEntry(), known or NEW_CALL
            )
            if isinstance(decision, Connect):
                derived = CallRow(call, decision, now_us, request_id=report.request_id)
        await self._recording.end(
            tenant.cell,
            NewEnd(
                tenant_id=tenant.id,
                call_sid=report.call_sid,
                settings=tenant.settings,
                call_type=report.call_type,
                dial_call_status=report.dial_call_status,
                dialled=report.dialled,
                dial_call_duration_s=report.dial_call_duration_s,
                on_call_duration_s=report.on_call_duration_s,
                recording_url=report.recording_url,
                start_time=report.start_time,
                at_us=now_us,
                insights=report.insights,
                waiting=waiting,
                derived=derived,
                request_id=report.request_id,
            ),
        )

    async def settled(self, tenant_id: str) -> None:
        """Until this node routes by what it answered before, outcomes included, or the time is over."""
        told = self._recording.telling.of_tenant(tenant_id)
        if told is not None:
            await self._is_routed_by(told)

    def _answer_without_sid(self, tenant: TenantView, virtual_number: E164, caller: E164 | None) -> Decision:
        decision = self._decide(tenant, virtual_number, caller, NoEntry(), NEW_CALL)
        # Nothing ties the next request to this one, so a PIN could be asked for and never taken.
        return Refuse(Reason.NO_INPUT) if isinstance(decision, AskPin) else decision

    async def _answer_in_turn(
        self,
        tenant: TenantView,
        keyed: Keyed,
        call: CallKey,
        undecided: Undecided,
        request_id: str | None,
    ) -> Decision:
        call_sid = call.call_sid.encode()
        known = self._progress.get(tenant.tenant_no, call_sid, call.virtual_number, call.caller)
        progress = await self._unknown_calls.progress_of(tenant.cell, call) if known is None else known
        entry = entry_of(progress, keyed.digits, keyed.hop)
        counted_at_us = self._clock.now_us()
        decision = self._decide_counted(tenant, call, entry, progress, undecided, counted_at_us)
        if isinstance(decision, AskPin) and await self._has_joined(tenant, call):
            decision = self._decide_counted(tenant, call, entry, progress, UNDECIDED, counted_at_us)
        if decision.outcome is not None:
            decision, progress = await self._record(
                tenant, keyed, call, decision.outcome, progress, request_id
            )
        progress = after(progress, entry, decision, keyed.hop)
        if progress != known:
            await self._progress_writing.put(
                ProgressRow(
                    tenant.tenant_no,
                    call_sid,
                    call.virtual_number,
                    call.caller,
                    progress,
                    self._clock.now_us(),
                )
            )
        return decision

    def _decide_counted(
        self,
        tenant: TenantView,
        call: CallKey,
        entry: Entry,
        progress: Progress,
        undecided: Undecided,
        now_us: int,
    ) -> Decision:
        """Decide with the windows of wrong PINs; an entry is counted as wrong until it proves otherwise."""
        exceeded = self._throttle.exceeded(
            tenant.id, tenant.settings, call.virtual_number, call.caller, now_us
        )
        if (
            undecided.if_new is not None
            and progress == NEW_CALL
            and isinstance(entry, NoEntry)
            and exceeded == NOT_EXCEEDED
        ):
            # Nothing has come to light that it was not decided by.
            return undecided.if_new
        counted: PinFailed | None = None
        if isinstance(entry, PinEntry):
            name = outcomes.entry_name(call, entry.digest)
            counted = PinFailed(tenant.id, call.virtual_number, call.caller, name, now_us)
            self._throttle.count(counted)
        decision = self._decide(tenant, call.virtual_number, call.caller, entry, progress, exceeded)
        if counted is not None and not isinstance(decision.outcome, WrongPin):
            self._throttle.take_back(counted)
        if isinstance(decision, Refuse) and decision.reason is Reason.THROTTLED:
            scope = self._throttle.refused(
                tenant.id, tenant.settings, call.virtual_number, call.caller, now_us
            )
            self._metrics.throttled.labels(scope.value).inc()
        return decision

    async def _record(
        self,
        tenant: TenantView,
        keyed: Keyed,
        call: CallKey,
        outcome: Outcome,
        progress: Progress,
        request_id: str | None,
    ) -> tuple[Decision, Progress]:
        """Make the outcome durable, then answer by what is on record: the first outcome stands."""
        recorded = await self._recording.outcome(
            tenant.cell,
            NewOutcome(
                call=call,
                outcome=outcome,
                digits=Pin(keyed.digits),
                start_time=keyed.start_time,
                settings=tenant.settings,
                at_us=self._clock.now_us(),
                request_id=request_id,
            ),
        )
        is_right = isinstance(outcome, RightPin)
        pin_outcome = PinOutcome.SUCCESS if is_right else PinOutcome.FAILURE
        self._metrics.pin_outcomes.labels(pin_outcome.value).inc()
        if recorded is None:
            # In the spool: what this node knows of the call is all that can be known of it now.
            progress = with_outcome(progress, outcome, progress.failures + (not is_right))
        else:
            if recorded.position is not None:
                self._ring_bell()
                await self._keeper.wait_for(recorded.position, JOIN_WAIT_S)
            progress = progress._replace(
                failures=recorded.progress.failures,
                tried=recorded.progress.tried,
                admission=recorded.progress.admission,
                prompt_open=False,
                last_entry=recorded.progress.last_entry,
            )
        # Decided anew: while the commit was waited for, the allocation may have been released.
        final = self._decide(tenant, call.virtual_number, call.caller, NoEntry(), progress)
        if isinstance(final, Connect) and is_right:
            final = final._replace(matched=Matched.PIN)
        return final, progress

    async def _has_joined(self, tenant: TenantView, call: CallKey) -> bool:
        """Whether a stranger who proved a PIN in a call just before this one is a member by now."""
        told = None if call.caller is None else self._recording.telling.join_of(tenant.id, call.caller)
        return told is not None and await self._is_routed_by(told)

    async def _is_routed_by(self, told: asyncio.Future[Position | None]) -> bool:
        try:
            async with asyncio.timeout(JOIN_WAIT_S):
                position = await asyncio.shield(told)
        except TimeoutError:
            return False
        return position is not None and await self._keeper.wait_for(position, JOIN_WAIT_S)

    def _decide(
        self,
        tenant: TenantView,
        virtual_number: E164,
        caller: E164 | None,
        entry: Entry,
        progress: Progress,
        exceeded: Exceeded = NOT_EXCEEDED,
    ) -> Decision:
        started_s = time.perf_counter()
        call = Call(virtual_number, caller, entry, progress, exceeded, tenant.settings.call_rules)
        tables: BoardTables = self._keeper.tables
        with tables.reader(tenant.cell, tenant.tenant_no) as board:
            decision = self._decide_call(call, board, self._clock.now_us())
        seconds = time.perf_counter() - started_s
        self._metrics.decision_seconds.observe(decision_text(decision), seconds)
        return decision

    def _note(
        self, tenant: TenantView, call: CallKey, decision: Decision, applet: str, request_id: str | None
    ) -> None:
        """Remember the call's way in, and record the decision behind the answer."""
        newest = self._ways_in[0]
        if len(newest) >= WAYS_IN_OF_A_GENERATION_MAX:
            newest = {}
            self._ways_in.appendleft(newest)
        newest[tenant.tenant_no, call.call_sid] = call
        self._records.put(tenant.cell, CallRow(call, decision, self._clock.now_us(), applet, request_id))

    def _count(self, decision: Decision) -> Decision:
        counter = self._metrics.decisions
        match decision:
            case Connect():
                counter.count(decision.matched)
            case AskPin():
                counter.count(decision.last_entry)
            case Refuse():
                counter.count(decision.reason)
            case unmatched:
                assert_never(unmatched)
        return decision
