"""`/admin/v1`: tenants, their virtual numbers and credentials, for the operator with the admin token.

What goes well is plain JSON, what goes wrong an envelope like everywhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.allocate import Code, Fault, Unacceptable
from cordboard.routing.numbers import E164, parse_number
from cordboard.routing.tenant import parse_settings, rate_text
from cordboard.storage import erasing, provisioning, throttles
from cordboard.storage.provisioning import (
    NewVirtualNumber,
    NoSuchTenant,
    NoSuchVirtualNumber,
    NumberProvisioned,
    Tenant,
    TenantSummary,
    VirtualNumber,
)
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.throttle import WindowState
from cordboard.web import credentials
from cordboard.web.account_time import iso_text
from cordboard.web.auth import TENANT_ID, check_admin
from cordboard.web.bodies import BULK_BYTES_MAX, read_object
from cordboard.web.credentials import KEYS, TOKENS, Words
from cordboard.web.documents import (
    AppletKeyDeleted,
    AppletKeyMade,
    AppletKeysShown,
    PersonErased,
    TenantDeleted,
    TenantMade,
    TenantShown,
    TenantsShown,
    ThrottlesCleared,
    ThrottlesClearQuery,
    ThrottlesQuery,
    ThrottlesShown,
    TokenDeleted,
    TokenMade,
    TokensShown,
    VirtualNumberDeleted,
    VirtualNumberShown,
    VirtualNumbersShown,
)
from cordboard.web.envelope import propagation, response
from cordboard.web.errors import Refused, expect_continue, problem_of, refusal
from cordboard.web.explain import EXPLAIN, explained
from cordboard.web.openapi import ADMIN_API, Operation, Route
from cordboard.web.query import Query
from cordboard.web.request_ids import logged_as, request_id_of
from cordboard.web.schemas import (
    EraseBody,
    NewTenantBody,
    NewTokenBody,
    NewVirtualNumbersBody,
    VirtualNumberStateBody,
    checked,
)
from cordboard.web.tenant_settings import checked_settings
from cordboard.webhooks.destinations import Destinations

TENANTS_PATH: Final = "/admin/v1/tenants"
TENANT_PATH: Final = f"{TENANTS_PATH}/{{tenant}}"
ERASE_PATH: Final = "/admin/v1/erase"
# Under attack there is a window for each made-up caller; who looks for one of them knows its number.
WINDOWS_SHOWN_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What went well."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


AdminHandler = Callable[[web.Request], Awaitable[Shown]]


def admin_routes(switchboard: Switchboard, admin_token: str) -> list[Route]:
    return Admin(switchboard, admin_token).routes()


class Admin:
    def __init__(self, switchboard: Switchboard, admin_token: str) -> None:
        self._switchboard = switchboard
        self._database = switchboard.database
        self._admin_token = admin_token

    def routes(self) -> list[Route]:
        vns_path = f"{TENANT_PATH}/vns"
        return [
            self._route(
                "POST",
                TENANTS_PATH,
                self._add_tenant,
                Operation(
                    "Make a tenant, with an API token, an applet key and a webhook secret",
                    body=NewTenantBody,
                    data=TenantMade,
                    status=201,
                    codes=(Code.CLIENT_ID_TAKEN,),
                ),
            ),
            self._route(
                "GET", TENANTS_PATH, self._list_tenants, Operation("List the tenants", data=TenantsShown)
            ),
            self._route(
                "GET",
                TENANT_PATH,
                self._show_tenant,
                Operation("Show a tenant", data=TenantShown, codes=(Code.NOT_FOUND,)),
            ),
            self._route(
                "DELETE",
                TENANT_PATH,
                self._delete_tenant,
                Operation(
                    "Delete a tenant that has no live allocations",
                    data=TenantDeleted,
                    codes=(Code.NOT_FOUND, Code.CLIENT_ID_TAKEN),
                ),
            ),
            self._route(
                "POST",
                vns_path,
                self._add_virtual_numbers,
                Operation(
                    "Provision virtual numbers, all of them or none",
                    body=NewVirtualNumbersBody,
                    data=VirtualNumbersShown,
                    status=201,
                    codes=(Code.NOT_FOUND, Code.BAD_NUMBER, Code.PIN_OR_NUMBER_TAKEN),
                ),
            ),
            self._route(
                "GET",
                vns_path,
                self._list_virtual_numbers,
                Operation("List the virtual numbers", data=VirtualNumbersShown, codes=(Code.NOT_FOUND,)),
            ),
            self._route(
                "GET",
                f"{vns_path}/{{number}}",
                self._show_virtual_number,
                Operation("Show a virtual number", data=VirtualNumberShown, codes=(Code.NOT_FOUND,)),
            ),
            self._route(
                "PATCH",
                f"{vns_path}/{{number}}",
                self._change_virtual_number,
                Operation(
                    "Drain or reserve a virtual number, or no longer",
                    body=VirtualNumberStateBody,
                    data=VirtualNumberShown,
                    codes=(Code.NOT_FOUND,),
                ),
            ),
            self._route(
                "DELETE",
                f"{vns_path}/{{number}}",
                self._delete_virtual_number,
                Operation(
                    "Delete a virtual number that has no live allocations",
                    data=VirtualNumberDeleted,
                    codes=(Code.NOT_FOUND, Code.CLIENT_ID_TAKEN),
                ),
            ),
            self._route(
                "GET",
                f"{TENANT_PATH}/explain",
                self._explain,
                replace(EXPLAIN, codes=(*EXPLAIN.codes, Code.NOT_FOUND)),
            ),
            self._route(
                "POST",
                ERASE_PATH,
                self._erase,
                Operation(
                    "Erase one person everywhere",
                    description=(
                        "Out of live and released allocations, calls, verifications, events and throttles"
                        " that were lifted. An erasure that was broken off is finished by the same request"
                        " again."
                    ),
                    body=EraseBody,
                    data=PersonErased,
                    codes=(Code.NOT_FOUND, Code.BAD_NUMBER),
                ),
            ),
            self._route(
                "GET",
                f"{TENANT_PATH}/throttles",
                self._list_throttles,
                Operation(
                    "List the windows of wrong PINs",
                    query=ThrottlesQuery,
                    data=ThrottlesShown,
                    codes=(Code.NOT_FOUND, Code.UNSUPPORTED_FILTER, Code.BAD),
                ),
            ),
            self._route(
                "DELETE",
                f"{TENANT_PATH}/throttles",
                self._clear_throttles,
                Operation(
                    "Lift the tenant's own window of wrong PINs, or a caller's, a virtual number's, or all",
                    query=ThrottlesClearQuery,
                    data=ThrottlesCleared,
                    codes=(Code.NOT_FOUND, Code.UNSUPPORTED_FILTER, Code.BAD, Code.BAD_NUMBER),
                ),
            ),
            *self._credential_routes(
                f"{TENANT_PATH}/tokens", TOKENS, "API token", (TokenMade, TokensShown, TokenDeleted)
            ),
            *self._credential_routes(
                f"{TENANT_PATH}/applet-keys",
                KEYS,
                "applet key",
                (AppletKeyMade, AppletKeysShown, AppletKeyDeleted),
            ),
        ]

    # ── tenants ──────────────────────────────────────────────────────────────

    async def _add_tenant(self, request: web.Request) -> Shown:
        body = checked(NewTenantBody, await read_object(request))
        given = checked_settings(body.settings or {}, Destinations.of_settings(self._switchboard.settings))
        settings = {key: value for key, value in given.items() if value is not None}
        made = await provisioning.add_tenant(self._database, body.id, settings, self._now_us())
        is_propagated = await self._switchboard.propagate(made.position)
        shown = {
            "id": made.tenant.id,
            "api_token": made.api_token.secret,
            "applet_key": made.applet_key.secret,
            "webhook_secret": made.webhook_secret.secret,
        }
        return Shown(shown, 201, propagation(is_propagated))

    async def _list_tenants(self, _: web.Request) -> Shown:
        tenants = await provisioning.list_tenants(self._database)
        return Shown({"tenants": [summary_shown(tenant) for tenant in tenants]})

    async def _show_tenant(self, request: web.Request) -> Shown:
        return Shown(_tenant_shown(await provisioning.get_tenant(self._database, _tenant_id(request))))

    async def _delete_tenant(self, request: web.Request) -> Shown:
        tenant_id = _tenant_id(request)
        position = await provisioning.delete_tenant(self._database, tenant_id, self._now_us())
        is_propagated = await self._switchboard.propagate(position)
        return Shown({"id": tenant_id}, headers=propagation(is_propagated))

    # ── virtual numbers ──────────────────────────────────────────────────────

    async def _add_virtual_numbers(self, request: web.Request) -> Shown:
        tenant = await provisioning.get_tenant(self._database, _tenant_id(request))
        body = checked(NewVirtualNumbersBody, await read_object(request, BULK_BYTES_MAX))
        new = new_virtual_numbers(body, parse_settings(tenant.settings).country)
        now_us = self._now_us()
        try:
            position = await provisioning.add_virtual_numbers(self._database, tenant.id, new, now_us)
        except NumberProvisioned as refused:
            numbers = [virtual_number.number for virtual_number in new]
            raise Unacceptable([_provisioned(numbers, refused.numbers[0])]) from None
        is_propagated = await self._switchboard.propagate(position)
        shown = [
            virtual_number_shown(
                VirtualNumber(
                    virtual_number.number,
                    virtual_number.region,
                    virtual_number.type,
                    virtual_number.flow_id,
                    virtual_number.is_reserved,
                    is_drained=False,
                    created_at_us=now_us,
                )
            )
            for virtual_number in new
        ]
        return Shown({"vns": shown}, 201, propagation(is_propagated))

    async def _list_virtual_numbers(self, request: web.Request) -> Shown:
        numbers = await provisioning.list_virtual_numbers(self._database, _tenant_id(request))
        return Shown({"vns": [virtual_number_shown(number) for number in numbers]})

    async def _show_virtual_number(self, request: web.Request) -> Shown:
        number = await self._number_of_path(request)
        return Shown(await self._shown(_tenant_id(request), number))

    async def _change_virtual_number(self, request: web.Request) -> Shown:
        tenant_id, number = _tenant_id(request), await self._number_of_path(request)
        body = checked(VirtualNumberStateBody, await read_object(request))
        if body.drained is None and body.reserved is None:
            message = "At least one of drained and reserved must be given."
            raise Unacceptable([Fault(Code.MISSING, "drained", message)])
        position = await provisioning.set_virtual_number_state(
            self._database,
            tenant_id,
            number,
            self._now_us(),
            is_drained=body.drained,
            is_reserved=body.reserved,
        )
        is_propagated = await self._switchboard.propagate(position)
        return Shown(await self._shown(tenant_id, number), headers=propagation(is_propagated))

    async def _shown(self, tenant_id: str, number: E164) -> Mapping[str, Any]:
        """Raises NoSuchTenant, NoSuchVirtualNumber."""
        for virtual_number in await provisioning.list_virtual_numbers(self._database, tenant_id):
            if virtual_number.number == number:
                return virtual_number_shown(virtual_number)
        raise NoSuchVirtualNumber

    async def _delete_virtual_number(self, request: web.Request) -> Shown:
        number = await self._number_of_path(request)
        position = await provisioning.delete_virtual_number(
            self._database, _tenant_id(request), number, self._now_us()
        )
        is_propagated = await self._switchboard.propagate(position)
        return Shown({"number": number.plus}, headers=propagation(is_propagated))

    async def _number_of_path(self, request: web.Request) -> E164:
        """Raises NoSuchTenant, NoSuchVirtualNumber."""
        tenant = await provisioning.get_tenant(self._database, _tenant_id(request))
        number = parse_number(request.match_info["number"], parse_settings(tenant.settings).country)
        if number is None:
            raise NoSuchVirtualNumber
        return number

    async def _explain(self, request: web.Request) -> Shown:
        tenant = self._tenant_view(request)
        # Who may make tokens with the right to reveal has it.
        return Shown(explained(self._switchboard, request, tenant, may_reveal=True))

    # ── throttles ────────────────────────────────────────────────────────────

    async def _list_throttles(self, request: web.Request) -> Shown:
        tenant = self._tenant_view(request)
        is_whole = Query(request, tenant.settings, ThrottlesQuery).flag("reveal")
        states = fullest_windows(self._switchboard, tenant)
        return Shown({"windows": [_window_shown(state, is_whole=is_whole) for state in states]})

    async def _clear_throttles(self, request: web.Request) -> Shown:
        tenant = self._tenant_view(request)
        query = Query(request, tenant.settings, ThrottlesClearQuery)
        caller, virtual_number, is_all = query.number("caller"), query.number("vn"), query.flag("all")
        if sum((caller is not None, virtual_number is not None, is_all)) > 1:
            raise Refused(Code.BAD, "caller, vn and all: at most one of them may be given.")
        scope = throttles.scope_of(caller, virtual_number, is_all=is_all)
        position = await throttles.lift(
            self._database, tenant.id, scope, caller or virtual_number, self._now_us()
        )
        is_propagated = await self._switchboard.propagate(position)
        shown = {"id": tenant.id, "scope": "all" if scope is None else scope.value}
        return Shown(shown, headers=propagation(is_propagated))

    def _tenant_view(self, request: web.Request) -> TenantView:
        """Raises NoSuchTenant."""
        tenant = self._switchboard.tenants.get(_tenant_id(request))
        if tenant is None:
            raise NoSuchTenant
        return tenant

    async def _erase(self, request: web.Request) -> Shown:
        body = checked(EraseBody, await read_object(request))
        country = parse_settings({}).country
        if body.tenant is not None:
            tenant = await provisioning.get_tenant(self._database, body.tenant)
            country = parse_settings(tenant.settings).country
        number = parse_number(body.number, country)
        if number is None:
            raise Unacceptable([Fault(Code.BAD_NUMBER, "number", "number is not a telephone number.")])
        switchboard = self._switchboard
        # Answered calls are written behind: those of this moment go as well.
        await switchboard.records.flush()
        erased = await erasing.erase(
            self._database, number, body.tenant, switchboard.keys, self._now_us(), is_dry_run=body.dry_run
        )
        switchboard.wake_sender()
        propagated = [await switchboard.propagate(position) for position in erased.positions]
        return Shown(erased.to_json(), headers=propagation(all(propagated)))

    # ── credentials ──────────────────────────────────────────────────────────

    def _credential_routes(
        self,
        path: str,
        words: Words,
        name: str,
        data: tuple[type[BaseModel], type[BaseModel], type[BaseModel]],
    ) -> list[Route]:
        """`data`: what is shown of one that is made, of all, of one that is deleted."""
        switchboard = self._switchboard
        made, all_shown, deleted = data
        not_found = (Code.NOT_FOUND,)

        async def make(request: web.Request) -> Shown:
            body = checked(NewTokenBody, await read_object(request)) if words is TOKENS else NewTokenBody()
            shown, is_propagated = await credentials.make(
                switchboard, _tenant_id(request), words, may_reveal=body.reveal
            )
            return Shown(shown, 201, propagation(is_propagated))

        async def show_all(request: web.Request) -> Shown:
            return Shown(await credentials.show_all(switchboard, _tenant_id(request), words, "UTC"))

        async def delete(request: web.Request) -> Shown:
            given_id = request.match_info["id"]
            shown, is_propagated = await credentials.delete(switchboard, _tenant_id(request), words, given_id)
            return Shown(shown, headers=propagation(is_propagated))

        return [
            self._route(
                "POST",
                path,
                make,
                Operation(
                    f"Make an {name}",
                    body=NewTokenBody if words is TOKENS else None,
                    data=made,
                    status=201,
                    codes=not_found,
                ),
            ),
            self._route(
                "GET", path, show_all, Operation(f"List the {name}s", data=all_shown, codes=not_found)
            ),
            self._route(
                "DELETE",
                f"{path}/{{id}}",
                delete,
                Operation(f"Delete an {name}", data=deleted, codes=not_found),
            ),
        ]

    # ── the frame ────────────────────────────────────────────────────────────

    def _route(self, method: str, path: str, handler: AdminHandler, operation: Operation) -> Route:
        async def run(request: web.Request) -> web.Response:
            request_id = request_id_of(request)
            with logged_as(request_id):
                try:
                    check_admin(self._admin_token, request)
                    shown = await handler(request)
                except Exception as error:
                    return refusal(request, problem_of(error), request_id)
            return response(shown.status, orjson.dumps(shown.body), shown.headers)

        return Route(method, path, run, ADMIN_API, operation, expect_handler=expect_continue)

    def _now_us(self) -> int:
        return self._switchboard.clock.now_us()


def fullest_windows(switchboard: Switchboard, tenant: TenantView) -> list[WindowState]:
    """The windows of wrong PINs of a tenant: the full ones first, then those with the most failures."""
    states = list(switchboard.throttle.states(tenant.id, tenant.settings, switchboard.clock.now_us()))
    states.sort(key=lambda state: (state.full_until_us is None, -state.failures))
    return states[:WINDOWS_SHOWN_MAX]


def _window_shown(state: WindowState, *, is_whole: bool) -> Mapping[str, Any]:
    scope, caller, virtual_number = state.window
    until_us = state.full_until_us
    return {
        "scope": scope.value,
        "caller": None if caller is None else caller.plus if is_whole else str(caller),
        "vn": None if virtual_number is None else virtual_number.plus,
        "failures": state.failures,
        "limit": rate_text(state.rate),
        "full_until": None if until_us is None else iso_text(until_us, "UTC"),
    }


def _tenant_id(request: web.Request) -> str:
    """Raises NoSuchTenant."""
    tenant_id = request.match_info["tenant"]
    # What no tenant can be called may have characters that PostgreSQL does not take.
    if not TENANT_ID.fullmatch(tenant_id):
        raise NoSuchTenant
    return tenant_id


def new_virtual_numbers(body: NewVirtualNumbersBody, country: str) -> list[NewVirtualNumber]:
    """Raises Unacceptable."""
    faults: list[Fault] = []
    new: dict[E164, NewVirtualNumber] = {}
    for position, item in enumerate(body.vns):
        field = f"vns[{position}].number"
        number = parse_number(item.number, country)
        if number is None:
            faults.append(Fault(Code.BAD_NUMBER, field, f"{field} is not a telephone number."))
        elif number in new:
            faults.append(Fault(Code.BAD, field, f"{field} is in the list already."))
        else:
            new[number] = NewVirtualNumber(number, item.region, item.type, item.flow_id, item.reserved)
    if faults:
        raise Unacceptable(faults)
    return list(new.values())


def _provisioned(numbers: list[E164], number: E164) -> Fault:
    field = f"vns[{numbers.index(number)}].number"
    message = f"{field}: {number} is provisioned already; nothing was added."
    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message)


def summary_shown(tenant: TenantSummary) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "cell": tenant.cell,
        "vns": tenant.virtual_numbers,
        "created_at": iso_text(tenant.created_at_us),
    }


def _tenant_shown(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "cell": tenant.cell,
        "settings": tenant.settings,
        "created_at": iso_text(tenant.created_at_us),
    }


def virtual_number_shown(virtual_number: VirtualNumber) -> dict[str, Any]:
    return {
        "number": virtual_number.number.plus,
        "region": virtual_number.region,
        "type": virtual_number.type,
        "flow_id": virtual_number.flow_id,
        "reserved": virtual_number.is_reserved,
        "drained": virtual_number.is_drained,
        "created_at": iso_text(virtual_number.created_at_us),
    }
