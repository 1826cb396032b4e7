"""Records as the pages show them: masked, unless a reveal is on record.

Virtual numbers are no secret and stand whole, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from cordboard.routing.allocate import Standing, id_text, side_key
from cordboard.routing.model import NEVER_US, AllocationId, Product, Side, State
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.allocations import Member
from cordboard.storage.event_records import EventRecord
from cordboard.storage.listing import CallRecord, VerificationRecord
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.console import words
from cordboard.web.query import WITHHELD_WORD
from cordboard.webhooks.destinations import parse_endpoint

HIDDEN: Final = "…"

PRODUCTS: Final = {Product.GREENPIN: "GreenPin", Product.GREENVN: "GreenVN"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sight:
    """How much a page shows of numbers and PINs."""

    is_whole: bool = False

    def number(self, number: E164) -> str:
        return number.plus if self.is_whole else str(number)

    def numbers(self, numbers: Iterable[E164]) -> list[str]:
        return [self.number(number) for number in numbers]

    def caller(self, number: E164 | None) -> str:
        return WITHHELD_WORD if number is None else self.number(number)

    def number_or_none(self, number: E164 | None) -> str | None:
        return None if number is None else self.number(number)

    def pins(self, pins: Iterable[Pin]) -> list[str]:
        return [pin.digits if self.is_whole else str(pin) for pin in pins]

    def text(self, text: str | None) -> str | None:
        """What a client or platform wrote, and may have a person in it."""
        return text if text is None or self.is_whole else HIDDEN


MASKED: Final = Sight()
WHOLE: Final = Sight(is_whole=True)


def allocation_row(standing: Standing, now_us: int, sight: Sight = MASKED) -> Row:
    allocation = standing.allocation
    state = State.ACTIVE if standing.is_active(now_us) else State.VAULT
    return {
        "id": str(UUID(bytes=allocation.id)),
        "name": id_text(allocation.id, allocation.product, standing.generation),
        "product": PRODUCTS[allocation.product],
        "client_id": standing.client_id,
        "state": words.state_of_allocation(state),
        "vns": [
            number.plus
            for number in dict.fromkeys((*allocation.a.virtual_numbers, *allocation.b.virtual_numbers))
        ],
        "a_numbers": sight.numbers(allocation.a.numbers),
        "b_numbers": sight.numbers(allocation.b.numbers),
        "created_at_us": standing.created_at_us,
        "ends_at_us": standing.released_at_us or _end_or_none(allocation.expires_at_us),
    }


def allocation_shown(standing: Standing, members: Sequence[Member], now_us: int, sight: Sight) -> Row:
    allocation = standing.allocation
    return {
        **allocation_row(standing, now_us, sight),
        "generation": int(standing.generation),
        "usage": allocation.usage.value,
        "sides": [_side_shown(standing, members, side, sight) for side in Side],
        "common_pin": allocation.common_pin,
        "is_exclusive": allocation.is_exclusive,
        "is_locked": allocation.is_locked,
        "pin_failures": standing.pin_failures,
        "pin_attempts_max": standing.pin_attempts_max,
        "record": allocation.policy.record,
        "custom_field": sight.text(allocation.policy.custom_field),
        "flow_id": standing.flow_id,
        "cool_off_s": standing.cool_off_s,
        "version": standing.version,
        "updated_at_us": standing.updated_at_us,
        "expires_at_us": _end_or_none(allocation.expires_at_us),
        "released_at_us": standing.released_at_us,
        "release_cause": None if standing.release_cause is None else standing.release_cause.value,
    }


def _side_shown(standing: Standing, members: Sequence[Member], side: Side, sight: Sight) -> Row:
    party = standing.allocation.party(side)
    return {
        "key": side_key(side).upper(),
        "vns": [number.plus for number in party.virtual_numbers],
        "numbers": sight.numbers(party.numbers),
        "pins": sight.pins(party.pins),
        "listed_need_pin": party.listed_need_pin,
        "tag": standing.tags[side],
        "members": [
            {"number": sight.number(member.number), "joined_at_us": member.joined_at_us}
            for member in members
            if member.side is side
        ],
    }


def call_row(call: CallRecord, sight: Sight = MASKED) -> Row:
    # A CallSid has one end, which only its connected call has to do with.
    dialled = call.end.dialled if call.end is not None and call.decision == "connect" else None
    return {
        "call_sid": call.call_sid,
        "query": urlencode({"call_sid": call.call_sid}),
        "vn": call.virtual_number.plus,
        "caller": sight.caller(call.caller),
        "said": words.recorded(call.decision, call.reason, call.matched),
        "allocation_id": None if call.allocation_id is None else str(call.allocation_id),
        "side": None if call.side is None else side_key(call.side).upper(),
        "target": sight.number_or_none(dialled or call.target),
        "first_hop_at_us": call.first_hop_at_us,
        "last_hop_at_us": call.last_hop_at_us,
        "end": None if call.end is None else words.ended(call.end.call_type),
        "talked_s": None if call.end is None else call.end.on_call_duration_s,
    }


def verification_row(entry: VerificationRecord, sight: Sight = MASKED) -> Row:
    return {
        "call_sid": entry.call_sid,
        "query": urlencode({"call_sid": entry.call_sid}),
        "vn": entry.virtual_number.plus,
        "caller": sight.caller(entry.caller),
        "said": words.entered(entry.outcome),
        "allocation_id": None if entry.allocation_id is None else str(entry.allocation_id),
        "side": None if entry.side is None else side_key(entry.side).upper(),
        "at_us": entry.verified_at_us,
    }


def event_row(event: EventRecord) -> Row:
    endpoint = parse_endpoint(event.endpoint)
    return {
        "id": str(event.id),
        "kind": words.told(event.kind),
        "product": PRODUCTS[event.product],
        "subject": event.subject,
        "seq": event.seq,
        "said": words.state_of_event(event.state),
        "attempts": event.attempts,
        # The rest of an address may have passwords and keys in it.
        "endpoint": None if endpoint is None else endpoint.host,
        "created_at_us": event.created_at_us,
        "due_at_us": event.due_at_us,
        "replayed_at_us": event.replayed_at_us,
        "finished_at_us": event.finished_at_us,
        "last_result": event.last_result,
    }


def line_text(switchboard: Switchboard, tenant: TenantView, number: E164) -> str:
    """What was given as a virtual number: whole if it is one, and masked if it is somebody's."""
    with switchboard.keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
        return number.plus if board.has_virtual_number(number) else str(number)


def allocation_id_text(id: AllocationId) -> str:
    return str(UUID(bytes=id))


def _end_or_none(expires_at_us: int) -> int | None:
    return None if expires_at_us == NEVER_US else expires_at_us
