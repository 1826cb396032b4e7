"""Tenants, their virtual numbers and their credentials. The CLI and the admin API both end here."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from cordboard.clock import to_datetime, to_instant_us, to_instant_us_or_never
from cordboard.routing.changes import Change, TenantGone, VirtualNumberGone
from cordboard.routing.numbers import E164
from cordboard.storage import allocations, feed
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.storage.queries import load

_SQL: Final = load("provisioning")

# 192 random bits: nobody guesses one of a million tokens in the life of the universe.
SECRET_BYTES: Final = 24


# What the Standard Webhooks scheme asks for is 24 to 64; as many as the digest has.
WEBHOOK_SECRET_BYTES: Final = 32
# Rotation takes two. Each is one more signature of 50 characters in a header of every event.
WEBHOOK_SECRETS_MAX: Final = 5


class CredentialKind(Enum):
    API_TOKEN = "api_token"  # noqa: S105 - a word, no token.
    APPLET_KEY = "applet_key"


class TenantExists(Exception):
    pass


class NoSuchTenant(Exception):
    pass


class NoSuchVirtualNumber(Exception):
    pass


class NoSuchCredential(Exception):
    pass


class TooManyWebhookSecrets(Exception):
    pass


class LastWebhookSecret(Exception):
    """Without it events would no longer be signed."""


class NumberProvisioned(Exception):
    """Somebody has some of these numbers already; nothing was added."""

    def __init__(self, numbers: Sequence[E164]) -> None:
        super().__init__(f"{len(numbers)} of the numbers are provisioned already")
        self.numbers = numbers


class HasLiveAllocations(Exception):
    def __init__(self, count: int) -> None:
        super().__init__(f"{count} live allocations")
        self.count = count


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    cell: int
    tenant_no: int
    settings: dict[str, Any]
    created_at_us: int


@dataclass(frozen=True, slots=True)
class TenantSummary:
    id: str
    cell: int
    virtual_numbers: int
    created_at_us: int


@dataclass(frozen=True, slots=True)
class NewVirtualNumber:
    number: E164
    region: str | None = None
    type: str | None = None
    flow_id: str | None = None
    is_reserved: bool = False


@dataclass(frozen=True, slots=True)
class VirtualNumber:
    number: E164
    region: str | None
    type: str | None
    flow_id: str | None
    is_reserved: bool
    is_drained: bool
    created_at_us: int


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A secret is shown once, here; only its digest is kept."""

    id: UUID
    secret: str

    def __repr__(self) -> str:
        return f"NewCredential(id={self.id})"


@dataclass(frozen=True, slots=True)
class Credential:
    id: UUID
    may_reveal: bool
    created_at_us: int


@dataclass(frozen=True, slots=True)
class NewWebhookSecret:
    """`whsec_…`, shown once, here; who subscribes checks signatures with it."""

    id: UUID
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    id: UUID
    created_at_us: int
    # None while events are signed with it.
    retired_at_us: int | None


@dataclass(frozen=True, slots=True)
class NewTenant:
    tenant: Tenant
    api_token: NewCredential
    applet_key: NewCredential
    webhook_secret: NewWebhookSecret
    position: Position


