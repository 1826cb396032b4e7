"""The REST API of tenants, `/v1/tenants/{tenant}` without its applets (exotel.md 8.2)."""

from __future__ import annotations

from cordboard.switchboard.service import Switchboard
from cordboard.web.applet_keys import AppletKeys
from cordboard.web.events import Events
from cordboard.web.exchange import Tenants
from cordboard.web.explain import Explaining
from cordboard.web.greenpin import GreenPins
from cordboard.web.greenvn import GreenVns
from cordboard.web.lists import Lists
from cordboard.web.openapi import Route
from cordboard.web.pool import Pool
from cordboard.web.second_generation import SecondGeneration
from cordboard.web.tenant_settings import SettingsResource
from cordboard.web.webhook_secrets import WebhookSecrets


def rest_routes(switchboard: Switchboard) -> list[Route]:
    tenants = Tenants(switchboard.tenants, switchboard.answering.settled)
    second = SecondGeneration(switchboard)
    return [
        *GreenPins(switchboard, second).routes(tenants),
        *GreenVns(switchboard, second).routes(tenants),
        *Lists(switchboard).routes(tenants),
        *Explaining(switchboard).routes(tenants),
        *Events(switchboard).routes(tenants),
        *WebhookSecrets(switchboard).routes(tenants),
        *Pool(switchboard).routes(tenants),
        *SettingsResource(switchboard).routes(tenants),
        *AppletKeys(switchboard).routes(tenants),
    ]
