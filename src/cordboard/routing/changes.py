"""What the feed carries: one change as the full new state of one thing, so that applying it twice
is harmless. Written by `storage`, applied to the board by `tables`; both import only this.

The body is JSON with short keys: it is stored for every change and read by every node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, assert_never

from cordboard.routing.model import (
    Allocation,
    AllocationId,
    CallPolicy,
    Party,
    Product,
    Side,
    ThrottleScope,
    Usage,
)
from cordboard.routing.numbers import E164, Pin


@dataclass(frozen=True, slots=True)
class AllocationStands:
    """Made or updated; `allocation.has_members` is the board's to know and not carried."""

    tenant_no: int
    version: int
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class AllocationReleased:
    """Its routes, PINs and members are gone with it."""

    tenant_no: int
    version: int
    allocation_id: AllocationId


@dataclass(frozen=True, slots=True)
class MemberStands:
    """Joined, or its routes changed with the side's VNs."""

    tenant_no: int
    allocation_id: AllocationId
    number: E164
    side: Side
    joined_at_us: int
    needs_pin: bool
    virtual_numbers: tuple[E164, ...]


@dataclass(frozen=True, slots=True)
class MemberLeft:
    tenant_no: int
    allocation_id: AllocationId
    number: E164


@dataclass(frozen=True, slots=True)
class VirtualNumberStands:
    """In the pool; a reserved one is given by name only, a drained one no more."""

    tenant_no: int
    number: E164
    region: str | None = None
    type: str | None = None
    is_reserved: bool = False
    is_drained: bool = False


@dataclass(frozen=True, slots=True)
class VirtualNumberGone:
    tenant_no: int
    number: E164


@dataclass(frozen=True, slots=True)
class TenantStands:
    """`settings` are as the client gave them; digests are SHA-256, hex."""

    tenant_no: int
    tenant_id: str
    cell: int
    settings: dict[str, Any]
    api_token_digests: tuple[str, ...]
    applet_key_digests: tuple[str, ...]
    # Of the API tokens, those to which numbers and PINs are shown whole.
    revealing_digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantGone:
    tenant_id: str


@dataclass(frozen=True, slots=True)
class PinFailed:
    """A wrong PIN on record, for the sliding windows of every node; the board has no use for it."""

    tenant_id: str
    virtual_number: E164
    caller: E164 | None
    # Names the entry among all: who counted it already does not count it again.
    entry: bytes
    at_us: int


@dataclass(frozen=True, slots=True)
class ThrottleCleared:
    """An operator lifted windows: failures until `at_us` count no more in them. No scope: in all of them."""

    tenant_id: str
    scope: ThrottleScope | None
    number: E164 | None
    at_us: int


Change = (
    AllocationStands
    | AllocationReleased
    | MemberStands
    | MemberLeft
    | VirtualNumberStands
    | VirtualNumberGone
    | TenantStands
    | TenantGone
    | PinFailed
    | ThrottleCleared
)


WindowChange = PinFailed | ThrottleCleared | TenantGone
"""What the windows of wrong PINs follow."""

# The same as kinds of rows.
WINDOW_KINDS: Final = frozenset({"pin_failed", "throttle_cleared", "tenant_gone"})


class FeedRow(NamedTuple):
    """A change in its place: the `n`th of its cell."""

    cell: int
    n: int
    tag: int
    kind: str
    body: str


class KnownRow(NamedTuple):
    """A feed row whose change is at hand, because this process has written it; none for the windows."""

    cell: int
    n: int
    tag: int
    change: Change


