"""What a sender makes of an event that is told again, out of sealed facts."""

from __future__ import annotations

import asyncio
from typing import Any

from cordboard.storage.database import Connection, Database
from cordboard.storage.sealing import NO_KEYS, SEALED, DataKeys
from cordboard.webhooks.sender import Sender

from .outbox import GIVE_UP_S, SetClock, Subscriber, kept, new_event, set_subscriber, tell

KEYS = DataKeys([bytes(range(32))])


async def until_finished(database: Database, keys: DataKeys) -> Any:
    """The one event, when a sender is done with it."""
    sender = Sender(database, SetClock(), poll_s=0.01, keys=keys)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run())
        while True:
            [event] = await kept(database)
            if event["attempts"] and event["leased_until"] is None:
                break
        sender.stop()
    return event


async def told_again(database: Database) -> None:
    async def replay(connection: Connection) -> None:
        await connection.execute(
            "UPDATE event SET state = 'pending', finished_at = NULL, attempts = 0, due_at = created_at"
        )

    await database.write(replay)


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
