"""Call records: the last decision of each call, its one end, and the event of that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.allocate import Standing
from cordboard.routing.model import (
    AskPin,
    Connect,
    Decision,
    LastEntry,
    Matched,
    Product,
    Reason,
    Refuse,
    Side,
)
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import (
    CallbackTimeFormat,
    CallbackTo,
    MissingRecording,
    TenantSettings,
    parse_settings,
)
from cordboard.storage import calls, listing
from cordboard.storage.calls import (
    HOPS_CHARACTERS_MAX,
    SILENT_AFTER_US,
    SILENT_SINCE_US,
    CallRow,
    CallType,
    NewEnd,
)
from cordboard.storage.facts import CallCompletedFacts, EventKind, Insights, facts_of
from cordboard.storage.listing import CallFilter, HopRecord, Span
from cordboard.storage.outcomes import CallKey
from tests.storage.office import ANN, BEN, CAT, NOW_US, Office

ASKED = AskPin(4, 3, LastEntry.NONE)
LENGTH_OF_HOPS = "SELECT length(hops::text) AS length FROM call WHERE cell = $1"


def connected(standing: Standing, target: E164 = BEN, side: Side = Side.A) -> Connect:
    virtual_number = standing.allocation.a.virtual_numbers[0]
    return Connect(standing.allocation.id, Product.GREENPIN, side, (target,), virtual_number, Matched.LISTED)


def row(
    office: Office, decision: Decision, at_us: int = NOW_US, call_sid: str = "sid", **call: Any
) -> CallRow:
    key = CallKey(office.tenant.id, call_sid, call.get("vn", office.vn), call.get("caller", ANN))
    return CallRow(key, decision, at_us)


def end(office: Office, call_sid: str = "sid", **what: Any) -> NewEnd:
    return NewEnd(
        **{
            "tenant_id": office.tenant.id,
            "call_sid": call_sid,
            "settings": TenantSettings(),
            "call_type": CallType.COMPLETED,
            "dial_call_status": "completed",
            "dialled": BEN,
            "dial_call_duration_s": 17,
            "on_call_duration_s": 12,
            "recording_url": None,
            "start_time": None,
            "at_us": NOW_US,
            **what,
        }
    )


async def write(office: Office, *rows: CallRow) -> None:
    await office.database.write(lambda connection: calls.write_rows(connection, office.cell, rows))


async def finish(office: Office, *ends: NewEnd) -> None:
    await office.database.write(lambda connection: calls.record_ends(connection, office.cell, ends, NOW_US))


async def kept(office: Office) -> list[tuple[Any, ...]]:
    rows = await office.fetch(
        "SELECT call_sid, caller, decision, first_hop_at, last_hop_at FROM call WHERE cell = $1"
        " ORDER BY call_sid, caller"
    )
    return [tuple(row) for row in rows]


async def hops(office: Office) -> list[HopRecord]:
    """Those of the one call that there is."""
    page = await office.database.read_snapshot(
        lambda connection: listing.list_calls(
            connection, office.cell, office.tenant.id, CallFilter(), Span(0, NOW_US + SECOND_US), None, 10
        )
    )
    [call] = page.items
    return list(call.hops)


async def ends(office: Office) -> dict[str, str]:
    rows = await office.fetch("SELECT call_sid, call_type FROM call_end WHERE cell = $1")
    return {row["call_sid"]: row["call_type"] for row in rows}


# ── rows ─────────────────────────────────────────────────────────────────────


async def test_the_last_decision_stands_and_the_first_hop_keeps_its_time(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, ASKED, NOW_US), row(office, ASKED, NOW_US + 1))
    await write(office, row(office, connected(standing), NOW_US + 2))
    times = (to_datetime(NOW_US + 1), to_datetime(NOW_US + 2))
    assert await kept(office) == [("sid", ANN, "connect", *times)]


async def test_a_row_that_comes_late_adds_its_hop_and_decides_nothing(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing), NOW_US + 2))
    await write(office, row(office, Refuse(Reason.WRONG_PIN), NOW_US + 1))
    assert [(kept[2], kept[4]) for kept in await kept(office)] == [("connect", to_datetime(NOW_US + 2))]
    assert await hops(office) == [
        HopRecord(NOW_US + 1, "none", "refuse", "wrong_pin", None),
        HopRecord(NOW_US + 2, "none", "connect", "listed", None),
    ]


async def test_every_hop_is_kept_once_however_often_it_is_written(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    asked_again = AskPin(4, 2, LastEntry.WRONG)
    rows = [
        row(office, ASKED, NOW_US)._replace(applet="passthru"),
        row(office, asked_again, NOW_US + 1)._replace(applet="gather"),
        row(office, connected(standing), NOW_US + 2),
    ]
    await write(office, *rows)
    await write(office, *rows[1:])
    assert await hops(office) == [
        HopRecord(NOW_US, "passthru", "ask_pin", "none", 3),
        HopRecord(NOW_US + 1, "gather", "ask_pin", "wrong", 2),
        HopRecord(NOW_US + 2, "none", "connect", "listed", None),
    ]


async def test_a_call_that_goes_on_for_ever_does_not_grow_for_ever(office: Office) -> None:
    for n in range(HOPS_CHARACTERS_MAX // len('"1767225600000000": "none ask_pin none 3", ') + 3):
        await write(office, row(office, ASKED, NOW_US + n))
    [length] = [row["length"] for row in await office.fetch(LENGTH_OF_HOPS)]
    assert HOPS_CHARACTERS_MAX <= length < HOPS_CHARACTERS_MAX + 50
    [(_, _, _, _, last_hop_at)] = await kept(office)
    assert last_hop_at == to_datetime(NOW_US + n)


async def test_a_call_that_was_recorded_before_hops_were_has_none(office: Office) -> None:
    await write(office, row(office, ASKED))
    await office.database.write(
        lambda connection: connection.execute("UPDATE call SET hops = NULL WHERE cell = $1", office.cell)
    )
    assert await hops(office) == []
    await write(office, row(office, ASKED, NOW_US + 1))
    assert [hop.at_us for hop in await hops(office)] == [NOW_US + 1]


async def test_each_caller_of_a_call_sid_has_a_row_and_withheld_is_one(office: Office) -> None:
    await write(office, row(office, ASKED), row(office, ASKED, caller=BEN), row(office, ASKED, caller=None))
    await write(office)
    assert [kept[1] for kept in await kept(office)] == [0, ANN, BEN]


# ── ends ─────────────────────────────────────────────────────────────────────


async def test_the_first_end_of_a_call_sid_stands_and_is_told_once(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing)))
    await finish(office, end(office), end(office, call_type=CallType.INCOMPLETE))
    await finish(office, end(office, call_type=CallType.CLIENT_HANGUP))
    assert await ends(office) == {"sid": "completed"}
    [event] = await office.events("call_completed")
    assert (event["transaction_id"], event["call_type"]) == (standing.client_id, "completed")
    assert (event["caller"], event["called"], event["virtual_number"]) == (ANN, BEN, office.vn)


async def test_ends_reported_at_the_same_moment_are_one(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing)))
    await asyncio.gather(*(finish(office, end(office, call_type=kind)) for kind in CallType))
    assert len(await ends(office)) == 1
    assert len(await office.events("call_completed")) == 1


async def test_a_call_without_an_allocation_ends_without_an_event(office: Office) -> None:
    await write(office, row(office, Refuse(Reason.NO_ALLOCATION)))
    await finish(office, end(office), end(office, "never seen"))
    assert await ends(office) == {"sid": "completed", "never seen": "completed"}
    assert await office.events("call_completed") == []


async def test_an_end_brings_the_row_that_was_not_written_yet(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, ASKED))
    waiting = row(office, connected(standing), NOW_US + 1)
    await finish(office, end(office, waiting=waiting, dialled=None))
    [event] = await office.events("call_completed")
    # What the platform did not say it dialled is what it was told to dial.
    assert event["called"] == BEN


async def test_the_board_speaks_for_a_call_whose_record_a_crash_has_taken(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await finish(office, end(office, derived=row(office, connected(standing))))
    assert len(await office.events("call_completed")) == 1
    assert [kept[2] for kept in await kept(office)] == ["connect"]


async def test_a_record_wins_over_what_the_board_says_now(office: Office) -> None:
    then = await office.made([ANN], [BEN])
    now = await office.made([CAT], [], a_pin="1", b_pin="2")
    await write(office, row(office, connected(then)))
    await finish(office, end(office, derived=row(office, connected(now), NOW_US + 1)))
    assert [event["transaction_id"] for event in await office.events("call_completed")] == [then.client_id]


async def test_the_last_connected_row_of_a_call_sid_is_told(office: Office) -> None:
    first = await office.made([ANN], [BEN])
    second = await office.made([CAT], [], a_pin="1", b_pin="2")
    await write(
        office,
        row(office, connected(first), NOW_US),
        row(office, connected(second), NOW_US + 1, caller=CAT),
        row(office, Refuse(Reason.WRONG_PIN), NOW_US + 2, caller=None),
    )
    await finish(office, end(office))
    [event] = await office.events("call_completed")
    assert (event["transaction_id"], event["caller"]) == (second.client_id, CAT)


async def test_a_call_of_a_released_allocation_is_told_all_the_same(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing)))
    await office.release(standing)
    await finish(office, end(office))
    assert len(await office.events("call_completed")) == 1


# ── how an end is told ───────────────────────────────────────────────────────

INSIGHTS = Insights(status="completed", ringing_duration="4.39")


async def told(office: Office, settings: dict[str, Any], **what: Any) -> dict[str, Any]:
    """The facts of a call that ended under these settings."""
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing)))
    await finish(office, end(office, settings=parse_settings(settings), **what))
    [event] = await office.events("call_completed")
    return event


async def test_insights_are_kept_with_the_end_and_told(office: Office) -> None:
    event = await told(office, {}, insights=INSIGHTS)
    [kept] = await office.fetch("SELECT insights FROM call_end WHERE cell = $1")
    assert kept["insights"] == event["insights"] == INSIGHTS.to_json()


async def test_an_end_without_insights_has_none(office: Office) -> None:
    assert (await told(office, {}))["insights"] is None
    [kept] = await office.fetch("SELECT insights IS NULL AS is_null FROM call_end WHERE cell = $1")
    assert kept["is_null"]


async def test_ends_of_one_batch_keep_their_own_insights(office: Office) -> None:
    await finish(office, end(office, "one"), end(office, "two", insights=INSIGHTS), end(office, "three"))
    rows = await office.fetch("SELECT call_sid, insights FROM call_end WHERE cell = $1")
    assert {row["call_sid"]: row["insights"] for row in rows} == {
        "one": None,
        "two": INSIGHTS.to_json(),
        "three": None,
    }


async def test_the_insights_of_the_first_end_stand(office: Office) -> None:
    await write(office, row(office, ASKED))
    await close_silent(office, NOW_US + SILENT_AFTER_US)
    await finish(office, end(office, insights=INSIGHTS))
    await finish(office, end(office))
    [kept] = await office.fetch("SELECT insights FROM call_end WHERE cell = $1")
    assert kept["insights"] == INSIGHTS.to_json()


@pytest.mark.parametrize(
    ("settings", "a_tag", "b_tag"),
    [
        ({}, None, None),
        ({"aparty_tag": "agent"}, None, None),
        ({"tag_enabled": "true"}, "aparty", "bparty"),
        ({"tag_enabled": "true", "aparty_tag": "agent", "bparty_tag": "customer"}, "agent", "customer"),
    ],
)
async def test_an_account_that_wants_its_tags_is_told_them(
    office: Office, settings: dict[str, Any], a_tag: str | None, b_tag: str | None
) -> None:
    event = await told(office, settings)
    assert (event["a_tag"], event["b_tag"]) == (a_tag, b_tag)


async def test_an_event_remembers_how_it_is_to_be_worded(office: Office) -> None:
    said = {
        "timezone": "UTC",
        "callback_time_format": "plain",
        "missing_recording": "null",
        "callback_to": "masked",
    }
    facts = facts_of(EventKind.CALL_COMPLETED, await told(office, said))
    assert isinstance(facts, CallCompletedFacts)
    assert (facts.timezone, facts.time_format) == ("UTC", CallbackTimeFormat.PLAIN)
    assert (facts.missing_recording, facts.callback_to) == (MissingRecording.NULL, CallbackTo.MASKED)
    # What is masked is a matter of the wording; the record knows who was called.
    assert facts.called == BEN


# ── calls that nobody ends ───────────────────────────────────────────────────


async def close_silent(office: Office, now_us: int) -> bool:
    """Whether the cell is among those that are looked at."""
    cells = await office.database.read(lambda connection: calls.cells_with_silent_calls(connection, now_us))
    await office.database.write(lambda connection: calls.close_silent(connection, office.cell, now_us))
    return office.cell in cells


async def test_a_silent_call_ends_as_unknown_after_four_hours(office: Office) -> None:
    await write(office, row(office, ASKED), row(office, ASKED, NOW_US + SECOND_US, "later"))
    assert not await close_silent(office, NOW_US + SILENT_AFTER_US - 1)
    assert await ends(office) == {}
    assert await close_silent(office, NOW_US + SILENT_AFTER_US)
    assert await ends(office) == {"sid": "unknown"}
    await close_silent(office, NOW_US + SILENT_SINCE_US + 1)
    assert await ends(office) == {"sid": "unknown", "later": "unknown"}


async def test_a_real_end_takes_the_place_of_unknown_and_is_told(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    await write(office, row(office, connected(standing)))
    await close_silent(office, NOW_US + SILENT_AFTER_US)
    assert await office.events("call_completed") == []
    for call_type in (CallType.VOICEMAIL, CallType.COMPLETED):
        await finish(office, end(office, call_type=call_type))
    assert await ends(office) == {"sid": "voicemail"}
    assert [event["call_type"] for event in await office.events("call_completed")] == ["voicemail"]


async def test_an_ended_call_is_not_closed_again(office: Office) -> None:
    await write(office, row(office, ASKED))
    await finish(office, end(office, call_type=CallType.CLIENT_HANGUP))
    await close_silent(office, NOW_US + SILENT_AFTER_US)
    assert await ends(office) == {"sid": "client-hangup"}
