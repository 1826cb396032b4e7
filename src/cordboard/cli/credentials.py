"""API tokens, applet keys and webhook secrets of tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.table import Table

from cordboard.cli.reach import now_us, on_tenant
from cordboard.cli.shell import AsJson, DataDir, print_json, show
from cordboard.clock import to_datetime
from cordboard.storage import provisioning
from cordboard.storage.provisioning import CredentialKind
from cordboard.web.account_time import iso_text

token_app: Final = typer.Typer(help="API tokens of a tenant.", no_args_is_help=True)
key_app: Final = typer.Typer(help="Applet keys of a tenant.", no_args_is_help=True)
secret_app: Final = typer.Typer(
    help="Webhook secrets of a tenant: what its events are signed with.", no_args_is_help=True
)


def _add_credential_commands(group: typer.Typer, kind: CredentialKind, id_name: str, secret: str) -> None:
    def make(tenant_id: str, data_dir: Path | None, *, may_reveal: bool) -> None:
        made, _ = on_tenant(
            data_dir,
            lambda database: provisioning.add_credential(
                database, tenant_id, kind, now_us(), may_reveal=may_reveal
            ),
        )
        print_json({id_name: str(made.id), secret: made.secret})

    if kind is CredentialKind.API_TOKEN:

        @group.command("add")
        def add_token(
            tenant_id: str,
            reveal: Annotated[
                bool, typer.Option("--reveal", help="Show numbers and PINs whole to who has it.")
            ] = False,
            data_dir: DataDir = None,
            as_json: AsJson = True,  # noqa: ARG001 - it prints nothing else.
        ) -> None:
            """Make one; the secret is shown now and never again, as JSON."""
            make(tenant_id, data_dir, may_reveal=reveal)
    else:

        @group.command("add")
        def add(
            tenant_id: str,
            data_dir: DataDir = None,
            as_json: AsJson = True,  # noqa: ARG001 - it prints nothing else.
        ) -> None:
            """Make one; the secret is shown now and never again, as JSON."""
            make(tenant_id, data_dir, may_reveal=False)

    @group.command("list")
    def list_(tenant_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Their ids; the secrets are not kept."""
        credentials = on_tenant(
            data_dir, lambda database: provisioning.list_credentials(database, tenant_id, kind)
        )
        table = Table(id_name, "made")
        for credential in credentials:
            made = to_datetime(credential.created_at_us).isoformat(timespec="seconds")
            table.add_row(str(credential.id), made)
        items = [
            {id_name: str(credential.id), "created_at": iso_text(credential.created_at_us)}
            for credential in credentials
        ]
        show(table, {"items": items}, as_json=as_json)

    @group.command("delete")
    def delete(tenant_id: str, id: UUID, data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """End one; whoever uses it is refused from now on."""
        on_tenant(
            data_dir,
            lambda database: provisioning.delete_credential(database, tenant_id, kind, id, now_us()),
        )
        show(f"{id} deleted", {id_name: str(id)}, as_json=as_json)


_add_credential_commands(token_app, CredentialKind.API_TOKEN, "token_id", "api_token")
_add_credential_commands(key_app, CredentialKind.APPLET_KEY, "key_id", "applet_key")


@secret_app.command("add")
def secret_add(
    tenant_id: str,
    data_dir: DataDir = None,
    as_json: AsJson = True,  # noqa: ARG001 - it prints nothing else.
) -> None:
    """Make one; it is shown now and never again, as JSON, and signs events beside the others from now on."""
    made = on_tenant(
        data_dir, lambda database: provisioning.add_webhook_secret(database, tenant_id, now_us())
    )
    print_json({"secret_id": str(made.id), "webhook_secret": made.secret})


@secret_app.command("list")
def secret_list(tenant_id: str, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Their ids, and which of them sign no more."""
    secrets = on_tenant(data_dir, lambda database: provisioning.list_webhook_secrets(database, tenant_id))
    items = [
        {
            "secret_id": str(secret.id),
            "created_at": iso_text(secret.created_at_us),
            "retired_at": None if secret.retired_at_us is None else iso_text(secret.retired_at_us),
        }
        for secret in secrets
    ]
    table = Table("secret_id", "made", "retired")
    for item in items:
        table.add_row(*item.values())
    show(table, {"webhook_secrets": items}, as_json=as_json)


@secret_app.command("delete")
def secret_delete(tenant_id: str, id: UUID, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Sign nothing more with one; the last one stays."""
    on_tenant(
        data_dir, lambda database: provisioning.retire_webhook_secret(database, tenant_id, id, now_us())
    )
    show(f"{id} deleted", {"secret_id": str(id)}, as_json=as_json)
