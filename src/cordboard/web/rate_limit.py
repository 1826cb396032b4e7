"""How often a tenant may ask the REST API: its setting `rate_limit`, per worker process, in memory.

An exact log of what was admitted, so that `100/1m` means at most 100 in any minute, and so that whoever is
refused can be told when to come back. A token bucket would be smaller, but lets nearly twice the count
through in a window; counters of slices hold the count, but refuse a client that keeps exactly to its rate.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from cordboard.routing.tenant import Rate
from cordboard.switchboard.throttle import WINDOW_S_MAX

# One instant takes 32 bytes, so a tenant that uses all of it 320 kB. Who needs more than 10,000 in a minute
# says so by a shorter window: `200/1s`.
REQUESTS_MAX: Final = 10_000


class RateLimiter:
    """Instants of admitted requests by tenant, oldest first, on a clock that never goes back."""

    def __init__(self) -> None:
        # In the order of their last admissions, so that those who are long gone come first.
        self._admitted: dict[str, deque[float]] = {}

    def wait_s(self, tenant_id: str, rate: Rate, now_s: float) -> float:
        """0 if the request may run, which counts it; otherwise how long it must wait, uncounted."""
        self._forget_idle(now_s)
        admitted = self._admitted.get(tenant_id, deque())
        while admitted and admitted[0] + rate.window_s <= now_s:
            admitted.popleft()
        if len(admitted) >= rate.count_max:
            # One may run when the limit-th newest leaves the window.
            return admitted[-rate.count_max] + rate.window_s - now_s
        admitted.append(now_s)
        self._admitted.pop(tenant_id, None)
        self._admitted[tenant_id] = admitted
        return 0.0

    def _forget_idle(self, now_s: float) -> None:
        """Drop the tenants whom no window reaches any more: each once, so this costs next to nothing."""
        while self._admitted:
            tenant_id, admitted = next(iter(self._admitted.items()))
            if admitted[-1] + WINDOW_S_MAX > now_s:
                return
            del self._admitted[tenant_id]
