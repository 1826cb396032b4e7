"""`/applet-keys`: a tenant changes the keys in its applet URLs without its operator."""

from __future__ import annotations

from cordboard.routing.allocate import Code
from cordboard.switchboard.service import Switchboard
from cordboard.web import credentials
from cordboard.web.credentials import KEYS
from cordboard.web.documents import AppletKeyDeleted, AppletKeyMade, AppletKeysShown
from cordboard.web.envelope import Answer, propagation
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route


class AppletKeys:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard

    def routes(self, tenants: Tenants) -> list[Route]:
        path = f"{TENANT_PATH}/applet-keys"
        return [
            tenants.route(
                "POST", path, self._make, Operation("Make an applet key", data=AppletKeyMade, status=201)
            ),
            tenants.route("GET", path, self._list, Operation("List the applet keys", data=AppletKeysShown)),
            tenants.route(
                "DELETE",
                f"{path}/{{key_id}}",
                self._delete,
                Operation("Delete an applet key", data=AppletKeyDeleted, codes=(Code.NOT_FOUND,)),
            ),
        ]

    async def _make(self, exchange: Exchange) -> Answer:
        shown, is_propagated = await credentials.make(self._switchboard, exchange.tenant.id, KEYS)
        return Answer(shown, status=201, headers=propagation(is_propagated))

    async def _list(self, exchange: Exchange) -> Answer:
        tenant = exchange.tenant
        return Answer(
            await credentials.show_all(self._switchboard, tenant.id, KEYS, tenant.settings.timezone)
        )

    async def _delete(self, exchange: Exchange) -> Answer:
        key_id = exchange.request.match_info["key_id"]
        shown, is_propagated = await credentials.delete(self._switchboard, exchange.tenant.id, KEYS, key_id)
        return Answer(shown, headers=propagation(is_propagated))
