"""What clients ask for, product by product: proposed by the core, and a lost race worded in its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from cordboard.routing.allocate import (
    Code,
    Dice,
    Draft,
    Fault,
    Pool,
    Standing,
    propose,
    revise,
    side_key,
)
from cordboard.routing.choose import NumberPool
from cordboard.routing.greenvn import (
    NUMBERS_KEY,
    PINS_KEY,
    GreenVnDraft,
    Preferences,
    RegionOf,
    nothing_free,
    propose_greenvn,
    revise_parties,
    revise_virtual_number,
)
from cordboard.routing.model import Allocation, AllocationId, Product, Side
from cordboard.routing.numbers import E164, Pin, parse_number
from cordboard.routing.tenant import TenantSettings
from cordboard.storage.allocations import ClientIdTaken, NumberTaken, PinTaken, Taken, VirtualNumberBusy


class Wish(Protocol):
    """An allocation that a client wants made."""

    @property
    def product(self) -> Product: ...

    @property
    def client_id(self) -> str | None: ...

    @property
    def client_id_taken(self) -> Fault:
        """What to answer when the client id has an allocation."""
        ...

    @property
    def picks(self) -> bool:
        """Whether the engine picks the VN."""
        ...

    def pair(self, settings: TenantSettings) -> tuple[Sequence[E164], Sequence[E164]]:
        """The people whose earlier VN may matter for the choice, side by side."""
        ...

    def propose(
        self,
        allocation_id: AllocationId,
        tenant_id: str,
        settings: TenantSettings,
        pool: NumberPool,
        dice: Dice,
        now_us: int,
    ) -> Standing:
        """Raises Unacceptable."""
        ...

    def fault_of(self, taken: Taken, becomes: Allocation) -> tuple[Fault, bool]:
        """What to answer when the database refuses, and whether another proposal could do better."""
        ...

    def pool_changed(self) -> tuple[Fault, bool]:
        """As `fault_of`, when a VN of the proposal is not the tenant's any more."""
        ...


class Revision(Protocol):
    """A change of an allocation that a client wants made."""

    def revise(
        self, current: Standing, settings: TenantSettings, pool: NumberPool, dice: Dice, now_us: int
    ) -> Standing:
        """Raises Unacceptable."""
        ...

    def fault_of(self, taken: Taken, becomes: Allocation, was: Allocation) -> tuple[Fault, bool]:
        """As of a Wish; `was` is what the update found."""
        ...

    def pool_changed(self) -> Fault: ...


@dataclass(frozen=True, slots=True)
class GreenPinWish:
    client_id: str
    draft: Draft
    product: Product = Product.GREENPIN
    picks: bool = False

    @property
    def client_id_taken(self) -> Fault:
        return client_id_taken("transaction_id")

    def pair(self, _: TenantSettings) -> tuple[Sequence[E164], Sequence[E164]]:
        return (), ()

    def propose(
        self,
        allocation_id: AllocationId,
        tenant_id: str,
        settings: TenantSettings,
        pool: Pool,
        dice: Dice,
        now_us: int,
    ) -> Standing:
        return propose(allocation_id, tenant_id, self.client_id, self.draft, settings, pool, dice, now_us)

    def fault_of(self, taken: Taken, becomes: Allocation) -> tuple[Fault, bool]:
        return _greenpin_fault(taken, self.draft, becomes, None)

    def pool_changed(self) -> tuple[Fault, bool]:
        return POOL_CHANGED, False


@dataclass(frozen=True, slots=True)
class GreenPinRevision:
    draft: Draft

    def revise(
        self, current: Standing, settings: TenantSettings, pool: Pool, dice: Dice, now_us: int
    ) -> Standing:
        return revise(current, self.draft, settings, pool, dice, now_us)

    def fault_of(self, taken: Taken, becomes: Allocation, was: Allocation) -> tuple[Fault, bool]:
        return _greenpin_fault(taken, self.draft, becomes, was)

    def pool_changed(self) -> Fault:
        return POOL_CHANGED


@dataclass(frozen=True, slots=True)
class GreenVnWish:
    client_id: str
    draft: GreenVnDraft
    region_of: RegionOf
    product: Product = Product.GREENVN
    picks: bool = True

    @property
    def client_id_taken(self) -> Fault:
        return client_id_taken("connection_id")

    def pair(self, settings: TenantSettings) -> tuple[Sequence[E164], Sequence[E164]]:
        a, b = (
            [
                number
                for text in self.draft.party(side).numbers or ()
                if (number := parse_number(text, settings.country)) is not None
            ]
            for side in Side
        )
        return a, b

    def propose(
        self,
        allocation_id: AllocationId,
        tenant_id: str,
        settings: TenantSettings,
        pool: NumberPool,
        dice: Dice,  # noqa: ARG002 - for wishes with PINs to be drawn.
        now_us: int,
    ) -> Standing:
        return propose_greenvn(
            allocation_id, tenant_id, self.client_id, self.draft, settings, pool, self.region_of, now_us
        )

    def fault_of(self, taken: Taken, becomes: Allocation) -> tuple[Fault, bool]:  # noqa: ARG002
        if isinstance(taken, ClientIdTaken):
            return self.client_id_taken, False
        return _no_such_free_number(self.draft.preferences)

    def pool_changed(self) -> tuple[Fault, bool]:
        return _no_such_free_number(self.draft.preferences)


