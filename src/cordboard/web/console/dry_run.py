"""A call as it would be decided now or at another instant; nothing is dialled, recorded or counted."""

from __future__ import annotations

from typing import Any, assert_never

from aiohttp import web
from multidict import MultiDict
from pydantic import BaseModel

from cordboard.routing.allocate import side_key
from cordboard.routing.explain import RULES, Candidate
from cordboard.routing.model import NEVER_US, AskPin, Connect, Decision, Entry, NoEntry, PinEntry, Refuse
from cordboard.routing.numbers import E164
from cordboard.routing.progress import digest_of
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.outcomes import WITHHELD
from cordboard.switchboard.service import Switchboard
from cordboard.web.console import words
from cordboard.web.console.frame import TENANT, Form, Frame, Page, Visit
from cordboard.web.console.records import (
    MASKED,
    PRODUCTS,
    WHOLE,
    Row,
    Sight,
    allocation_id_text,
    line_text,
)
from cordboard.web.errors import Refused
from cordboard.web.query import WITHHELD_WORD, Query


class DryRunForm(BaseModel):
    """`kept_caller` and `kept_pin` are what was typed before, sealed."""

    vn: str
    caller: str | None = None
    kept_caller: str | None = None
    pin: str | None = None
    kept_pin: str | None = None
    at: str | None = None
    reveal: str | None = None


class DryRuns:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        path = f"{TENANT}/dry-run"
        return [self._frame.get(path, self._show), self._frame.post(path, self._explain)]

    async def _show(self, _: Visit) -> Page:
        return Page("dry_run.html", _blank())

    async def _explain(self, visit: Visit) -> Page:
        try:
            return await self._explained(visit)
        except Refused as refused:
            given = visit.form.query
            values = {
                **_blank(),
                "fault": refused.problem.message,
                "vn": given.get("vn", ""),
                "at": given.get("at", ""),
            }
            return Page("dry_run.html", values, refused.problem.status)

    async def _explained(self, visit: Visit) -> Page:
        """Raises Refused."""
        tenant, switchboard = visit.tenant, self._switchboard
        query = Query(Form(_with_kept(visit)), tenant.settings, DryRunForm)
        query.must_have("vn")
        virtual_number, caller, pin = query.number("vn"), query.caller("caller"), query.pin("pin")
        assert virtual_number is not None, "it must be given"
        asked_at_us = query.instant_us("at")
        at_us = visit.now_us if asked_at_us is None else asked_at_us
        number = None if caller is None or caller == WITHHELD else E164(caller)
        entry: Entry = NoEntry() if pin is None else PinEntry(pin, digest_of(pin.digits))
        sight = WHOLE if query.flag("reveal") else MASKED
        if sight.is_whole:
            line = line_text(switchboard, tenant, virtual_number)
            object_id = f"a call to {line} from {MASKED.caller(number)}"
            await self._frame.record(visit.act(Act.REVEALED, ObjectKind.EXPLANATION, object_id))
        explanation, exceeded = switchboard.answering.explain(tenant, virtual_number, number, entry, at_us)
        decision = explanation.decision
        return Page(
            "dry_run.html",
            {
                **_blank(),
                "vn": virtual_number.plus,
                "at": visit.form.query.get("at", ""),
                "caller_shown": sight.caller(number),
                "kept_caller": visit.seal(WITHHELD_WORD if number is None else number.plus),
                "pin_shown": None if pin is None else sight.pins([pin])[0],
                "kept_pin": None if pin is None else visit.seal(pin.digits),
                "result": {
                    "at_us": at_us,
                    "said": words.decided(decision),
                    "facts": _facts(decision, sight),
                    "throttled": exceeded,
                    "board_age_s": round(switchboard.keeper.age_s(), 3),
                    "candidates": [_candidate(one, sight) for one in explanation.candidates],
                    "is_whole": sight.is_whole,
                },
            },
        )


def _blank() -> dict[str, Any]:
    return {
        "fault": None,
        "result": None,
        "vn": "",
        "at": "",
        "caller_shown": None,
        "kept_caller": None,
        "pin_shown": None,
        "kept_pin": None,
    }


def _with_kept(visit: Visit) -> MultiDict[str]:
    """The form with what was kept in place of what was not typed anew. Raises Refused."""
    fields = MultiDict(visit.form.query)
    for name in ("caller", "pin"):
        kept = visit.unseal(f"kept_{name}")
        if kept is not None and name not in fields:
            fields[name] = kept
    return fields


def _facts(decision: Decision, sight: Sight) -> Row:
    match decision:
        case Connect():
            return {
                "Allocation": allocation_id_text(decision.allocation_id),
                "Speaks for side": side_key(decision.side).upper(),
                "Would dial": ", ".join(sight.numbers(decision.targets)),
                "Would show": decision.caller_id.plus,
            }
        case AskPin():
            return {"Digits at most": decision.digits_max, "Attempts left": decision.attempts_left}
        case Refuse():
            id = decision.allocation_id
            return {} if id is None else {"Allocation": allocation_id_text(id)}
        case unmatched:
            assert_never(unmatched)


def _candidate(candidate: Candidate, sight: Sight) -> Row:
    end_us = candidate.expires_at_us
    return {
        "allocation_id": allocation_id_text(candidate.allocation_id),
        "product": PRODUCTS[candidate.product],
        "side": side_key(candidate.side).upper(),
        "relation": words.related(candidate.relation),
        "rule": RULES[candidate.verdict],
        "numbers": sight.numbers(candidate.numbers),
        "pins": sight.pins(candidate.pins),
        "ends_at_us": None if end_us == NEVER_US else end_us,
    }
