"""What the engine decided, in the words of the person on call: what happened, and what to look at.

Every reason has its sentence here, and the type checker sees to it that a new one gets one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never

from cordboard.routing.explain import Relation
from cordboard.routing.model import (
    AskPin,
    Connect,
    Decision,
    LastEntry,
    Matched,
    Reason,
    Refuse,
    State,
)
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.calls import NO_APPLET, CallType
from cordboard.storage.events import AttemptError, EventState
from cordboard.storage.facts import EventKind
from cordboard.storage.listing import HopRecord

Tone = Literal["good", "ask", "bad", "plain"]


class Said(NamedTuple):
    """`tone` is how the page shows it, beside the words that say it."""

    tone: Tone
    short: str
    why: str
    # What to look at or to do; nothing where there is nothing to do.
    advice: str = ""


def decided(decision: Decision) -> Said:
    match decision:
        case Connect(matched=matched):
            return connected(matched)
        case AskPin(attempts_left=attempts_left, last_entry=last_entry):
            return asked(last_entry, attempts_left)
        case Refuse(reason=reason):
            return refused(reason)
        case unmatched:
            assert_never(unmatched)


def recorded(decision: str, reason: str | None, matched: str | None) -> Said:
    """The decision of a record, whose words may be of an engine older or newer than this one."""
    try:
        match decision:
            case "connect":
                return connected(Matched(matched))
            case "ask_pin":
                return Said("ask", "Asked for a PIN", "The caller was asked for a PIN.")
            case _:
                return refused(Reason(reason))
    except ValueError:
        return Said("plain", decision, f"This engine does not know the word {reason or matched}.")


def applet(name: str) -> str:
    """Who asked at a hop; a hop that nobody asked for was derived from how the call ended."""
    return "Derived" if name == NO_APPLET else name.capitalize()


def hop(kept: HopRecord) -> Said:
    """What one hop was answered, likewise."""
    try:
        match kept.decision:
            case "connect":
                return connected(Matched(kept.reason))
            case "ask_pin":
                return asked(LastEntry(kept.reason), kept.attempts_left or 0)
            case _:
                return refused(Reason(kept.reason))
    except ValueError:
        return Said("plain", kept.decision, f"This engine does not know the word {kept.reason}.")


def connected(matched: Matched) -> Said:
    match matched:
        case Matched.LISTED:
            why = "The caller's number is listed on the allocation, and needs no PIN on this virtual number."
        case Matched.MEMBER:
            why = "The caller joined the allocation by PIN before, so the number alone is enough."
        case Matched.PIN:
            why = "The PIN that was entered belongs to a side that this caller may speak for."
        case Matched.VERIFIED_BEFORE:
            why = "The right PIN was entered earlier in this same call."
        case unmatched:
            assert_never(unmatched)
    return Said("good", "Connected", why)


def asked(last_entry: LastEntry, attempts_left: int) -> Said:
    left = "1 attempt is left" if attempts_left == 1 else f"{attempts_left} attempts are left"
    match last_entry:
        case LastEntry.NONE:
            why = f"No number alone settles who is meant, and there is a PIN to enter; {left}."
        case LastEntry.WRONG:
            why = f"The PIN before was wrong; {left}."
        case LastEntry.EMPTY:
            why = f"Nothing was keyed in at the prompt before; {left}."
        case unmatched:
            assert_never(unmatched)
    return Said("ask", "Asked for a PIN", why)


def refused(reason: Reason) -> Said:
    """Why was I refused?"""
    match reason:
        case Reason.UNKNOWN_VN:
            return Said(
                "bad",
                "Refused: unknown virtual number",
                "The number that was dialled is not a virtual number of this tenant.",
                "See whether it is in the pool, and whether the flow's URL names the right tenant.",
            )
        case Reason.NO_ALLOCATION:
            why = "No live allocation on this virtual number fits this caller, and none has a PIN to enter."
            advice = "Find the caller's number: its allocation may have ended, or stand on another number."
            return Said("bad", "Refused: no allocation", why, advice)
        case Reason.WRONG_PIN:
            why = "As many wrong PINs were entered in this call as it may have (max_pin_attempts)."
            advice = "Compare what the caller was told with the allocation. A new call has new attempts."
            return Said("bad", "Refused: wrong PINs", why, advice)
        case Reason.NO_INPUT:
            why = "The caller was prompted and no digits arrived, or the request had no CallSid."
            advice = "If callers do key in digits, look at the flow: Gather must hand them to the Passthru."
            return Said("bad", "Refused: nothing keyed in", why, advice)
        case Reason.DIRECTION:
            why = "The allocation is one-way: side A may call side B, and this caller is of side B."
            advice = "If both shall call, the client changes its usage to twoway."
            return Said("bad", "Refused: not in this direction", why, advice)
        case Reason.LOCKED:
            why = "Too many wrong PINs have locked this allocation for side B."
            advice = "The client unlocks it with any update of the allocation."
            return Said("bad", "Refused: locked", why, advice)
        case Reason.THROTTLED:
            why = "A window of wrong PINs is full: the caller's, the virtual number's or the tenant's."
            advice = "Look at Throttles. Clear a window only if you know who filled it."
            return Said("bad", "Refused: throttled", why, advice)
        case Reason.NO_TARGET:
            why = "The caller was recognised, but the other side has no number yet."
            advice = "The client adds a number, or somebody joins the other side with its PIN."
            return Said("bad", "Refused: nobody to call", why, advice)
        case Reason.WITHHELD:
            why = "The caller hid the number, and this tenant refuses such calls (withheld_callers)."
            advice = "With the setting at `pin` they may enter a PIN."
            return Said("bad", "Refused: number withheld", why, advice)
        case unmatched:
            assert_never(unmatched)


def entered(outcome: str) -> Said:
    """The outcome of one PIN entry on record."""
    if outcome == "success":
        return Said("good", "Right PIN", "The caller entered a PIN that fits.")
    return Said("bad", "Wrong PIN", "What was keyed in fits no side that this caller may speak for.")


def ended(call_type: str) -> str:
    """How a call ended, of which a record has the platform's word, or `unknown`."""
    try:
        known = CallType(call_type)
    except ValueError:
        return "The platform never told how the call ended."
    match known:
        case CallType.COMPLETED:
            return "Both talked."
        case CallType.INCOMPLETE:
            return "The other side was dialled, and nobody answered."
        case CallType.CLIENT_HANGUP:
            return "The caller hung up before anybody answered."
        case CallType.VOICEMAIL:
            return "A voicemail answered."
        case unmatched:
            assert_never(unmatched)


