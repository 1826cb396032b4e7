"""A tenant's settings, and changing one of them as `PUT …/settings` would."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.allocate import Code, Unacceptable
from cordboard.storage import audit
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.database import Connection
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import Tenant, set_settings
from cordboard.switchboard.service import Switchboard
from cordboard.web.console.frame import TENANT, Frame, Page, Redirect, Visit
from cordboard.web.console.records import HIDDEN
from cordboard.web.errors import Problem, Refused, problem_of
from cordboard.web.query import Query
from cordboard.web.tenant_settings import (
    DEFAULT_SETTINGS,
    ENDPOINT_KEYS,
    check_size,
    checked_settings,
    effective,
)
from cordboard.webhooks.destinations import Destinations, parse_endpoint

_DEFAULT_WORD: Final = "default"


class SettingForm(BaseModel):
    """`value` as JSON, or as the text itself; `default` takes the key back to its default."""

    value: str | None = None
    default: str | None = None


class SettingsPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame
        self._destinations = Destinations.of_settings(switchboard.settings)

    def routes(self) -> list[web.RouteDef]:
        one = f"{TENANT}/settings/{{key}}"
        return [
            self._frame.get(f"{TENANT}/settings", self._show_all),
            self._frame.get(one, self._show),
            self._frame.post(one, self._change),
        ]

    async def _show_all(self, visit: Visit) -> Page:
        given = visit.tenant.given
        rows = [
            {
                "key": key,
                "value": _text(_shown(key, value)),
                "is_set": key in given,
                "is_known": key in DEFAULT_SETTINGS,
            }
            for key, value in effective(given).items()
        ]
        return Page("settings.html", {"settings": rows})

    async def _show(self, visit: Visit) -> Page:
        return _setting_page(visit, _key_of(visit))

    async def _change(self, visit: Visit) -> Page | Redirect:
        key = _key_of(visit)
        try:
            changed = self._changed(visit, key)
        except (Refused, Unacceptable) as error:
            return _setting_page(visit, key, problem_of(error), visit.form.query.get("value"))
        tenant_id = visit.tenant.id
        now_us = visit.now_us

        async def change(connection: Connection) -> tuple[Tenant, Position]:
            # The values stay out of the audit log: addresses have passwords in them.
            await audit.record(connection, visit.act(Act.SETTINGS_CHANGED, ObjectKind.SETTINGS, key), now_us)
            return await set_settings(connection, tenant_id, changed, now_us)

        _, position = await self._switchboard.database.write(change)
        is_propagated = await self._switchboard.propagate(position)
        return Redirect(
            TENANT.format(tenant=tenant_id) + "/settings", "changed" if is_propagated else "changed-pending"
        )

    def _changed(self, visit: Visit, key: str) -> dict[str, Any]:
        """Raises Refused, Unacceptable."""
        query = Query(visit.form, visit.tenant.settings, SettingForm)
        value = query.text("value")
        if query.word("default", (_DEFAULT_WORD,)) is not None:
            parsed = None
        elif value is None:
            raise Refused(Code.MISSING, f"{key}: a value must be given, or the default be chosen.")
        else:
            parsed = _parsed(value)
        changed = checked_settings({key: parsed}, self._destinations)
        check_size({**visit.tenant.given, **changed})
        return changed


def _setting_page(visit: Visit, key: str, problem: Problem | None = None, typed: str | None = None) -> Page:
    value = effective(visit.tenant.given)[key]
    shown = _shown(key, value)
    return Page(
        "setting.html",
        {
            "key": key,
            "fault": None if problem is None else problem.message,
            "current": _text(shown),
            "is_set": key in visit.tenant.given,
            # An address that is shown in part must not be sent back in part.
            "typed": typed if typed is not None else _text(value) if shown == value else "",
            "standard": _text(DEFAULT_SETTINGS.get(key)),
        },
        200 if problem is None else problem.status,
    )


def _key_of(visit: Visit) -> str:
    """Raises Refused (404)."""
    key = visit.request.match_info["key"]
    if key not in DEFAULT_SETTINGS and key not in visit.tenant.given:
        raise Refused(Code.NOT_FOUND, "key: there is no such setting.")
    return key


def _parsed(typed: str) -> Any:
    try:
        return orjson.loads(typed)
    except orjson.JSONDecodeError:
        return typed


def _shown(key: str, value: Any) -> Any:
    """A setting without the passwords and keys that an address may have."""
    if key not in ENDPOINT_KEYS or not isinstance(value, str) or not value:
        return value
    endpoint = parse_endpoint(value)
    if endpoint is None:
        return HIDDEN
    plain = str(endpoint.url.with_query(None))
    return plain if plain == value else f"{endpoint.url.origin()}/{HIDDEN}"


def _text(value: Any) -> str:
    """As it would be typed: a text as it is, unless it would be read as something else."""
    if value is None:
        return ""
    if isinstance(value, str) and _parsed(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
