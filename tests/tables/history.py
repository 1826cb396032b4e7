"""Made-up feeds: what a cell might tell, in an order in which it could have happened."""

from __future__ import annotations

from random import Random

from cordboard.routing.changes import (
    AllocationReleased,
    AllocationStands,
    Change,
    FeedRow,
    MemberLeft,
    MemberStands,
    TenantStands,
    VirtualNumberStands,
    encode,
)
from cordboard.routing.model import NEVER_US, Allocation, AllocationId, Party, Product, Side, Usage
from cordboard.routing.numbers import E164, Pin

CELL = 7
TENANT_NO = 3
VNS = tuple(E164(918000000010 + n) for n in range(3))
NUMBERS = tuple(E164(919800000020 + n) for n in range(6))


def history(seed: int, length: int) -> list[FeedRow]:
    """`length` rows of one cell; the same ones for the same seed."""
    dice = Random(seed)
    rows = []
    standing: dict[AllocationId, tuple[int, Allocation]] = {}
    members: dict[tuple[AllocationId, E164], Side] = {}
    first: list[Change] = [
        TenantStands(TENANT_NO, "acme", CELL, {"country": "IN"}, ("00" * 32,), ()),
        *(VirtualNumberStands(TENANT_NO, number) for number in VNS),
    ]
    for n in range(1, length + 1):
        change = first[n - 1] if n <= len(first) else _next(dice, n, standing, members)
        rows.append(FeedRow(CELL, n, dice.getrandbits(63), *encode(change)))
    return rows


def _next(
    dice: Random,
    n: int,
    standing: dict[AllocationId, tuple[int, Allocation]],
    members: dict[tuple[AllocationId, E164], Side],
) -> Change:
    what = dice.random()
    if what < 0.35 or not standing:
        id = AllocationId(n.to_bytes(16, "big"))
        standing[id] = (1, _allocation(dice, id, n))
        return AllocationStands(TENANT_NO, 1, standing[id][1])
    id = dice.choice(sorted(standing))
    version, allocation = standing[id]
    if what < 0.55:
        standing[id] = (version + 1, _allocation(dice, id, n))
        return AllocationStands(TENANT_NO, version + 1, standing[id][1])
    if what < 0.7:
        del standing[id]
        for key in [key for key in members if key[0] == id]:
            del members[key]
        return AllocationReleased(TENANT_NO, version + 1, id)
    number = dice.choice(NUMBERS)
    if what < 0.8 and (id, number) in members:
        del members[id, number]
        return MemberLeft(TENANT_NO, id, number)
    side = members.setdefault((id, number), dice.choice(list(Side)))
    return MemberStands(TENANT_NO, id, number, side, n, True, allocation.party(side).virtual_numbers)


def _allocation(dice: Random, id: AllocationId, n: int) -> Allocation:
    numbers = dice.sample(NUMBERS, 4)
    # PINs are unique in the feed as they are in the database.
    a, b = (
        Party(
            numbers=tuple(numbers[side * 2 : side * 2 + dice.randint(0, 2)]),
            virtual_numbers=tuple(dice.sample(VNS, dice.randint(1, 3))),
            pins=dice.choice([(Pin(f"{n}{side}"),), (Pin(f"{n}{side}"), Pin(f"9{n}{side}")), ()]),
            listed_need_pin=True,
        )
        for side in Side
    )
    return Allocation(
        id, Product.GREENPIN, dice.choice(list(Usage)), dice.choice([n, NEVER_US]), a, b, False, False
    )
