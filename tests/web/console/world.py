"""A tenant about whom the console has something to tell, and what must not be seen of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.web.shop import AGENT, CUSTOMER, Shop
from tests.web.test_throttles import STRANGER

from .browsing import Seen

PIN = "4821"
MEMBER = "+919800000077"
FIELD = "a custom field"
NOWHERE = "https://user:password@nowhere.invalid/hook?key=hidden"
KEY = "deallocation_callback_event_endpoint"


@dataclass(frozen=True, slots=True)
class World:
    """A shop with an allocation, a member, calls, a wrong PIN and a pending event."""

    shop: Shop
    root: str
    allocation: str
    event: str

    @property
    def pages(self) -> list[str]:
        return [
            "/console",
            "/console/audit",
            self.root,
            self.allocation,
            f"{self.root}/calls?call_sid=wrong",
            f"{self.root}/calls?call_sid=right",
            f"{self.root}/dry-run",
            f"{self.root}/pool",
            f"{self.root}/settings",
            f"{self.root}/settings/{KEY}",
            f"{self.root}/events",
            self.event,
            f"{self.root}/throttles",
        ]


def assert_masked(seen: Seen) -> None:
    """No number of a person and no PIN is anywhere in it, not even in what is hidden or linked."""
    for number in (AGENT, CUSTOMER, STRANGER, MEMBER):
        assert number[3:] not in seen.html, seen.html
    for secret in (PIN, "1111", FIELD, "password", "hidden=", "key=hidden"):
        assert not re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", visible(seen)), secret


def visible(seen: Seen) -> str:
    """Without ids and sealed values, in which four digits may stand by chance."""
    return re.sub(r'(value|href|datetime|action|title)="[^"]{20,}"', "", seen.html)
