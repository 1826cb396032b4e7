"""The REST API of tenants, `/v1/tenants/{tenant}` without its applets (exotel.md 8.2)."""

from __future__ import annotations

from aiohttp import web

from cordboard.switchboard.service import Switchboard
from cordboard.web.applet_keys import AppletKeys
from cordboard.web.exchange import Tenants
from cordboard.web.greenpin import GreenPins
from cordboard.web.greenvn import GreenVns
from cordboard.web.tenant_settings import SettingsResource


def rest_routes(switchboard: Switchboard) -> list[web.RouteDef]:
    tenants = Tenants(switchboard.tenants)
    return [
        *GreenPins(switchboard).routes(tenants),
        *GreenVns(switchboard).routes(tenants),
        *SettingsResource(switchboard).routes(tenants),
        *AppletKeys(switchboard).routes(tenants),
    ]
