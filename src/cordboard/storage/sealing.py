"""What is kept sealed: facts of told events and kept answers, by AES-256-GCM with keys outside the database.

A dump tells nothing of them without the key. Each sealed thing is bound to the row it belongs to, so that one
cannot be put in the place of another. The id of a key is kept beside what it sealed: an engine that lacks it
says so when it starts, and a rotation finds what is left to do.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cordboard.settings import DATA_KEY_BYTES
from cordboard.storage.database import Connection, Database
from cordboard.storage.queries import load
from cordboard.storage.subjects import lock_subjects

_SQL: Final = load("sealing")

# Random: after 2³² things sealed with one key two would share one with a chance of 2⁻³². A million a day for
# ten years is 2³², so a key is to be rotated before.
NONCE_BYTES: Final = 12
# One transaction of a rotation: some 10 ms.
RESEALED_PER_COMMIT_MAX: Final = 500

SEALED: Final = "sealed"


class DataKeyMissing(Exception):
    """Something is sealed with a key that the engine was not given."""

    def __init__(self, key_ids: Sequence[str]) -> None:
        names = ", ".join(key_ids)
        super().__init__(
            f"CORDBOARD_DATA_KEY lacks the key {names}, with which kept events or answers are sealed;"
            " add it behind the first one, after a comma"
        )
        self.key_ids = key_ids


class CannotOpen(Exception):
    """It was sealed for another row, or was changed."""


class Sealed(NamedTuple):
    key_id: str
    data: bytes


class DataKeys:
    """The first key seals, all of them open. Without any, nothing is sealed."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        assert all(len(key) == DATA_KEY_BYTES for key in keys), "the settings have checked them"
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.ids: tuple[str, ...] = tuple(self._ciphers)

    def __bool__(self) -> bool:
        return bool(self._ciphers)

    @property
    def sealing_id(self) -> str:
        return self.ids[0]

    def seal(self, plain: bytes, bound_to: bytes) -> Sealed:
        id = self.sealing_id
        nonce = secrets.token_bytes(NONCE_BYTES)
        return Sealed(id, nonce + self._ciphers[id].encrypt(nonce, plain, bound_to))

    def open(self, sealed: Sealed, bound_to: bytes) -> bytes:
        """Raises DataKeyMissing, CannotOpen."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise DataKeyMissing([sealed.key_id])
        try:
            return cipher.decrypt(sealed.data[:NONCE_BYTES], sealed.data[NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError):
            raise CannotOpen from None

    # ── facts of events ──────────────────────────────────────────────────────

    def seal_facts(self, event_id: UUID, facts: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """(id of the key, what is kept in place of the facts)."""
        sealed = self.seal(orjson.dumps(facts), event_id.bytes)
        return sealed.key_id, {SEALED: f"{sealed.key_id}.{base64.b64encode(sealed.data).decode()}"}

    def facts_of(self, event_id: UUID, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """The facts, sealed or not. Raises DataKeyMissing, CannotOpen."""
        text = kept.get(SEALED)
        if text is None:
            return kept
        id, _, data = text.partition(".")
        facts: dict[str, Any] = orjson.loads(self.open(Sealed(id, base64.b64decode(data)), event_id.bytes))
        return facts


NO_KEYS: Final = DataKeys()


def key_id(key: bytes) -> str:
    """Names a key without telling of it: 8 digits of a digest of 256 random bits."""
    return hashlib.sha256(b"cordboard data key\0" + key).hexdigest()[:8]


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(DATA_KEY_BYTES)).decode()


def bound_to_answer(tenant_id: str, key: str) -> bytes:
    return f"{tenant_id}\0{key}".encode()


async def check_keys(connection: Connection, keys: DataKeys) -> None:
    """Raises DataKeyMissing if anything kept is sealed with a key that is not among `keys`."""
    used = {row["sealed_with"] for row in await connection.fetch(_SQL["keys_in_use"])}
    if missing := sorted(used.difference(keys.ids)):
        raise DataKeyMissing(missing)


async def rotate(database: Database, keys: DataKeys) -> dict[str, int]:
    """Seal again, with the first key, what is sealed with another; how many of each kind.

    In many transactions: whatever ends it, the next run goes on. Raises DataKeyMissing, CannotOpen.
    """
    assert keys, "there is a key to rotate to"
    await database.read(lambda connection: check_keys(connection, keys))
    count = {"events": 0, "answers": 0}
    for old_id in keys.ids[1:]:
        for cell in await database.read(partial(_cells_sealed_with, id=old_id)):
            for what, reseal in (("events", _reseal_events), ("answers", _reseal_answers)):
                while done := await database.write(partial(reseal, cell=cell, keys=keys, old_id=old_id)):
                    count[what] += done
    return count


async def _cells_sealed_with(connection: Connection, id: str) -> list[int]:
    return [row["cell"] for row in await connection.fetch(_SQL["cells_sealed_with"], id)]


async def _reseal_events(connection: Connection, cell: int, keys: DataKeys, old_id: str) -> int:
    named = await connection.fetch(_SQL["events_sealed_with"], cell, old_id, RESEALED_PER_COMMIT_MAX)
    await lock_subjects(connection, cell, ((row["tenant_id"], row["subject"]) for row in named))
    ids = [row["id"] for row in named]
    rows = await connection.fetch(_SQL["lock_sealed_events"], cell, old_id, ids)
    sealed = [keys.seal_facts(row["id"], keys.facts_of(row["id"], row["facts"]))[1] for row in rows]
    await connection.execute(
        _SQL["reseal_events"], cell, [row["id"] for row in rows], sealed, keys.sealing_id
    )
    # With those that another rotation has sealed meanwhile: there may be more behind them.
    return len(named)


async def _reseal_answers(connection: Connection, cell: int, keys: DataKeys, old_id: str) -> int:
    rows = await connection.fetch(_SQL["answers_sealed_with"], cell, old_id, RESEALED_PER_COMMIT_MAX)
    sealed = []
    for row in rows:
        bound_to = bound_to_answer(row["tenant_id"], row["key"])
        sealed.append(keys.seal(keys.open(Sealed(old_id, row["answer"]), bound_to), bound_to).data)
    await connection.execute(
        _SQL["reseal_answers"],
        cell,
        [row["tenant_id"] for row in rows],
        [row["key"] for row in rows],
        sealed,
        keys.sealing_id,
    )
    return len(rows)
