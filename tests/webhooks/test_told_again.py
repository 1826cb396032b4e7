"""What a sender makes of an event that is told again, out of sealed facts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cordboard.clock import SECOND_US
from cordboard.storage import event_records, resting
from cordboard.storage.database import Database
from cordboard.storage.event_records import EventMasked
from cordboard.storage.events import EventState
from cordboard.storage.listing import Span
from cordboard.storage.sealing import NO_KEYS, SEALED, DataKeys
from cordboard.web.events import shown_data
from cordboard.webhooks.destinations import Destinations
from cordboard.webhooks.sender import Sender

from .outbox import (
    CALLER,
    GIVE_UP_S,
    NOW_US,
    PIN,
    SetClock,
    Subscriber,
    call_completed,
    deallocated,
    ids_of,
    kept,
    new_event,
    set_subscriber,
    tell,
    verification_failed,
    verified,
    with_status,
)

KEYS = DataKeys([bytes(range(32))])
HERE = Destinations.of(["127.0.0.0/8"])
EVERY = Span(0, NOW_US + 86_400 * SECOND_US)


async def until_finished(database: Database, keys: DataKeys, *, dead_after_s: float = 86_400) -> Any:
    """The first event, when a sender is done with one attempt of each."""
    before = [event["attempts"] for event in await kept(database)]
    sender = Sender(database, SetClock(), HERE, dead_after_s=dead_after_s, poll_s=0.01, keys=keys)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run())
        while True:
            found = await kept(database)
            if all(
                event["attempts"] > attempts and event["leased_until"] is None
                for event, attempts in zip(found, before, strict=True)
            ):
                break
        sender.stop()
    return found[0]


async def told_again(database: Database) -> None:
    [id] = (await ids_of(database)).values()
    await database.write(lambda connection: event_records.replay_event(connection, 0, "acme", id, NOW_US))


async def body_shown(database: Database, keys: DataKeys, *, is_whole: bool = False) -> Any:
    [id] = (await ids_of(database)).values()
    shown = await database.read(lambda connection: event_records.show_event(connection, 0, "acme", id))
    return shown_data(*shown, "IST", keys, is_whole=is_whole)["body"]


async def test_sealed_facts_are_told_again_word_for_word(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    event = await until_finished(database, KEYS)
    assert (event["state"], set(event["facts"])) == ("delivered", {SEALED})
    await told_again(database)
    again = await until_finished(database, KEYS)
    assert (again["state"], again["facts"]) == ("delivered", event["facts"])
    first, second = subscriber.received
    assert (first.body, first.id) == (second.body, second.id)


async def test_without_their_key_they_are_not_told_and_stay_sealed(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    event = await until_finished(database, KEYS)
    await told_again(database)
    again = await until_finished(database, NO_KEYS)
    assert (again["state"], again["facts"]) == ("pending", event["facts"])
    assert again["last_result"] == "facts: DataKeyMissing"
    assert len(subscriber.received) == 1


async def test_what_is_sealed_is_shown_with_its_key_alone(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    await until_finished(database, KEYS)
    [received] = subscriber.received
    assert await body_shown(database, KEYS, is_whole=True) == received.body
    masked = await body_shown(database, KEYS)
    assert (masked["caller"], masked["pin"]) == (str(CALLER), str(PIN))
    assert await body_shown(database, NO_KEYS, is_whole=True) is None


@pytest.mark.parametrize("facts", [verified(), verification_failed(), deallocated(), call_completed()])
async def test_a_masked_event_is_shown_as_it_was_masked_and_not_told_again(
    database: Database, subscriber: Subscriber, facts: Any
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event(facts=facts))
    before = await body_shown(database, NO_KEYS)
    event = await until_finished(database, NO_KEYS)
    assert (event["state"], event["facts"]) == ("delivered", resting.masked_facts(facts.to_json()))
    assert await body_shown(database, NO_KEYS) == before
    assert await body_shown(database, NO_KEYS, is_whole=True) == before
    with pytest.raises(EventMasked):
        await told_again(database)
    assert await kept(database) == [event]


@pytest.mark.parametrize(("keys", "replayed"), [(NO_KEYS, 1), (KEYS, 2)])
async def test_a_range_steps_over_what_is_masked(
    database: Database, subscriber: Subscriber, keys: DataKeys, replayed: int
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event("one"))
    subscriber.answer = with_status(500)
    # Dead after the first attempt, and whole or sealed.
    first = await until_finished(database, keys, dead_after_s=0.1)
    assert (first["state"], set(first["facts"]) == {SEALED}) == ("dead", bool(keys))
    await tell(database, new_event("two"))

    async def run(connection: Any) -> int:
        return await resting.rest_events(connection, 0, NO_KEYS, 1, NOW_US + 2 * 86_400 * SECOND_US)

    assert await database.write(run) == (0 if keys else 1)
    await until_finished_second(database, keys)
    assert await replay_all(database) == replayed
    assert await replay_all(database) == 0


async def until_finished_second(database: Database, keys: DataKeys) -> None:
    """The event that is pending dies too."""
    sender = Sender(database, SetClock(), HERE, dead_after_s=0.1, poll_s=0.01, keys=keys)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run())
        while {event["state"] for event in await kept(database)} != {"dead"}:
            pass
        sender.stop()


async def replay_all(database: Database) -> int:
    return await event_records.replay_events(database, 0, "acme", EventState.DEAD, EVERY, NOW_US + 1)
