"""API tokens and applet keys as JSON: their secrets are shown once, when they are made."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cordboard.storage import provisioning
from cordboard.storage.provisioning import CredentialKind, NoSuchCredential
from cordboard.switchboard.service import Switchboard
from cordboard.web.account_time import iso_text
from cordboard.web.schemas import parse_id


class Words(NamedTuple):
    """How the wire calls one kind of credential: its list, the id of one, the secret."""

    kind: CredentialKind
    many: str
    id: str
    secret: str


TOKENS: Final = Words(CredentialKind.API_TOKEN, "tokens", "token_id", "api_token")
KEYS: Final = Words(CredentialKind.APPLET_KEY, "applet_keys", "key_id", "applet_key")


async def make(
    switchboard: Switchboard, tenant_id: str, words: Words, *, may_reveal: bool = False
) -> tuple[dict[str, Any], bool]:
    """What to show of a new one, and whether this node accepts it already. Raises NoSuchTenant."""
    made, position = await provisioning.add_credential(
        switchboard.database, tenant_id, words.kind, switchboard.clock.now_us(), may_reveal=may_reveal
    )
    shown = {words.id: str(made.id), words.secret: made.secret}
    return shown, await switchboard.propagate(position)


async def show_all(switchboard: Switchboard, tenant_id: str, words: Words, zone: str) -> dict[str, Any]:
    """Raises NoSuchTenant."""
    credentials = await provisioning.list_credentials(switchboard.database, tenant_id, words.kind)
    return {
        words.many: [
            {
                words.id: str(credential.id),
                **({"reveal": credential.may_reveal} if words is TOKENS else {}),
                "created_at": iso_text(credential.created_at_us, zone),
            }
            for credential in credentials
        ]
    }


async def delete(
    switchboard: Switchboard, tenant_id: str, words: Words, given_id: str
) -> tuple[dict[str, Any], bool]:
    """Raises NoSuchTenant, NoSuchCredential."""
    id = parse_id(given_id)
    if id is None:
        raise NoSuchCredential
    position = await provisioning.delete_credential(
        switchboard.database, tenant_id, words.kind, id, switchboard.clock.now_us()
    )
    return {words.id: str(id)}, await switchboard.propagate(position)