def related(relation: Relation) -> str:
    match relation:
        case Relation.LISTED:
            return "the caller is listed on it"
        case Relation.MEMBER:
            return "the caller joined it by PIN"
        case Relation.PIN:
            return "the PIN entered is its PIN"
        case Relation.OFFERED:
            return "the caller could enter its PIN"
        case unmatched:
            assert_never(unmatched)


def state_of_allocation(state: State) -> Said:
    match state:
        case State.ACTIVE:
            return Said("good", "Active", "Calls are routed by it.")
        case State.VAULT:
            return Said("plain", "Vault", "It has ended; no call is routed by it.")
        case unmatched:
            assert_never(unmatched)


def state_of_event(state: EventState) -> Said:
    match state:
        case EventState.PENDING:
            return Said("ask", "Pending", "It is yet to be delivered.")
        case EventState.DELIVERED:
            return Said("good", "Delivered", "The subscriber took it.")
        case EventState.DEAD:
            return Said("bad", "Dead", "Nobody took it in time; it can be replayed.")
        case unmatched:
            assert_never(unmatched)


def told(kind: EventKind) -> str:
    match kind:
        case EventKind.CALL_COMPLETED:
            return "Call completed"
        case EventKind.DEALLOCATED:
            return "Deallocation"
        case EventKind.VERIFIED:
            return "Verified"
        case EventKind.VERIFICATION_FAILED:
            return "Failed verification"
        case unmatched:
            assert_never(unmatched)


def failed(error: AttemptError) -> str:
    match error:
        case AttemptError.REFUSED:
            return "The endpoint answered with something other than success."
        case AttemptError.TIMED_OUT:
            return "The endpoint did not answer in time."
        case AttemptError.UNREACHABLE:
            return "No connection to the endpoint could be made."
        case AttemptError.FORBIDDEN:
            return "The address is one where events may not go (CORDBOARD_CALLBACK_ALLOW)."
        case AttemptError.BAD_ENDPOINT:
            return "The tenant's setting is no http or https address."
        case AttemptError.NOT_WORDED:
            return "This engine cannot word the event's facts."
        case AttemptError.EXPIRED:
            return "The endpoint was down until the event was too old; nobody was asked."
        case unmatched:
            assert_never(unmatched)


def acted(act: Act, kind: ObjectKind) -> str:
    match act:
        case Act.LOGGED_IN:
            return "Logged in"
        case Act.LOGGED_OUT:
            return "Logged out"
        case Act.REVEALED:
            return f"Revealed numbers and PINs: {kind.value}"
        case Act.REPLAYED:
            return f"Replayed: {kind.value}"
        case Act.THROTTLE_CLEARED:
            return "Cleared throttles"
        case Act.SETTINGS_CHANGED:
            return "Changed a setting"
        case unmatched:
            assert_never(unmatched)
