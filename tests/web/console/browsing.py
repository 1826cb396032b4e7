"""A person at the console, without a browser: keeps cookies and sends the forms that a page has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urlencode

import aiohttp

from cordboard.storage.audit import ActRecord, Scope, list_acts, newest
from cordboard.storage.database import Connection
from cordboard.web.query import LATEST_US
from tests.web.shop import ADMIN_TOKEN, Shop

_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class Seen:
    status: int
    headers: dict[str, str]
    html: str

    @property
    def text(self) -> str:
        """What a person reads, with blanks made one."""
        return " ".join(unescape(_TAG.sub(" ", self.html)).split())

    def hidden(self, name: str) -> list[str]:
        """The values of the hidden fields of that name."""
        return re.findall(rf'type="hidden" name="{name}" value="([^"]*)"', self.html)

    def links(self, part: str) -> list[str]:
        """Where the page leads to, of what has `part` in it."""
        return [unescape(link) for link in re.findall(r'href="([^"]+)"', self.html) if part in link]


class Person:
    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self.origin = base_url
        self.form_token = ""

    async def log_in(self, name: str = "Asha", token: str = ADMIN_TOKEN, **fields: str) -> Seen:
        seen = await self.send("/console/login", {"name": name, "token": token, **fields})
        if seen.status == 303:
            await self.open("/console")
        return seen

    async def open(self, path: str) -> Seen:
        return self._seen(await self._request("GET", path))

    async def post(self, path: str, /, **fields: str) -> Seen:
        """Sends a form of ours, as a page of the console would."""
        return await self.send(path, {"form_token": self.form_token, **fields})

    async def send(self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Seen:
        sent = {"Origin": self.origin} if headers is None else headers
        seen = await self._request(
            "POST",
            path,
            data=urlencode(fields),
            headers={"Content-Type": "application/x-www-form-urlencoded", **sent},
        )
        return self._seen(seen)

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self._session.cookie_jar}

    async def _request(self, method: str, path: str, **more: Any) -> Seen:
        async with self._session.request(
            method, self.origin + path, allow_redirects=False, **more
        ) as response:
            return Seen(response.status, dict(response.headers), await response.text())

    def _seen(self, seen: Seen) -> Seen:
        if tokens := _TOKEN.findall(seen.html):
            self.form_token = tokens[0]
        return seen


async def acts(shop: Shop) -> list[ActRecord]:
    """What the audit log has of the tenant, the newest first."""
    tenant = shop.switchboard.tenants.get(shop.id)
    assert tenant is not None

    async def read(connection: Connection) -> list[ActRecord]:
        page = await list_acts(connection, Scope(tenant.cell, tenant.id), newest(LATEST_US), 100)
        return page.items

    return await shop.switchboard.database.read(read)
