"""Requests of a telephony platform as bytes, their parameters in the order of production (exotel.md 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Final
from uuid import uuid4

from cordboard.clock import SECOND_US
from cordboard.simulator.wire import CallFacts, Query, before_dial, encoded, greeting

# 5 January 2026, 10:00 in India.
STARTED_US: Final = 1_767_587_400 * SECOND_US
ASKED_US: Final = STARTED_US + 8 * SECOND_US

APPLETS: Final = ("passthru", "gather", "connect", "greeting")

_SID, _CALLER, _VN, _DIGITS = "CALLSIDHERE", "CALLERHERE", "VNHERE", "DIGITSHERE"


@dataclass(frozen=True, slots=True)
class Hop:
    """Who calls what; `caller` and `virtual_number` are the ten digits after the country code."""

    caller: int
    virtual_number: int
    digits: str = ""


class CallSids:
    """32 hex digits each, never one twice: within a run by their count, between runs by their head."""

    def __init__(self) -> None:
        self._head = uuid4().hex[:20].encode()
        self._count = 0

    def __next__(self) -> bytes:
        self._count += 1
        return b"%b%012x" % (self._head, self._count)

    def __iter__(self) -> Iterator[bytes]:
        return self


class AppletRequests:
    """Requests of one applet. The text is made once and cut where hops differ, so that a request costs the
    generator one join."""

    def __init__(self, tenant: str, key: str, applet: str) -> None:
        # Programmable Connect and Gather say so by a header (exotel.md 1.5).
        version = "Exotel-Version: 1.0\r\n" if applet in {"connect", "gather"} else ""
        text = (
            f"GET /v1/tenants/{tenant}/exotel/{applet}?key={key}&{encoded(_query(applet))} HTTP/1.1\r\n"
            f"Host: 127.0.0.1\r\nUser-Agent: Exotel\r\nAccept: */*\r\n{version}\r\n"
        )
        head, _, self._tail = text.partition(_SID)
        self._head = head.encode()

    def tail(self, hop: Hop) -> bytes:
        """What follows the CallSid."""
        text = self._tail.replace(_CALLER, f"0{hop.caller}").replace(_VN, f"0{hop.virtual_number}")
        return text.replace(_DIGITS, hop.digits).encode()

    def requests(self, call_sids: Iterable[bytes], tails: Iterable[bytes]) -> Iterator[bytes]:
        return map(b"".join, zip(repeat(self._head), call_sids, tails, strict=False))


def _query(applet: str) -> Query:
    facts = CallFacts(_SID, _CALLER, _VN, STARTED_US)
    match applet:
        case "passthru":
            return before_dial(facts, ASKED_US, digits=_DIGITS)
        case "gather" | "connect":
            return before_dial(facts, ASKED_US, call_status="ringing")
        case "greeting":
            return greeting(facts)
        case _:
            raise ValueError(f"no such applet: {applet}")
