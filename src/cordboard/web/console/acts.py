"""The audit log, to read: what operators did at the console."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.tenant import DEFAULTS
from cordboard.storage import audit
from cordboard.storage.audit import ACTS_KEPT_DAYS, ActKey, ActRecord, Scope
from cordboard.storage.provisioning import NoSuchTenant
from cordboard.switchboard.service import Switchboard
from cordboard.web.auth import TENANT_ID
from cordboard.web.console import words
from cordboard.web.console.frame import PAGE_MAX, ROOT, Frame, Page, Visit
from cordboard.web.console.records import Row
from cordboard.web.query import LATEST_US, Query, cursor_of


class ActsQuery(BaseModel):
    tenant: str | None = None
    cursor: str | None = None


class ActPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        return [self._frame.get(f"{ROOT}/audit", self._show)]

    async def _show(self, visit: Visit) -> Page:
        query = Query(visit.form, DEFAULTS, ActsQuery)
        tenant_id = query.text("tenant")
        before = query.after(_act_key) or audit.newest(LATEST_US)
        scope = self._scope(tenant_id)
        page = await self._switchboard.database.read_snapshot(
            lambda connection: audit.list_acts(connection, scope, before, PAGE_MAX)
        )
        return Page(
            "audit.html",
            {
                "of_tenant": tenant_id or "",
                "days": ACTS_KEPT_DAYS,
                "acts": [_row(act) for act in page.items],
                "next_cursor": None if page.next_key is None else cursor_of(page.next_key),
            },
        )

    def _scope(self, tenant_id: str | None) -> Scope | None:
        """Raises NoSuchTenant."""
        if tenant_id is None:
            return None
        tenant = self._switchboard.tenants.get(tenant_id) if TENANT_ID.fullmatch(tenant_id) else None
        if tenant is None:
            raise NoSuchTenant
        return Scope(tenant.cell, tenant.id)


def _act_key(parts: Any) -> ActKey:
    """Raises ValueError or TypeError for what `cursor_of` never made."""
    at_us, id = parts
    if type(at_us) is not int or not 0 <= at_us <= LATEST_US or not isinstance(id, str):
        raise ValueError
    return ActKey(at_us, UUID(id))


def _row(act: ActRecord) -> Row:
    return {
        "at_us": act.at_us,
        "operator": act.operator,
        "client_address": act.client_address,
        "said": words.acted(act.act, act.object_kind),
        "tenant_id": act.tenant_id,
        "object_kind": act.object_kind.value,
        "object_id": act.object_id,
    }
