"""Sliding windows over wrong PINs: they limit the guesser, not the victim (routing.md, Wrong PINs)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cordboard.clock import SECOND_US
from cordboard.routing.model import NOT_EXCEEDED, Exceeded
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import Rate, TenantSettings
from cordboard.storage.outcomes import Failure

# Windows are at most a day long (web/schemas.py), and that is how far back failures are read at start.
WINDOW_S_MAX: Final = 86_400

Window = deque[int]


class Throttle:
    """Instants of failures by caller, VN and tenant, oldest first. What is refused for them is not counted,
    so that none grows far beyond its limit."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], Window] = {}
        self._tenants: set[str] = set()

    def restore(self, failures: Iterable[Failure]) -> None:
        """Take up what is on record, after a restart."""
        for failure in failures:
            keys = _keys(failure.tenant_id, failure.virtual_number, failure.caller)
            self._count(failure.tenant_id, keys, failure.at_us)

    def exceeded(
        self,
        tenant_id: str,
        settings: TenantSettings,
        virtual_number: E164,
        caller: E164 | None,
        now_us: int,
    ) -> Exceeded:
        if tenant_id not in self._tenants:
            return NOT_EXCEEDED
        by_caller, by_vn, by_tenant = _keys(tenant_id, virtual_number, caller)
        return Exceeded(
            caller=self._is_full(by_caller, settings.pin_failures_per_caller, now_us),
            shared=self._is_full(by_vn, settings.pin_failures_per_vn, now_us)
            or self._is_full(by_tenant, settings.pin_failures_per_tenant, now_us),
        )

    def count_failure(self, tenant_id: str, virtual_number: E164, caller: E164 | None, now_us: int) -> None:
        """Before the PIN is looked at, so that calls at the same moment cannot share one unit."""
        self._count(tenant_id, _keys(tenant_id, virtual_number, caller), now_us)

    def take_back(
        self, tenant_id: str, virtual_number: E164, caller: E164 | None, counted_at_us: int
    ) -> None:
        """The entry was no failure."""
        for key in _keys(tenant_id, virtual_number, caller):
            if (window := self._windows.get(key)) and counted_at_us in window:
                window.remove(counted_at_us)

    def forget_old(self, now_us: int) -> None:
        """Drop what no window reaches any more."""
        for key, window in list(self._windows.items()):
            while window and window[0] <= now_us - WINDOW_S_MAX * SECOND_US:
                window.popleft()
            if not window:
                del self._windows[key]
        self._tenants = {str(key[1]) for key in self._windows}

    def _count(self, tenant_id: str, keys: Iterable[tuple[object, ...]], at_us: int) -> None:
        self._tenants.add(tenant_id)
        for key in keys:
            self._windows.setdefault(key, deque()).append(at_us)

    def _is_full(self, key: tuple[object, ...], rate: Rate, now_us: int) -> bool:
        window = self._windows.get(key)
        if window is None or len(window) < rate.count_max:
            return False
        # Full exactly when the limit-th newest failure is still inside the window.
        return window[-rate.count_max] > now_us - rate.window_s * SECOND_US


def _keys(
    tenant_id: str, virtual_number: E164, caller: E164 | None
) -> tuple[tuple[object, ...], tuple[object, ...], tuple[object, ...]]:
    # Withheld callers cannot be told apart: they share one window for each VN.
    by_caller = ("withheld", tenant_id, virtual_number) if caller is None else ("caller", tenant_id, caller)
    return by_caller, ("vn", tenant_id, virtual_number), ("tenant", tenant_id)
