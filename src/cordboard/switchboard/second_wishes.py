"""What clients of the second generation ask for, of either product; a lost race worded in their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from cordboard.routing.allocate import Code, Dice, Fault, Pool, Standing
from cordboard.routing.model import Allocation, AllocationId, Product, Side
from cordboard.routing.numbers import E164
from cordboard.routing.second_generation import SecondDraft, field_of, propose, revise
from cordboard.routing.tenant import TenantSettings
from cordboard.storage.allocations import ClientIdTaken, NumberTaken, PinTaken, Taken, VirtualNumberBusy
from cordboard.switchboard.wishes import POOL_CHANGED


@dataclass(frozen=True, slots=True)
class SecondWish:
    product: Product
    draft: SecondDraft
    # The client names the VN.
    picks: bool = False

    def pair(self, settings: TenantSettings) -> tuple[Sequence[E164], Sequence[E164]]:
        del settings
        return (), ()

    def pool_changed(self) -> tuple[Fault, bool]:
        return POOL_CHANGED, False

    @property
    def client_id(self) -> None:
        """This generation knows none."""
        return None

    @property
    def client_id_taken(self) -> Fault:
        raise AssertionError("what has no client id cannot have a taken one")

    def propose(
        self,
        allocation_id: AllocationId,
        tenant_id: str,
        settings: TenantSettings,
        pool: Pool,
        dice: Dice,
        now_us: int,
    ) -> Standing:
        return propose(self.product, allocation_id, tenant_id, self.draft, settings, pool, dice, now_us)

    def fault_of(self, taken: Taken, becomes: Allocation) -> tuple[Fault, bool]:
        return _fault_of(taken, becomes)


@dataclass(frozen=True, slots=True)
class SecondRevision:
    draft: SecondDraft

    def pool_changed(self) -> Fault:
        return POOL_CHANGED

    def revise(
        self, current: Standing, settings: TenantSettings, pool: Pool, dice: Dice, now_us: int
    ) -> Standing:
        del dice  # The PIN stays.
        return revise(current, self.draft, settings, pool, now_us)

    def fault_of(self, taken: Taken, becomes: Allocation, was: Allocation) -> tuple[Fault, bool]:
        del was
        return _fault_of(taken, becomes)


def _fault_of(taken: Taken, becomes: Allocation) -> tuple[Fault, bool]:
    match taken:
        case NumberTaken(virtual_number, number):
            return _number_taken(virtual_number, number, becomes), False
        case VirtualNumberBusy(virtual_number):
            field = "caller_id_number"
            # The page's own words come first.
            message = (
                f"{field}: the virtual number {virtual_number} is already allocated to another active"
                " allocation, or was a short while ago."
            )
            return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False
        case PinTaken(virtual_number):
            message = f"pin: no PIN is free on virtual number {virtual_number}."
            return Fault(Code.NOTHING_FREE, "pin", message), True
        case ClientIdTaken():
            raise AssertionError("what has no client id cannot have a taken one")
        case unmatched:
            assert_never(unmatched)


def _number_taken(virtual_number: E164, number: E164, becomes: Allocation) -> Fault:
    field = field_of(Side.A if number in becomes.a.numbers else Side.B)
    message = (
        f"{field}: {number} has a route on virtual number {virtual_number} already, or had one a short while"
        " ago; only numbers that must enter a PIN there may have several."
    )
    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message)