def digest_of_secret(secret: str) -> bytes:
    """SHA-256: enough for secrets of 192 random bits, which no dictionary holds."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


async def add_tenant(
    database: Database, tenant_id: str, settings: Mapping[str, Any], now_us: int
) -> NewTenant:
    """Make a tenant in the least used cell, with a first token, key and webhook secret.

    Raises TenantExists.
    """

    async def run(connection: Connection) -> NewTenant:
        cell = await connection.fetchval(_SQL["least_used_cell"])
        tenant_no = await connection.fetchval(
            _SQL["insert_tenant"], tenant_id, cell, dict(settings), to_datetime(now_us)
        )
        if tenant_no is None:
            raise TenantExists
        tenant = Tenant(tenant_id, cell, tenant_no, dict(settings), now_us)
        token = await _insert_credential(connection, tenant, CredentialKind.API_TOKEN, now_us)
        key = await _insert_credential(connection, tenant, CredentialKind.APPLET_KEY, now_us)
        secret = await _insert_webhook_secret(connection, tenant, now_us)
        return NewTenant(tenant, token, key, secret, await _tell(connection, tenant, now_us))

    return await database.write(run)


async def get_tenant(database: Database, tenant_id: str) -> Tenant:
    """Raises NoSuchTenant."""
    return await database.read(lambda connection: _tenant(connection, tenant_id, "tenant"))


async def list_tenants(database: Database) -> list[TenantSummary]:
    rows = await database.read(lambda connection: connection.fetch(_SQL["tenants"]))
    return [
        TenantSummary(row["id"], row["cell"], row["virtual_numbers"], to_instant_us(row["created_at"]))
        for row in rows
    ]


async def change_settings(
    database: Database, tenant_id: str, changed: Mapping[str, Any], now_us: int
) -> tuple[Tenant, Position]:
    """Set the keys of `changed`; the others keep their values, and None takes a key back to its default.

    Raises NoSuchTenant.
    """
    return await database.write(lambda connection: set_settings(connection, tenant_id, changed, now_us))


async def set_settings(
    connection: Connection, tenant_id: str, changed: Mapping[str, Any], now_us: int
) -> tuple[Tenant, Position]:
    """`change_settings` inside a transaction."""
    tenant = await _tenant(connection, tenant_id, "lock_tenant")
    merged = {**tenant.settings, **changed}
    settings = {key: value for key, value in merged.items() if value is not None}
    await connection.execute(_SQL["update_settings"], tenant_id, settings)
    tenant = Tenant(tenant.id, tenant.cell, tenant.tenant_no, settings, tenant.created_at_us)
    return tenant, await _tell(connection, tenant, now_us)


async def delete_tenant(database: Database, tenant_id: str, now_us: int) -> Position:
    """Erase a tenant with all its records. Raises NoSuchTenant, HasLiveAllocations."""

    async def run(connection: Connection) -> Position:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        standing = await connection.fetch(_SQL["live_allocations_of"], tenant.cell, tenant_id)
        changes = await _release_ended_or_refuse(connection, tenant.cell, standing, now_us)
        for table in ("pins", "cooling_numbers", "parties", "answers", "carried", "allocations"):
            await connection.execute(_SQL[f"delete_tenant_{table}"], tenant.cell, tenant_id)
        numbers = await connection.fetch(_SQL["delete_tenant_virtual_numbers"], tenant.cell, tenant_id)
        await connection.execute(_SQL["lock_tenant_event_subjects"], tenant.cell, tenant_id)
        for table in (
            "credentials",
            "throttles",
            "webhook_secrets",
            "untold_outcomes",
            "verifications",
            "calls",
            "call_ends",
            "events",
            "event_onces",
            "event_subjects",
        ):
            await connection.execute(_SQL[f"delete_tenant_{table}"], tenant.cell, tenant_id)
        await connection.execute(_SQL["delete_tenant"], tenant.cell, tenant_id)
        changes += [VirtualNumberGone(tenant.tenant_no, E164(row["number"])) for row in numbers]
        return await feed.append(connection, tenant.cell, [*changes, TenantGone(tenant_id)], now_us)

    return await database.write(run)


async def add_virtual_numbers(
    database: Database, tenant_id: str, numbers: Sequence[NewVirtualNumber], now_us: int
) -> Position:
    """Add all or none. Raises NoSuchTenant, NumberProvisioned."""

    async def run(connection: Connection) -> Position:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        rows = await connection.fetch(
            _SQL["insert_virtual_numbers"],
            tenant.cell,
            tenant_id,
            [new.number for new in numbers],
            [new.region for new in numbers],
            [new.type for new in numbers],
            [new.flow_id for new in numbers],
            [new.is_reserved for new in numbers],
            to_datetime(now_us),
        )
        added = {row["number"] for row in rows}
        if refused := [new.number for new in numbers if new.number not in added]:
            raise NumberProvisioned(refused)
        changes = await feed.virtual_number_changes(connection, [new.number for new in numbers])
        return await feed.append(connection, tenant.cell, changes, now_us)

    return await database.write(run)


async def list_virtual_numbers(database: Database, tenant_id: str) -> list[VirtualNumber]:
    """Raises NoSuchTenant."""

    async def run(connection: Connection) -> list[VirtualNumber]:
        tenant = await _tenant(connection, tenant_id, "tenant")
        rows = await connection.fetch(_SQL["virtual_numbers"], tenant.cell, tenant_id)
        return [
            VirtualNumber(
                E164(row["number"]),
                row["region"],
                row["type"],
                row["flow_id"],
                row["is_reserved"],
                row["is_drained"],
                to_instant_us(row["created_at"]),
            )
            for row in rows
        ]

    return await database.read(run)


async def delete_virtual_number(database: Database, tenant_id: str, number: E164, now_us: int) -> Position:
    """Raises NoSuchTenant, NoSuchVirtualNumber, HasLiveAllocations."""

    async def run(connection: Connection) -> Position:
        tenant = await _tenant(connection, tenant_id, "tenant")
        # New routes reference the row, so from here on nobody allocates the number.
        locked = await connection.fetchrow(_SQL["lock_virtual_number"], tenant.cell, tenant_id, number)
        if locked is None:
            raise NoSuchVirtualNumber
        standing = await connection.fetch(_SQL["live_allocations_on"], tenant.cell, number)
        changes = await _release_ended_or_refuse(connection, tenant.cell, standing, now_us)
        await connection.execute(_SQL["delete_cooling_numbers_on"], tenant.cell, number)
        await connection.execute(_SQL["delete_cooling_pins_on"], tenant.cell, number)
        await connection.execute(_SQL["delete_virtual_number"], tenant.cell, tenant_id, number)
        changes.append(VirtualNumberGone(tenant.tenant_no, number))
        return await feed.append(connection, tenant.cell, changes, now_us)

    return await database.write(run)


async def set_virtual_number_state(
    database: Database,
    tenant_id: str,
    number: E164,
    now_us: int,
    *,
    is_drained: bool | None = None,
    is_reserved: bool | None = None,
) -> Position:
    """Change what is not None. Raises NoSuchTenant, NoSuchVirtualNumber."""

    async def run(connection: Connection) -> Position:
        tenant = await _tenant(connection, tenant_id, "tenant")
        changed = await connection.fetchrow(
            _SQL["set_virtual_number_state"], tenant.cell, tenant_id, number, is_drained, is_reserved
        )
        if changed is None:
            raise NoSuchVirtualNumber
        changes = await feed.virtual_number_changes(connection, [number])
        return await feed.append(connection, tenant.cell, changes, now_us)

    return await database.write(run)


async def add_credential(
    database: Database, tenant_id: str, kind: CredentialKind, now_us: int, *, may_reveal: bool = False
) -> tuple[NewCredential, Position]:
    """With `may_reveal`, numbers and PINs are shown whole to who has it. Raises NoSuchTenant."""

    async def run(connection: Connection) -> tuple[NewCredential, Position]:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        credential = await _insert_credential(connection, tenant, kind, now_us, may_reveal=may_reveal)
        return credential, await _tell(connection, tenant, now_us)

    return await database.write(run)


async def list_credentials(database: Database, tenant_id: str, kind: CredentialKind) -> list[Credential]:
    """Raises NoSuchTenant."""

    async def run(connection: Connection) -> list[Credential]:
        tenant = await _tenant(connection, tenant_id, "tenant")
        rows = await connection.fetch(_SQL["credentials"], tenant.cell, tenant_id, kind.value)
        return [Credential(row["id"], row["may_reveal"], to_instant_us(row["created_at"])) for row in rows]

    return await database.read(run)


async def delete_credential(
    database: Database, tenant_id: str, kind: CredentialKind, id: UUID, now_us: int
) -> Position:
    """Raises NoSuchTenant, NoSuchCredential."""

    async def run(connection: Connection) -> Position:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        done = await connection.execute(_SQL["delete_credential"], tenant.cell, tenant_id, kind.value, id)
        if done != "DELETE 1":
            raise NoSuchCredential
        return await _tell(connection, tenant, now_us)

    return await database.write(run)


async def add_webhook_secret(database: Database, tenant_id: str, now_us: int) -> NewWebhookSecret:
    """From now on events are signed with it, too. Raises NoSuchTenant, TooManyWebhookSecrets."""

    async def run(connection: Connection) -> NewWebhookSecret:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        secrets_of_tenant = await _webhook_secrets(connection, tenant)
        if sum(secret.retired_at_us is None for secret in secrets_of_tenant) >= WEBHOOK_SECRETS_MAX:
            raise TooManyWebhookSecrets
        return await _insert_webhook_secret(connection, tenant, now_us)

    return await database.write(run)


async def list_webhook_secrets(database: Database, tenant_id: str) -> list[WebhookSecret]:
    """The oldest first, without the secrets themselves. Raises NoSuchTenant."""

    async def run(connection: Connection) -> list[WebhookSecret]:
        return await _webhook_secrets(connection, await _tenant(connection, tenant_id, "tenant"))

    return await database.read(run)


async def retire_webhook_secret(database: Database, tenant_id: str, id: UUID, now_us: int) -> None:
    """From now on nothing is signed with it. Raises NoSuchTenant, NoSuchCredential, LastWebhookSecret."""

    async def run(connection: Connection) -> None:
        tenant = await _tenant(connection, tenant_id, "lock_tenant")
        live = {
            secret.id for secret in await _webhook_secrets(connection, tenant) if secret.retired_at_us is None
        }
        if id not in live:
            raise NoSuchCredential
        if live == {id}:
            raise LastWebhookSecret
        await connection.execute(
            _SQL["retire_webhook_secret"], tenant.cell, tenant_id, id, to_datetime(now_us)
        )

    await database.write(run)


async def _webhook_secrets(connection: Connection, tenant: Tenant) -> list[WebhookSecret]:
    rows = await connection.fetch(_SQL["webhook_secrets"], tenant.cell, tenant.id)
    return [
        WebhookSecret(
            row["id"],
            to_instant_us(row["created_at"]),
            None if row["retired_at"] is None else to_instant_us(row["retired_at"]),
        )
        for row in rows
    ]


async def _insert_webhook_secret(connection: Connection, tenant: Tenant, now_us: int) -> NewWebhookSecret:
    words = base64.b64encode(secrets.token_bytes(WEBHOOK_SECRET_BYTES)).decode()
    new = NewWebhookSecret(uuid4(), f"whsec_{words}")
    await connection.execute(
        _SQL["insert_webhook_secret"], tenant.cell, tenant.id, new.id, new.secret, to_datetime(now_us)
    )
    return new


async def _tenant(connection: Connection, tenant_id: str, query: str) -> Tenant:
    row = await connection.fetchrow(_SQL[query], tenant_id)
    if row is None:
        raise NoSuchTenant
    return Tenant(row["id"], row["cell"], row["tenant_no"], row["settings"], to_instant_us(row["created_at"]))


async def _insert_credential(
    connection: Connection, tenant: Tenant, kind: CredentialKind, now_us: int, *, may_reveal: bool = False
) -> NewCredential:
    credential = NewCredential(uuid4(), secrets.token_urlsafe(SECRET_BYTES))
    await connection.execute(
        _SQL["insert_credential"],
        tenant.cell,
        tenant.id,
        kind.value,
        credential.id,
        digest_of_secret(credential.secret),
        may_reveal,
        to_datetime(now_us),
    )
    return credential


async def _tell(connection: Connection, tenant: Tenant, now_us: int) -> Position:
    change = await feed.tenant_change(connection, tenant.id)
    return await feed.append(connection, tenant.cell, [change], now_us)


async def _release_ended_or_refuse(
    connection: Connection, cell: int, standing: Sequence[asyncpg.Record], now_us: int
) -> list[Change]:
    """What is past its end is released first; what is live stands in the way."""
    live = [row for row in standing if now_us < to_instant_us_or_never(row["expires_at"])]
    if live:
        raise HasLiveAllocations(len(live))
    return await allocations.release_changes(connection, cell, [row["id"] for row in standing], now_us)