@dataclass(frozen=True, slots=True)
class GreenVnPartiesRevision:
    """Other people, PINs or usage on the VN that it has."""

    draft: GreenVnDraft

    def revise(
        self,
        current: Standing,
        settings: TenantSettings,
        pool: NumberPool,
        dice: Dice,  # noqa: ARG002
        now_us: int,
    ) -> Standing:
        return revise_parties(current, self.draft, settings, pool, now_us)

    def fault_of(
        self,
        taken: Taken,
        becomes: Allocation,
        was: Allocation,  # noqa: ARG002
    ) -> tuple[Fault, bool]:
        match taken:
            case ClientIdTaken():
                return client_id_taken("connection_id"), False
            case NumberTaken(virtual_number, number):
                side = Side.A if number in becomes.a.numbers else Side.B
                return number_taken(NUMBERS_KEY[side], virtual_number, number), False
            case VirtualNumberBusy(virtual_number):
                return virtual_number_busy("greenvn", virtual_number), False
            case PinTaken(virtual_number, pin):
                key = PINS_KEY[Side.A if pin in becomes.a.pins else Side.B]
                message = f"{key}: one of them is already registered on virtual number {virtual_number}."
                return Fault(Code.PIN_OR_NUMBER_TAKEN, key, message), False
            case unmatched:
                assert_never(unmatched)

    def pool_changed(self) -> Fault:
        return POOL_CHANGED


@dataclass(frozen=True, slots=True)
class GreenVnSwap:
    """Another VN for the same people. `faults` are those of the request's form."""

    preferences: Preferences
    faults: tuple[Fault, ...]
    region_of: RegionOf

    def revise(
        self,
        current: Standing,
        settings: TenantSettings,
        pool: NumberPool,
        dice: Dice,  # noqa: ARG002
        now_us: int,
    ) -> Standing:
        return revise_virtual_number(
            current, self.preferences, self.faults, settings, pool, self.region_of, now_us
        )

    def fault_of(
        self,
        taken: Taken,  # noqa: ARG002
        becomes: Allocation,  # noqa: ARG002
        was: Allocation,  # noqa: ARG002
    ) -> tuple[Fault, bool]:
        return _no_such_free_number(self.preferences)

    def pool_changed(self) -> Fault:
        return nothing_free(is_strict=self.preferences.is_strict)


def _no_such_free_number(preferences: Preferences) -> tuple[Fault, bool]:
    """What to answer when the VN that was picked is lost; another will not do if it had to be that one."""
    is_the_only_one = preferences.is_strict and preferences.virtual_number is not None
    return nothing_free(is_strict=preferences.is_strict), not is_the_only_one


POOL_CHANGED: Final = Fault(
    Code.NOT_PERMITTED, "a.vns", "a.vns, b.vns: one of them was just taken out of the tenant's pool."
)


def client_id_taken(field: str) -> Fault:
    # The words of the vendor's page.
    return Fault(Code.CLIENT_ID_TAKEN, field, f"{field}: Allocation exists for this connection id.")


def number_taken(field: str, virtual_number: E164, number: E164) -> Fault:
    message = (
        f"{field}: {number} has a route on virtual number {virtual_number} already, and only"
        " numbers that must enter a PIN there may have several. An allocation made when the"
        " PIN of its side was switched otherwise stands in the way, too."
    )
    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message)


def virtual_number_busy(field: str, virtual_number: E164) -> Fault:
    message = (
        f"{field}: virtual number {virtual_number} has no room: this allocation or one that it bears wants it"
        " alone, or one did a short while ago, or it gets no new allocations."
    )
    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message)


def _greenpin_fault(
    taken: Taken, draft: Draft, becomes: Allocation, was: Allocation | None
) -> tuple[Fault, bool]:
    match taken:
        case ClientIdTaken():
            return client_id_taken("transaction_id"), False
        case NumberTaken(virtual_number, number):
            side = Side.A if number in becomes.a.numbers else Side.B
            return number_taken(f"{side_key(side)}.numbers", virtual_number, number), False
        case VirtualNumberBusy(virtual_number):
            side = Side.A if virtual_number in becomes.a.virtual_numbers else Side.B
            return virtual_number_busy(f"{side_key(side)}.vns", virtual_number), False
        case PinTaken(virtual_number, pin):
            return _pin_fault(virtual_number, pin, draft, becomes, was)
        case unmatched:
            assert_never(unmatched)


def _pin_fault(
    virtual_number: E164, pin: Pin, draft: Draft, becomes: Allocation, was: Allocation | None
) -> tuple[Fault, bool]:
    is_of_a = pin in becomes.a.pins and virtual_number in becomes.a.virtual_numbers
    side = Side.A if is_of_a else Side.B
    given = draft.party(side).pin
    if becomes.common_pin:
        given = draft.a.pin or draft.b.pin
    field = f"{side_key(side)}.pin"
    if given is None and was is not None and pin in was.party(side).pins:
        message = (
            f"{field}: the PIN that it has is already registered on virtual number"
            f" {virtual_number}; another pin or pin_length may be given with the change."
        )
        return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False
    if given is None:
        message = f"{field}: no PIN is free on virtual number {virtual_number}."
        return Fault(Code.NOTHING_FREE, field, message), True
    message = f"{field} is already registered on virtual number {virtual_number}."
    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False
