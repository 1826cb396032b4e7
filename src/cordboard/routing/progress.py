"""How a call moves from hop to hop: what counts as a new entry, and what is remembered of it.

Platforms repeat requests, re-send old digits and lose new ones; these two functions are why
none of that burns an attempt twice (routing.md, The progress of a call).
"""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b
from typing import assert_never

from cordboard.routing.model import (
    AskPin,
    Connect,
    Decision,
    EmptyEntry,
    Entry,
    LastEntry,
    NoEntry,
    PinEntry,
    Progress,
    Refuse,
    RightPin,
    WrongPin,
)
from cordboard.routing.numbers import Pin


class Hop(Enum):
    """What a request of the platform does with keyed digits."""

    PROMPT = "prompt"  # gather: hands out a prompt; may bring digits of an earlier one
    DECISION = "decision"  # passthru, connect: the answer to a prompt, if one is open
    DEAF = "deaf"  # greeting, and a passthru told to ignore digits


DIGEST_BYTES = 16


def digest_of(digits: str) -> bytes:
    """Tells equal entries of one call. It hides nothing: so few digits can all be tried."""
    return blake2b(digits.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()


def clean_digits(text: str | None) -> str:
    """What was keyed in: without the platform's quotes, the finishing `#`, or its word for nothing.

    >>> clean_digits('"0042#"'), clean_digits("null"), clean_digits(None)
    ('0042', '', '')
    """
    if text is None or text == "null":
        return ""
    keyed = text.strip(' "').rstrip("#").strip(' "')
    return "" if keyed == "null" else keyed


def entry_of(progress: Progress, digits: str, hop: Hop) -> Entry:
    """What this hop brings; `digits` are clean."""
    if hop is Hop.DEAF:
        return NoEntry()
    if digits:
        digest = digest_of(digits)
        if digest not in progress.tried:
            return PinEntry(Pin.parse(digits), digest)
    if hop is Hop.DECISION and progress.prompt_open:
        return EmptyEntry()
    return NoEntry()


def after(progress: Progress, entry: Entry, decision: Decision, hop: Hop) -> Progress:
    """What is known of the call once `decision` is answered; the last step of a hop.

    A recorded outcome is not counted here: the record itself says how many there are
    (`with_outcome`), so that the count holds across nodes.
    """
    if isinstance(decision, Connect):
        # Connected without a look at the digits, or by an outcome that is remembered already.
        return progress
    if not isinstance(entry, NoEntry):
        progress = progress._replace(prompt_open=False)
    if isinstance(entry, EmptyEntry):
        progress = progress._replace(empty_entries=progress.empty_entries + 1, last_entry=LastEntry.EMPTY)
    match decision:
        case AskPin() if hop is Hop.PROMPT:
            return progress._replace(prompt_open=True)
        case AskPin() | Refuse():
            return progress
        case unmatched:
            assert_never(unmatched)


def with_outcome(progress: Progress, outcome: RightPin | WrongPin, failures: int) -> Progress:
    """`progress` with one outcome that is recorded; `failures` is the call's count by the record."""
    progress = progress._replace(
        tried=progress.tried | {outcome.digest}, failures=failures, prompt_open=False
    )
    match outcome:
        case RightPin(admission=admission):
            return progress._replace(admission=admission)
        case WrongPin():
            return progress._replace(last_entry=LastEntry.WRONG)
        case unmatched:
            assert_never(unmatched)