def encode(change: Change) -> tuple[str, str]:
    """The feed row of a change: (kind, body)."""
    match change:
        case AllocationStands(tenant_no, version, allocation):
            return "allocation", _dump(
                {
                    "t": tenant_no,
                    "v": version,
                    "id": allocation.id.hex(),
                    "p": allocation.product.value,
                    "u": allocation.usage.value,
                    "x": allocation.expires_at_us,
                    "a": _party_to_json(allocation.a),
                    "b": _party_to_json(allocation.b),
                    "c": allocation.common_pin,
                    "e": allocation.is_exclusive,
                    "l": allocation.is_locked,
                    "r": allocation.policy.record,
                    "f": allocation.policy.custom_field,
                }
            )
        case AllocationReleased(tenant_no, version, allocation_id):
            return "released", _dump({"t": tenant_no, "v": version, "id": allocation_id.hex()})
        case MemberStands():
            return "member", _dump(
                {
                    "t": change.tenant_no,
                    "id": change.allocation_id.hex(),
                    "n": int(change.number),
                    "s": int(change.side),
                    "j": change.joined_at_us,
                    "q": change.needs_pin,
                    "vn": [int(number) for number in change.virtual_numbers],
                }
            )
        case MemberLeft(tenant_no, allocation_id, number):
            return "left", _dump({"t": tenant_no, "id": allocation_id.hex(), "n": int(number)})
        case VirtualNumberStands(tenant_no, number, region, type, is_reserved, is_drained):
            return "vn", _dump(
                {
                    "t": tenant_no,
                    "n": int(number),
                    "region": region,
                    "type": type,
                    "reserved": is_reserved,
                    "drained": is_drained,
                }
            )
        case VirtualNumberGone(tenant_no, number):
            return "vn_gone", _dump({"t": tenant_no, "n": int(number)})
        case TenantStands():
            return "tenant", _dump(
                {
                    "t": change.tenant_no,
                    "id": change.tenant_id,
                    "cell": change.cell,
                    "settings": change.settings,
                    "tokens": change.api_token_digests,
                    "keys": change.applet_key_digests,
                    "reveal": change.revealing_digests,
                }
            )
        case TenantGone(tenant_id):
            return "tenant_gone", _dump({"id": tenant_id})
        case PinFailed(tenant_id, virtual_number, caller, entry, at_us):
            return "pin_failed", _dump(
                {"id": tenant_id, "vn": int(virtual_number), "n": caller or 0, "e": entry.hex(), "at": at_us}
            )
        case ThrottleCleared(tenant_id, scope, number, at_us):
            word = None if scope is None else scope.value
            return "throttle_cleared", _dump({"id": tenant_id, "s": word, "n": number or 0, "at": at_us})
        case unmatched:
            assert_never(unmatched)


def decode(kind: str, body: str | bytes) -> Change:
    """The change of a feed row. Raises ValueError for a kind that this version does not know."""
    row = json.loads(body)
    match kind:
        case "allocation":
            allocation = Allocation(
                id=AllocationId(bytes.fromhex(row["id"])),
                product=Product(row["p"]),
                usage=Usage(row["u"]),
                expires_at_us=row["x"],
                a=_party_from_json(row["a"]),
                b=_party_from_json(row["b"]),
                common_pin=row["c"],
                has_members=False,
                is_exclusive=row["e"],
                is_locked=row["l"],
                policy=CallPolicy(row["r"], row["f"]),
            )
            return AllocationStands(row["t"], row["v"], allocation)
        case "released":
            return AllocationReleased(row["t"], row["v"], AllocationId(bytes.fromhex(row["id"])))
        case "member":
            return MemberStands(
                row["t"],
                AllocationId(bytes.fromhex(row["id"])),
                E164(row["n"]),
                Side(row["s"]),
                row["j"],
                row["q"],
                tuple(map(E164, row["vn"])),
            )
        case "left":
            return MemberLeft(row["t"], AllocationId(bytes.fromhex(row["id"])), E164(row["n"]))
        case "vn":
            return VirtualNumberStands(
                row["t"], E164(row["n"]), row["region"], row["type"], row["reserved"], row["drained"]
            )
        case "vn_gone":
            return VirtualNumberGone(row["t"], E164(row["n"]))
        case "tenant":
            return TenantStands(
                row["t"],
                row["id"],
                row["cell"],
                row["settings"],
                tuple(row["tokens"]),
                tuple(row["keys"]),
                tuple(row["reveal"]),
            )
        case "tenant_gone":
            return TenantGone(row["id"])
        case "pin_failed":
            caller = E164(row["n"]) if row["n"] else None
            return PinFailed(row["id"], E164(row["vn"]), caller, bytes.fromhex(row["e"]), row["at"])
        case "throttle_cleared":
            scope = None if row["s"] is None else ThrottleScope(row["s"])
            return ThrottleCleared(row["id"], scope, E164(row["n"]) if row["n"] else None, row["at"])
        case _:
            raise ValueError(f"unknown kind of change in the feed: {kind!r}")


def _party_to_json(party: Party) -> dict[str, Any]:
    return {
        "n": [int(number) for number in party.numbers],
        "vn": [int(number) for number in party.virtual_numbers],
        "pins": [pin.digits for pin in party.pins],
        "q": party.listed_need_pin,
    }


def _party_from_json(row: dict[str, Any]) -> Party:
    return Party(
        numbers=tuple(map(E164, row["n"])),
        virtual_numbers=tuple(map(E164, row["vn"])),
        pins=tuple(map(Pin, row["pins"])),
        listed_need_pin=row["q"],
    )


# Made once: `json.dumps` makes one for each text that is not in its usual form.
_dump: Final = json.JSONEncoder(separators=(",", ":")).encode
