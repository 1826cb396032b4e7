"""`GET …/explain`: what a call would be answered and why, without dialling, recording or counting.

Numbers and PINs are masked; a token that the operator gave the right to (`token add --reveal`) may ask for
them with `reveal=true`.
"""

from __future__ import annotations

from typing import Any, Final, assert_never
from uuid import UUID

from aiohttp import hdrs, web

from cordboard.routing.allocate import Code, side_key
from cordboard.routing.explain import RULES, Candidate
from cordboard.routing.model import (
    NEVER_US,
    AllocationId,
    AskPin,
    Connect,
    Decision,
    Entry,
    NoEntry,
    PinEntry,
    Refuse,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.storage.outcomes import WITHHELD
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.account_time import iso_text
from cordboard.web.auth import basic_credentials
from cordboard.web.documents import ExplainQuery, ExplanationData
from cordboard.web.envelope import Answer
from cordboard.web.errors import Refused
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route
from cordboard.web.query import Query

EXPLAIN: Final = Operation(
    "Explain a decision",
    description=(
        "What a new call by `caller` to `vn` would be answered, now or `at` another instant, and what became"
        " of every side that it could have been about. Nothing is dialled, recorded or counted."
    ),
    query=ExplainQuery,
    data=ExplanationData,
    codes=(Code.UNSUPPORTED_FILTER, Code.MISSING, Code.BAD, Code.BAD_NUMBER),
)


class Explaining:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard

    def routes(self, tenants: Tenants) -> list[Route]:
        return [tenants.route("GET", f"{TENANT_PATH}/explain", self._explain, EXPLAIN)]

    async def _explain(self, exchange: Exchange) -> Answer:
        credentials = basic_credentials(exchange.request.headers.get(hdrs.AUTHORIZATION, ""))
        may_reveal = credentials is not None and exchange.tenant.reveals_to(credentials[1])
        return Answer(explained(self._switchboard, exchange.request, exchange.tenant, may_reveal=may_reveal))


def explained(
    switchboard: Switchboard, request: web.Request, tenant: TenantView, *, may_reveal: bool
) -> dict[str, Any]:
    """The explanation that the query of `request` asks for. Raises Refused."""
    query = Query(request, tenant.settings, ExplainQuery)
    query.must_have("vn")
    virtual_number, caller, pin = query.number("vn"), query.caller("caller"), query.pin("pin")
    assert virtual_number is not None, "it must be given"
    is_whole = query.flag("reveal")
    if is_whole and not may_reveal:
        raise Refused(Code.NOT_PERMITTED, "reveal: this token may not see numbers and PINs whole.")
    asked_at_us = query.instant_us("at")
    at_us = switchboard.clock.now_us() if asked_at_us is None else asked_at_us
    entry: Entry = NoEntry() if pin is None else PinEntry(pin, digest_of(pin.digits))
    number = None if caller is None or caller == WITHHELD else E164(caller)
    explanation, exceeded = switchboard.answering.explain(tenant, virtual_number, number, entry, at_us)
    words = _Words(tenant.settings.timezone, is_whole)
    return {
        "vn": virtual_number.plus,
        "caller": None if number is None else words.number(number),
        "at": iso_text(at_us, tenant.settings.timezone),
        "board_age_s": round(switchboard.keeper.age_s(), 3),
        "throttled": {"caller": exceeded.caller, "shared": exceeded.shared},
        "decision": words.decision(explanation.decision),
        "candidates": [words.candidate(candidate) for candidate in explanation.candidates],
    }


class _Words:
    """How an explanation is told: in the tenant's time, with numbers and PINs whole or masked."""

    def __init__(self, zone: str, is_whole: bool) -> None:
        self._zone = zone
        self._is_whole = is_whole

    def number(self, number: E164) -> str:
        return number.plus if self._is_whole else str(number)

    def pin(self, pin: Pin) -> str:
        return pin.digits if self._is_whole else str(pin)

    def decision(self, decision: Decision) -> dict[str, Any]:
        match decision:
            case Connect():
                return {
                    "decision": "connect",
                    "matched": decision.matched.value,
                    "allocation_id": _id_text(decision.allocation_id),
                    "product": decision.product.value,
                    "side": side_key(decision.side),
                    "targets": [self.number(number) for number in decision.targets],
                    "caller_id": decision.caller_id.plus,
                    "record": decision.policy.record,
                }
            case AskPin():
                return {
                    "decision": "ask_pin",
                    "digits_max": decision.digits_max,
                    "attempts_left": decision.attempts_left,
                    "last_entry": decision.last_entry.value,
                }
            case Refuse():
                id = decision.allocation_id
                return {
                    "decision": "refuse",
                    "reason": decision.reason.value,
                    "allocation_id": None if id is None else _id_text(id),
                }
            case unmatched:
                assert_never(unmatched)

    def candidate(self, candidate: Candidate) -> dict[str, Any]:
        end_us = candidate.expires_at_us
        return {
            "allocation_id": _id_text(candidate.allocation_id),
            "product": candidate.product.value,
            "side": side_key(candidate.side),
            "relation": candidate.relation.value,
            "verdict": candidate.verdict.value,
            "rule": RULES[candidate.verdict],
            "numbers": [self.number(number) for number in candidate.numbers],
            "pins": [self.pin(pin) for pin in candidate.pins],
            "ends_at": None if end_us == NEVER_US else iso_text(end_us, self._zone),
        }


def _id_text(id: AllocationId) -> str:
    return str(UUID(bytes=id))
