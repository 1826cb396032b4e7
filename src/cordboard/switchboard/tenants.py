"""Tenants as the calls and the API need them: read from the board, parsed once."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from typing import Any, Final

from cordboard.routing.changes import TenantStands, decode
from cordboard.routing.tenant import TenantSettings, parse_settings
from cordboard.storage.provisioning import digest_of_secret
from cordboard.tables.board import BoardTables

# Some 10 kB a tenant; over this the least recently parsed ones are parsed again.
TENANTS_PARSED_MAX: Final = 10_000


class TenantView:
    """One state of a tenant; a change of it makes another view."""

    __slots__ = (
        "_accepted_key",
        "_api_tokens",
        "_applet_keys",
        "_revealing_tokens",
        "cell",
        "given",
        "id",
        "settings",
        "tenant_no",
    )

    def __init__(self, change: TenantStands) -> None:
        self.id = change.tenant_id
        self.cell = change.cell
        self.tenant_no = change.tenant_no
        # As the client set them, keys that we do not know among them.
        self.given: dict[str, Any] = change.settings
        self.settings: TenantSettings = parse_settings(change.settings)
        self._api_tokens = tuple(map(bytes.fromhex, change.api_token_digests))
        self._revealing_tokens = tuple(map(bytes.fromhex, change.revealing_digests))
        self._applet_keys = tuple(map(bytes.fromhex, change.applet_key_digests))
        # The applet key that was accepted last: a platform sends the same one with every hop, and
        # comparing it takes a tenth of digesting it. A view lives only until the tenant changes.
        self._accepted_key = b""

    def accepts_api_token(self, secret: str) -> bool:
        return _is_one_of(secret, self._api_tokens)

    def reveals_to(self, secret: str) -> bool:
        """Whether numbers and PINs are shown whole to who has this API token."""
        return _is_one_of(secret, self._revealing_tokens)

    def accepts_applet_key(self, secret: str) -> bool:
        given = secret.encode(errors="surrogatepass")
        if self._accepted_key and hmac.compare_digest(given, self._accepted_key):
            return True
        is_accepted = _is_one_of(secret, self._applet_keys)
        if is_accepted:
            self._accepted_key = given
        return is_accepted


def _is_one_of(secret: str, digests: tuple[bytes, ...]) -> bool:
    """In constant time for each, and always for all."""
    digest = digest_of_secret(secret)
    is_known = False
    for known in digests:
        is_known |= hmac.compare_digest(digest, known)
    return is_known


class TenantDirectory:
    """Tenant id → view. A record is parsed when it is first seen and whenever it has changed."""

    def __init__(self, tables: Callable[[], BoardTables]) -> None:
        self._tables = tables
        self._parsed: dict[str, tuple[bytes, TenantView]] = {}

    def get(self, tenant_id: str) -> TenantView | None:
        record = self._tables().tenant(tenant_id)
        if record is None:
            self._parsed.pop(tenant_id, None)
            return None
        return self._view(tenant_id, record)

    def all(self) -> Iterator[TenantView]:
        """Every tenant; a walk over the installation, for its operator."""
        for tenant_id, record in self._tables().tenants_by_id():
            yield self._view(tenant_id, record)

    def _view(self, tenant_id: str, record: bytes) -> TenantView:
        parsed = self._parsed.get(tenant_id)
        if parsed is not None and parsed[0] == record:
            return parsed[1]
        change = decode("tenant", record)
        assert isinstance(change, TenantStands)
        view = TenantView(change)
        if len(self._parsed) >= TENANTS_PARSED_MAX:
            del self._parsed[next(iter(self._parsed))]
        self._parsed[tenant_id] = (record, view)
        return view
