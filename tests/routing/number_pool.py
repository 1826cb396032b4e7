"""A pool of VNs as plain lists: what `routing.choose` asks, answered by looking at everything."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from cordboard.routing.choose import Kind
from cordboard.routing.numbers import E164, Pin


def line_of(number: E164) -> bytes:
    return int(number).to_bytes(8, "big")


@dataclass(frozen=True)
class Vn:
    number: E164
    region: str | None = None
    type: str | None = None
    load: int = 0
    is_reserved: bool = False
    is_drained: bool = False
    exclusive: int = 0

    @property
    def is_open(self) -> bool:
        return not (self.is_reserved or self.is_drained or self.exclusive)


@dataclass(frozen=True)
class ListedPool:
    """`routing.choose.NumberPool`. `ended` are (VN, number or PIN) whose allocations have ended."""

    vns: tuple[Vn, ...]
    occupied: frozenset[tuple[E164, E164]] = frozenset()
    held: frozenset[tuple[E164, Pin]] = frozenset()
    ended: frozenset[tuple[E164, E164 | Pin]] = frozenset()
    avoided: frozenset[E164] = frozenset()
    last_of_pair: E164 | None = None
    others: frozenset[E164] = field(default_factory=frozenset)

    def but(self, **changed: object) -> ListedPool:
        return replace(self, **changed)  # type: ignore[arg-type]

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return self.virtual_number(virtual_number) is not None

    def is_drained(self, virtual_number: E164) -> bool:
        state = self.virtual_number(virtual_number)
        return state is not None and state.is_drained

    def is_provisioned(self, number: E164) -> bool:
        return self.has_virtual_number(number) or number in self.others

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:
        return (virtual_number, pin) in self.held

    def virtual_number(self, virtual_number: E164) -> Vn | None:
        return next((vn for vn in self.vns if vn.number == virtual_number), None)

    def line(self, virtual_number: E164) -> bytes | None:
        return line_of(virtual_number) if self.has_virtual_number(virtual_number) else None

    def open_kinds(self) -> Iterable[Kind]:
        return list(dict.fromkeys((vn.region, vn.type) for vn in self.vns if vn.is_open))

    def open_numbers(self, kind: Kind, blocked: AbstractSet[bytes]) -> list[tuple[int, bytes, E164]]:
        return sorted(
            (vn.load, line_of(vn.number), vn.number)
            for vn in self.vns
            if vn.is_open and (vn.region, vn.type) == kind and line_of(vn.number) not in blocked
        )

    def occupied_by(self, number: E164) -> set[bytes]:
        # The lines of other tenants are on the board, too.
        return {line_of(vn) for vn, who in self.occupied if who == number} | {b"foreign"}

    def holding(self, pin: Pin) -> set[bytes]:
        return {line_of(vn) for vn, what in self.held if what == pin}

    def occupied_for_sure_by(self, number: E164) -> set[bytes]:
        return {line_of(vn) for vn, who in self.occupied if who == number and (vn, who) not in self.ended}

    def surely_holding(self, pin: Pin) -> set[bytes]:
        return {line_of(vn) for vn, what in self.held if what == pin and (vn, what) not in self.ended}
