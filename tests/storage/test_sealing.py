"""At rest: sealed with a key, masked without, and told again only where that is possible."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from pydantic import ValidationError

from cordboard.clock import SystemClock, to_datetime
from cordboard.node import running_switchboard
from cordboard.routing.numbers import E164
from cordboard.settings import Settings
from cordboard.storage import provisioning, resting, sealing
from cordboard.storage.database import Connection, Database
from cordboard.storage.facts import EventKind, facts_of
from cordboard.storage.provisioning import CredentialKind
from cordboard.storage.resting import masked_facts, mentions
from cordboard.storage.sealing import NO_KEYS, CannotOpen, DataKeyMissing, DataKeys, Sealed
from tests.conftest import NewDatabase
from tests.storage.lives import DAY_US, HOUR_US, Life, deliver, facts_kept
from tests.storage.office import NOW_US, Office, opened_office
from tests.storage.traces import traces

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
OLD_KEYS, NEW_KEYS, BOTH = DataKeys([OLD]), DataKeys([NEW]), DataKeys([NEW, OLD])
LATER_US = NOW_US + HOUR_US


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sealed_database(new_database: NewDatabase) -> Database:
    return await new_database()


@pytest_asyncio.fixture
async def office(sealed_database: Database) -> AsyncIterator[Office]:
    """Whoever looks for the keys in use looks at the whole database: nothing is left for the next test."""
    yield await opened_office(sealed_database)
    for table in ("event", "idempotent_answer"):
        await sealed_database.write(partial(_empty, table=table))


async def _empty(connection: Connection, table: str) -> None:
    await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words.


async def told_life(office: Office, keys: DataKeys, *, dead: bool = False) -> Life:
    life = Life(office, NOW_US)
    await life.live()
    await life.end(NOW_US + 1)
    await deliver(office, LATER_US, keys, dead=dead)
    return life


async def replay(office: Office) -> int:
    """Dead events are pending once more; how many may be."""
    done = await office.execute(
        "UPDATE event SET state = 'pending', finished_at = NULL, due_at = $2, attempts = 0"
        " WHERE cell = $1 AND state = 'dead' AND facts_are <> 'masked'"
        " AND seq = (SELECT min(seq) FROM event AS e WHERE e.cell = $1 AND e.subject = event.subject)",
        to_datetime(LATER_US),
    )
    return resting.count_of(done)


async def lay_to_rest(office: Office, keys: DataKeys, now_us: int, days: int = 7) -> int:
    rest = partial(resting.rest_events, cell=office.cell, keys=keys, dead_letter_days=days, now_us=now_us)
    cells = await office.database.read(
        partial(resting.cells_to_rest, keys=keys, dead_letter_days=days, now_us=now_us)
    )
    done = await office.database.write(rest)
    assert (office.cell in cells) or not done
    assert await office.database.write(rest) == 0
    return done


# ── keys ─────────────────────────────────────────────────────────────────────


def test_what_is_sealed_is_opened_by_its_key_for_its_row_only() -> None:
    sealed = OLD_KEYS.seal(b"4821", b"row")
    assert b"4821" not in sealed.data
    assert OLD_KEYS.open(sealed, b"row") == BOTH.open(sealed, b"row") == b"4821"
    assert OLD_KEYS.seal(b"4821", b"row") != sealed, "nobody sees that two are equal"
    with pytest.raises(CannotOpen):
        OLD_KEYS.open(sealed, b"another row")
    with pytest.raises(CannotOpen):
        OLD_KEYS.open(sealed._replace(data=sealed.data[:-1] + bytes([sealed.data[-1] ^ 1])), b"row")
    with pytest.raises(CannotOpen):
        OLD_KEYS.open(sealed._replace(data=b""), b"row")
    with pytest.raises(DataKeyMissing, match=sealed.key_id):
        NEW_KEYS.open(sealed, b"row")
    assert isinstance(sealed, Sealed)
    assert not NO_KEYS
    assert BOTH.sealing_id == NEW_KEYS.sealing_id != OLD_KEYS.sealing_id


@pytest.mark.parametrize(
    "text", ["", "no base64", base64.b64encode(OLD[:31]).decode(), f"{base64.b64encode(OLD).decode()},"]
)
def test_a_key_that_is_none_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValidationError, match="base64 of 32 bytes") as refused:
        Settings(data_key=text)  # type: ignore[arg-type]
    assert not text or text not in str(refused.value.errors(include_input=False))


def test_several_keys_are_read_in_their_order() -> None:
    text = f"{base64.b64encode(NEW).decode()}, {base64.b64encode(OLD).decode()}"
    assert Settings(data_key=text).data_keys() == (NEW, OLD)  # type: ignore[arg-type]
    assert Settings().data_keys() == ()
    assert len(base64.b64decode(sealing.new_key())) == 32
    assert "AAEC" not in repr(Settings(data_key=text))  # type: ignore[arg-type]


# ── events ───────────────────────────────────────────────────────────────────


def test_masked_facts_hide_numbers_pins_and_what_clients_wrote() -> None:
    party = {
        "numbers": [919800000021],
        "virtual_numbers": [918000000010],
        "pins": ["4821"],
        "listed_need_pin": True,
    }
    facts: dict[str, Any] = {
        "transaction_id": "ORD-1",
        "virtual_number": 918000000010,
        "caller": 919800000021,
        "called": None,
        "pin": "4821",
        "a": party,
        "custom_field": "call +919800000021",
        "recording_url": "https://recordings.example/1",
        "record": True,
    }
    assert masked_facts(facts) == {
        "transaction_id": "ORD-1",
        "virtual_number": 918000000010,
        "caller": "…21",
        "called": None,
        "pin": "****",
        "a": {**party, "numbers": ["…21"], "pins": ["****"]},
        "custom_field": "****",
        "recording_url": "****",
        "record": True,
    }
    number = E164(919800000021)
    for named in (facts, {"a": party}, {"custom_field": facts["custom_field"]}, [919800000021]):
        assert mentions(named, number)
    assert not mentions(masked_facts(facts), number)
    assert not mentions({"record": True}, E164(1))


@pytest.mark.parametrize("dead", [False, True], ids=["delivered", "dead"])
async def test_with_a_key_a_dump_tells_nothing_of_told_events(office: Office, *, dead: bool) -> None:
    life = await told_life(office, OLD_KEYS, dead=dead)
    found = await traces(office.database, office.cell, *life.people, *life.pins)
    assert ("event", "facts") not in found
    kept = await facts_kept(office)
    assert {are for _, are, _ in kept} == {"sealed"}
    assert {"recordings.example" in orjson.dumps(facts).decode() for _, _, facts in kept} == {False}


async def test_without_a_key_delivered_ones_are_masked_and_dead_ones_wait_their_days(office: Office) -> None:
    life = await told_life(office, NO_KEYS)
    told = (*life.people, *life.pins)
    assert ("event", "facts") not in await traces(office.database, office.cell, *told)
    assert {are for _, are, _ in await facts_kept(office)} == {"masked"}

    other = await told_life(office, NO_KEYS, dead=True)
    told = (*other.people, *other.pins)
    assert await lay_to_rest(office, NO_KEYS, LATER_US + 7 * DAY_US) == 0
    assert ("event", "facts") in await traces(office.database, office.cell, *told)
    assert await lay_to_rest(office, NO_KEYS, LATER_US + 7 * DAY_US + 1) > 0
    assert ("event", "facts") not in await traces(office.database, office.cell, *told)


async def test_what_an_engine_before_the_rule_left_whole_is_laid_to_rest(office: Office) -> None:
    life = Life(office, NOW_US)
    await life.live()
    await office.execute(
        "UPDATE event SET state = 'delivered', finished_at = $2 WHERE cell = $1", to_datetime(NOW_US)
    )
    assert await lay_to_rest(office, OLD_KEYS, LATER_US) > 0
    assert {are for _, are, _ in await facts_kept(office)} == {"sealed"}
    assert ("event", "facts") not in await traces(office.database, office.cell, *life.people, *life.pins)


async def test_sealed_dead_letters_are_told_again_and_stay_sealed(office: Office) -> None:
    await told_life(office, OLD_KEYS, dead=True)
    before = await facts_kept(office)
    count = await replay(office)
    assert count > 0
    rows = await office.fetch("SELECT id, kind, facts FROM event WHERE cell = $1 AND state = 'pending'")
    for row in rows:
        kind = EventKind(row["kind"])
        assert facts_of(kind, OLD_KEYS.facts_of(row["id"], row["facts"])).kind is kind
    assert await deliver(office, LATER_US + 1, OLD_KEYS) == count
    after = await facts_kept(office)
    assert [facts for _, _, facts in after] == [facts for _, _, facts in before]


async def test_masked_facts_are_never_pending_again(office: Office) -> None:
    await told_life(office, NO_KEYS)
    assert await replay(office) == 0
    with pytest.raises(asyncpg.CheckViolationError):
        await office.execute("UPDATE event SET state = 'pending', finished_at = NULL WHERE cell = $1")


@pytest.mark.parametrize("kind", list(CredentialKind))
async def test_tokens_and_keys_are_nowhere_in_a_dump_but_by_their_digest(
    office: Office, kind: CredentialKind
) -> None:
    made, _ = await provisioning.add_credential(office.database, office.tenant.id, kind, LATER_US)
    assert await traces(office.database, office.cell, made.secret) == set()
    rows = await office.fetch("SELECT digest FROM credential WHERE cell = $1 AND id = $2", made.id)
    assert [row["digest"] for row in rows] == [sha256(made.secret.encode()).digest()]


# ── rotation ─────────────────────────────────────────────────────────────────


async def test_a_rotation_seals_everything_anew_and_the_old_key_can_go(office: Office) -> None:
    life = await told_life(office, OLD_KEYS)
    bound_to = sealing.bound_to_answer(office.tenant.id, "sealed")
    sealed = OLD_KEYS.seal(b"an answer", bound_to)
    await office.execute(
        "INSERT INTO idempotent_answer VALUES ($1, $2, 'sealed', $3, gen_random_uuid(), $4, $5, now())",
        office.tenant.id,
        bytes(32),
        sealed.data,
        sealed.key_id,
    )
    events = len(await facts_kept(office))
    with pytest.raises(DataKeyMissing, match=OLD_KEYS.sealing_id):
        await sealing.rotate(office.database, NEW_KEYS)
    assert await sealing.rotate(office.database, OLD_KEYS) == {"events": 0, "answers": 0}
    assert await sealing.rotate(office.database, BOTH) == {"events": events, "answers": 1}
    assert await sealing.rotate(office.database, BOTH) == {"events": 0, "answers": 0}
    check = partial(sealing.check_keys, keys=NEW_KEYS)
    await office.database.read(check)
    rows = await office.fetch("SELECT id, facts FROM event WHERE cell = $1")
    opened = [NEW_KEYS.facts_of(row["id"], row["facts"]) for row in rows]
    assert any(mentions(facts, life.cat) for facts in opened)
    [row] = await office.fetch(
        "SELECT answer, sealed_with FROM idempotent_answer WHERE cell = $1 AND key = 'sealed'"
    )
    assert NEW_KEYS.open(Sealed(row["sealed_with"], row["answer"]), bound_to) == b"an answer"


async def test_a_rotation_goes_on_where_it_was_broken_off(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told_life(office, OLD_KEYS)
    events = len(await facts_kept(office))
    monkeypatch.setattr(sealing, "RESEALED_PER_COMMIT_MAX", 1)
    reseal = partial(sealing._reseal_events, cell=office.cell, keys=BOTH, old_id=OLD_KEYS.sealing_id)
    assert await office.database.write(reseal) == 1
    assert await sealing.rotate(office.database, BOTH) == {"events": events - 1, "answers": 0}


async def test_an_engine_does_not_start_without_the_key_of_what_is_sealed(
    office: Office, tmp_path: Path
) -> None:
    await told_life(office, OLD_KEYS)

    def settings(key: bytes | None) -> Settings:
        given = {} if key is None else {"data_key": base64.b64encode(key).decode()}
        return Settings(data_dir=tmp_path, board_dir=tmp_path / "board", **given)  # type: ignore[arg-type]

    for key in (NEW, None):
        with pytest.raises(DataKeyMissing, match=f"CORDBOARD_DATA_KEY lacks the key {OLD_KEYS.sealing_id}"):
            async with running_switchboard(settings(key), office.database, None, SystemClock()):
                raise AssertionError("it started")
    async with running_switchboard(settings(OLD), office.database, None, SystemClock()) as switchboard:
        assert switchboard.keys.sealing_id == OLD_KEYS.sealing_id
