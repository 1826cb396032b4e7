"""Records of decisions wait for the database, the last decision of each call and its hops among them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cordboard.clock import SECOND_US
from cordboard.routing.model import AskPin, LastEntry, Reason, Refuse
from cordboard.storage import listing
from cordboard.storage.calls import CallRow
from cordboard.storage.database import Database, DatabaseAway
from cordboard.storage.listing import CallFilter, CallRecord, Span
from cordboard.storage.outcomes import CallKey
from cordboard.switchboard.records import (
    BATCHES_WAITING_MAX,
    CALLS_OF_A_BATCH_MAX,
    HOPS_WAITING_MAX,
    CallRecords,
)
from cordboard.telemetry import Metrics
from tests.storage.office import ANN, NOW_US, Office, opened_office


@pytest.fixture
async def office(database: Database) -> Office:
    return await opened_office(database)


def row(office: Office, place: int, *, is_last: bool = False, call_sid: str = "sid") -> CallRow:
    call = CallKey(office.tenant.id, call_sid, office.vn, ANN)
    decision = Refuse(Reason.WRONG_PIN) if is_last else AskPin(4, 3, LastEntry.NONE)
    return CallRow(call, decision, NOW_US + place, "passthru")


def put_others(records: CallRecords, office: Office, calls: int) -> None:
    for n in range(calls):
        records.put(office.cell, row(office, 0, call_sid=f"other{n}"))


async def calls_on_record(office: Office, call_sid: str | None = None) -> Sequence[CallRecord]:
    span = Span(0, NOW_US + SECOND_US)
    page = await office.database.read_snapshot(
        lambda connection: listing.list_calls(
            connection, office.cell, office.tenant.id, CallFilter(call_sid), span, None, 10_000
        )
    )
    return page.items


async def the_call(office: Office) -> CallRecord:
    [call] = await calls_on_record(office, "sid")
    return call


async def test_the_hops_of_one_write_are_all_kept(office: Office) -> None:
    records = CallRecords(office.database, Metrics())
    for place in range(3):
        records.put(office.cell, row(office, place, is_last=place == 2))
    waiting = records.of_call(row(office, 0).call)
    assert waiting is not None
    assert waiting.at_us == NOW_US + 2
    await records.flush()
    assert records.of_call(row(office, 0).call) is None
    call = await the_call(office)
    assert (call.decision, call.last_hop_at_us) == ("refuse", NOW_US + 2)
    assert [hop.at_us - NOW_US for hop in call.hops] == [0, 1, 2]


async def test_while_the_database_is_away_the_last_decision_and_some_hops_wait(office: Office) -> None:
    records = CallRecords(office.database, Metrics())
    records.put(office.cell, row(office, 0))
    await office.database.close()
    for place in range(1, HOPS_WAITING_MAX + 3):
        with pytest.raises(DatabaseAway):
            await records.flush()
        records.put(office.cell, row(office, place, is_last=place == HOPS_WAITING_MAX + 2))
    await office.database.connect()
    await records.flush()
    call = await the_call(office)
    assert call.decision == "refuse"
    places = [hop.at_us - NOW_US for hop in call.hops]
    # The first one is in the batch that could not be written; what came since is in another.
    assert places == [0, *range(1, HOPS_WAITING_MAX), HOPS_WAITING_MAX + 2]


async def test_all_batches_are_written_the_oldest_first(office: Office) -> None:
    records = CallRecords(office.database, Metrics())
    records.put(office.cell, row(office, 0))
    put_others(records, office, CALLS_OF_A_BATCH_MAX)
    records.put(office.cell, row(office, 1, is_last=True))
    waiting = records.of_call(row(office, 0).call)
    assert waiting is not None
    assert waiting.at_us == NOW_US + 1
    await records.flush()
    assert len(await calls_on_record(office)) == CALLS_OF_A_BATCH_MAX + 1
    assert (await the_call(office)).decision == "refuse"


async def test_calls_beyond_what_may_wait_are_counted(office: Office) -> None:
    metrics = Metrics()
    records = CallRecords(office.database, metrics)
    put_others(records, office, BATCHES_WAITING_MAX * CALLS_OF_A_BATCH_MAX + 3)
    assert metrics.registry.get_sample_value("cordboard_call_rows_dropped_total") == 3
    records.put(office.cell, row(office, 0))
    assert records.of_call(row(office, 0).call) is None
