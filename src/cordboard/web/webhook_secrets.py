"""`/webhook-secrets`: a tenant rotates what its events are signed with.

Make a second one, give it to the receivers, then delete the first: meanwhile both sign every event.
"""

from __future__ import annotations

from cordboard.routing.allocate import Code
from cordboard.storage import provisioning
from cordboard.storage.provisioning import NoSuchCredential
from cordboard.switchboard.service import Switchboard
from cordboard.web.account_time import iso_text
from cordboard.web.documents import WebhookSecretDeleted, WebhookSecretMade, WebhookSecretsShown
from cordboard.web.envelope import Answer
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route
from cordboard.web.schemas import parse_id


class WebhookSecrets:
    def __init__(self, switchboard: Switchboard) -> None:
        self._database = switchboard.database
        self._clock = switchboard.clock

    def routes(self, tenants: Tenants) -> list[Route]:
        path = f"{TENANT_PATH}/webhook-secrets"
        return [
            tenants.route(
                "POST",
                path,
                self._make,
                Operation(
                    "Make a webhook secret",
                    description="Events are signed with each that there is, by the Standard Webhooks scheme.",
                    data=WebhookSecretMade,
                    status=201,
                    codes=(Code.CLIENT_ID_TAKEN,),
                ),
            ),
            tenants.route(
                "GET", path, self._list, Operation("List the webhook secrets", data=WebhookSecretsShown)
            ),
            tenants.route(
                "DELETE",
                f"{path}/{{secret_id}}",
                self._delete,
                Operation(
                    "Delete a webhook secret",
                    data=WebhookSecretDeleted,
                    codes=(Code.NOT_FOUND, Code.CLIENT_ID_TAKEN),
                ),
            ),
        ]

    async def _make(self, exchange: Exchange) -> Answer:
        made = await provisioning.add_webhook_secret(self._database, exchange.tenant.id, self._clock.now_us())
        return Answer({"secret_id": str(made.id), "webhook_secret": made.secret}, status=201)

    async def _list(self, exchange: Exchange) -> Answer:
        zone = exchange.tenant.settings.timezone
        secrets = await provisioning.list_webhook_secrets(self._database, exchange.tenant.id)
        return Answer(
            {
                "webhook_secrets": [
                    {
                        "secret_id": str(secret.id),
                        "created_at": iso_text(secret.created_at_us, zone),
                        "retired_at": (
                            None if secret.retired_at_us is None else iso_text(secret.retired_at_us, zone)
                        ),
                    }
                    for secret in secrets
                ]
            }
        )

    async def _delete(self, exchange: Exchange) -> Answer:
        id = parse_id(exchange.request.match_info["secret_id"])
        if id is None:
            raise NoSuchCredential
        await provisioning.retire_webhook_secret(self._database, exchange.tenant.id, id, self._clock.now_us())
        return Answer({"secret_id": str(id)})
