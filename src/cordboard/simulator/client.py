"""Speaks to an engine as its operator and as a tenant's software do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import orjson

from cordboard.simulator.wire import basic

REQUEST_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is the JSON, or the text of an answer that is none."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def data(self) -> Any:
        """What an envelope (exotel.md 8.1) carries."""
        return self.body["data"]


class Unexpected(Exception):
    """An answer that a set-up cannot go on with. The message has the status and the engine's words."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A tenant's way in; never printed."""

    tenant_id: str
    api_token: str
    applet_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.tenant_id})"


class Client:
    def __init__(self, session: aiohttp.ClientSession, base_url: str, admin_token: str) -> None:
        self.base_url = base_url
        self._session = session
        self._admin_token = admin_token

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request; `raw` is sent as it is, `body` as JSON; `user` with the password is HTTP Basic."""
        content = raw if raw is not None else None if body is None else orjson.dumps(body)
        sent = dict(headers or {})
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        if user is not None:
            sent["Authorization"] = basic(*user)
        async with self._session.request(
            method,
            self.base_url + path,
            # aiohttp has doubts about a megabyte of bytes, and none about a file of them.
            data=None if content is None else BytesIO(content),
            headers=sent,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        ) as response:
            said = await response.read()
            try:
                answered = orjson.loads(said)
            except orjson.JSONDecodeError:
                answered = said.decode("utf-8", "replace")
            return Answer(response.status, dict(response.headers), answered)

    async def admin(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None
    ) -> Answer:
        """`/admin/v1` and `path`."""
        bearer = {"Authorization": f"Bearer {self._admin_token}"}
        asked = f"?{urlencode(query)}" if query else ""
        return await self.ask(method, f"/admin/v1{path}{asked}", body, headers=bearer)

    async def api(
        self,
        credentials: Credentials,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """`/v1/tenants/{tenant}` and `path`, as the tenant's software."""
        user = (credentials.tenant_id, credentials.api_token)
        url = f"/v1/tenants/{credentials.tenant_id}{path}"
        return await self.ask(method, url, body, user=user, headers=headers, raw=raw)

    async def add_tenant(self, tenant_id: str, settings: Mapping[str, Any] | None = None) -> Credentials:
        answer = expect(
            201, await self.admin("POST", "/tenants", {"id": tenant_id, "settings": dict(settings or {})})
        )
        return Credentials(tenant_id, answer.body["api_token"], answer.body["applet_key"])

    async def add_virtual_numbers(self, tenant_id: str, *numbers: str) -> None:
        vns = {"vns": [{"number": number} for number in numbers]}
        expect(201, await self.admin("POST", f"/tenants/{tenant_id}/vns", vns))

    async def allocate(self, credentials: Credentials, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `data` of a GreenPin that is made."""
        data: Mapping[str, Any] = expect(200, await self.api(credentials, "POST", "/greenpin", body)).data
        return data


def expect(status: int, answer: Answer) -> Answer:
    """`answer`, if it has the status. Raises Unexpected."""
    if answer.status != status:
        said = answer.body.get("message") if isinstance(answer.body, dict) else None
        raise Unexpected(f"status {answer.status} in place of {status}: {said}")
    return answer
