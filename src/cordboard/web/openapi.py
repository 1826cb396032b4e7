"""The document of everything that is served, OpenAPI 3.1, made of what each route says of itself.

A route is declared together with its operation, where its resource lists its routes:

    tenants.route(
        "PUT",
        one_path,
        self._update,
        Operation(
            "Change an allocation",
            body=GreenPinBody,            # the pydantic model that parses the body
            data=GreenPinData,            # the answer: a model of web/documents.py
            codes=(Code.NOT_FOUND, Code.DELETED),
        ),
    )

`query=` takes the model that parses the query; each of its fields becomes a parameter. What all routes of
one frame have in common is said by the frame and not repeated: who may ask, the envelope, the refusals that
it makes itself. That a body may be too large, not JSON or incomplete (413/17, 400/5, 400/3) follows from
`body`. A new path parameter gets its line in PATH_PARAMETERS, a new first segment of a path in TAGS, a new
code its meaning in errors.MEANING_OF.

Good: types that pydantic cannot describe say so themselves, by WithJsonSchema (web/schemas.py).
Bad: a schema written by hand beside the model that parses.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from cordboard.routing.allocate import Code
from cordboard.web.auth import VERSIONS
from cordboard.web.documents import Envelope
from cordboard.web.errors import MEANING_OF, STATUS_OF
from cordboard.web.schemas import FORMS_OF_IDS

Json = dict[str, Any]

JSON: Final = "application/json"
TEXT: Final = "text/plain"

_SCHEMAS: Final = "#/components/schemas/"
_PARAMETER: Final = re.compile(r"{(\w+)}")


# ── what a route says ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Header:
    """One that a request may have."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Said:
    """An answer outside of the envelope: its type of each media type, None for text of any form."""

    description: str
    content: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecondForm:
    """What an operation is to clients of the second generation (exotel.md 9), on the same path.

    Its answers and refusals stand in `{"response": …}`; `codes` are those that it has beside the first's, and
    `required` is as in Operation.
    """

    body: Any = None
    data: Any = None
    status: int = 200
    codes: tuple[tuple[int, Code], ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one path does.

    `required` are keys of the body that its model lets be absent because a rule of the core asks for them.
    `data` is the type of what comes back with `status`, and with each status in `also`; `answers` are those
    that are no data in the form of the frame. `codes` are the refusals that the frame and the body do not
    imply.
    """

    summary: str
    description: str = ""
    body: type[BaseModel] | None = None
    required: tuple[str, ...] = ()
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    data: Any = None
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)
    answers: Mapping[int, Said] = field(default_factory=dict)
    codes: tuple[Code, ...] = ()
    second: SecondForm | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What routes have in common because the same code runs around them; any of `schemes` lets in."""

    schemes: tuple[str, ...] = ()
    is_enveloped: bool = False
    refusals: tuple[tuple[int, Code], ...] = ()
    headers: tuple[Header, ...] = ()


_FAULTS: Final = ((500, Code.INTERNAL), (503, Code.INTERNAL))
EXOTEL_VERSION: Final = Header(
    "Exotel-Version",
    "Not needed; only version 1 is supported.",
    {"type": "string", "enum": sorted(VERSIONS)},
)

TENANT_API: Final = Frame(
    schemes=("tenant",),
    is_enveloped=True,
    refusals=(
        (400, Code.VERSION),
        (401, Code.UNAUTHENTICATED),
        (403, Code.NOT_PERMITTED),
        (429, Code.TOO_MANY),
        *_FAULTS,
    ),
    headers=(EXOTEL_VERSION,),
)
# The way out for a tenant that has set itself a limit too tight.
UNLIMITED_TENANT_API: Final = replace(
    TENANT_API, refusals=tuple(pair for pair in TENANT_API.refusals if pair != (429, Code.TOO_MANY))
)
ADMIN_API: Final = Frame(schemes=("operator",), refusals=((401, Code.UNAUTHENTICATED), *_FAULTS))
APPLETS: Final = Frame(schemes=("applet_key", "tenant"))
# For everybody, or with the secret in the path.
OPEN: Final = Frame()

ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass(frozen=True, slots=True)
class Route(web.AbstractRouteDef):
    """A route of the application with what the document says of it."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    frame: Frame
    operation: Operation
    allow_head: bool = True
    expect_handler: ExpectHandler | None = None

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        if self.method == "GET":
            return [
                router.add_get(
                    self.path,
                    self.handler,
                    allow_head=self.allow_head,
                    expect_handler=self.expect_handler,
                )
            ]
        return [router.add_route(self.method, self.path, self.handler, expect_handler=self.expect_handler)]


# ── what is the same for many ────────────────────────────────────────────────

PATH_PARAMETERS: Final[Mapping[str, Json]] = {
    "tenant": {"description": "The tenant's id.", "schema": FORMS_OF_IDS["tenant"]},
    "greenpin_id": {
        "description": "The allocation: a UUID, or in the second generation `gp_…`.",
        "schema": {"anyOf": [FORMS_OF_IDS["uuid"], {"type": "string", "pattern": "^gp_[0-9a-f]{32}$"}]},
    },
    "greenvn_id": {
        "description": "The allocation: a UUID, or in the second generation `gvn_…`.",
        "schema": {"anyOf": [FORMS_OF_IDS["uuid"], {"type": "string", "pattern": "^gvn_[0-9a-f]{32}$"}]},
    },
    "key_id": {"description": "The applet key, by its id.", "schema": FORMS_OF_IDS["uuid"]},
    "id": {"description": "The token or key, by its id.", "schema": FORMS_OF_IDS["uuid"]},
    "event_id": {
        "description": "The event, by its id: the `webhook-id` of its deliveries.",
        "schema": FORMS_OF_IDS["uuid"],
    },
    "secret_id": {"description": "The webhook secret, by its id.", "schema": FORMS_OF_IDS["uuid"]},
    "number": {"description": "The virtual number, as it was provisioned.", "schema": {"type": "string"}},
    "key": {"description": "The tenant's applet key.", "schema": {"type": "string", "minLength": 1}},
}

# First segment of a path behind the tenant → heading, in the order of the page.
TAGS: Final[Mapping[str, str]] = {
    "greenvn": "GreenVN",
    "greenpin": "GreenPin",
    "calls": "Records",
    "verifications": "Records",
    "explain": "Records",
    "pool": "Pool",
    "events": "Events",
    "webhook-secrets": "Events",
    "settings": "Settings",
    "applet-keys": "Applet keys",
    "exotel": "Applets",
    "admin": "Administration",
    "": "Operation",
}

_SCHEMES: Final[Json] = {
    "tenant": {"type": "http", "scheme": "basic", "description": "The tenant id and one of its API tokens."},
    "operator": {"type": "http", "scheme": "bearer", "description": "The admin token of the installation."},
    "applet_key": {
        "type": "apiKey",
        "in": "query",
        "name": "key",
        "description": "An applet key of the tenant; it may also be the password of HTTP Basic.",
    },
}

_RESPONSE_HEADERS: Final[Json] = {
    "Cordboard-Propagation": {
        "description": "`pending`: durable, but this node does not route by it yet.",
        "schema": {"const": "pending"},
    },
    "Idempotent-Replayed": {
        "description": "`true`: the answer that the first request under the Idempotency-Key got.",
        "schema": {"const": "true"},
    },
    "Retry-After": {
        "description": "Whole seconds until it may go on.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"required": True, "schema": {"type": "string"}},
    "ETag": {"schema": {"type": "string"}},
}
_HEADERS_OF_REFUSAL: Final = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}

_ABOUT: Final = """\
The REST API, the applets that a call flow asks, and what operators ask of one Cordboard installation.

Every answer under `/v1` but the applets' is the same envelope, and so is every refusal under `/admin/v1`:
`code` and `message` say what is wrong and name the field. Under both, a path that does not exist is refused
with 404 and code 1, a method that it does not have with 405 and code 5, an `Expect` other than `100-continue`
with 417 and code 5. Keys that are not documented are accepted and ignored, unless an operation says
otherwise."""


# ── the document ─────────────────────────────────────────────────────────────


def document(routes: Sequence[Route], version: str) -> Json:
    """The whole document; raises KeyError for a code or parameter that nobody described."""
    schemas = _Schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    used = dict.fromkeys(_tag(path) for path in paths)
    tags = [tag for tag in dict.fromkeys([*TAGS.values(), *used]) if tag in used]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cordboard", "version": version, "description": _ABOUT},
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": schemas.responses,
            "headers": _RESPONSE_HEADERS,
            "securitySchemes": _SCHEMES,
        },
    }


class _UntitledSchema(GenerateJsonSchema):
    """Without a title for every key, which says its name once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


class _Schemas:
    """The schemas of all the types that routes name, each once under the name of its class."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.responses: dict[str, Json] = {}
        self._adapters: list[TypeAdapter[Any]] = []
        self._places: dict[Any, int] = {}
        for type_ in (Envelope, *(type_ for route in routes for type_ in _types(route.operation))):
            if _key(type_) not in self._places:
                self._places[_key(type_)] = len(self._adapters)
                self._adapters.append(TypeAdapter(type_))
        made, shared = TypeAdapter.json_schemas(
            [(place, "validation", adapter) for place, adapter in enumerate(self._adapters)],
            ref_template=_SCHEMAS + "{model}",
            schema_generator=_UntitledSchema,
        )
        self._made = made
        self.components: dict[str, Json] = shared.get("$defs", {})

    def of(self, type_: Any) -> Json:
        return (
            {"type": "string"} if type_ is None else dict(self._made[self._places[_key(type_)], "validation"])
        )

    def parameters_of(self, model: type[BaseModel]) -> list[Json]:
        """A query has no objects: the keys of the model are the parameters."""
        schema = model.model_json_schema(ref_template=_SCHEMAS + "{model}", schema_generator=_UntitledSchema)
        self.components |= schema.get("$defs", {})
        required = schema.get("required", ())
        return [
            _parameter("query", name, _without_null(of_key), is_required=name in required)
            for name, of_key in schema["properties"].items()
        ]

    def refusal(self, status: int, codes: Sequence[Code], *, has_second: bool) -> Json:
        """A reference to the answer of this status with one of the codes, in each generation's form."""
        name = f"Refused{status}" + "".join(f"_{code.value}" for code in codes) + "_second" * has_second
        said: Json = {
            "status": {"const": status},
            "code": {"enum": [code.value for code in codes]},
            "message": {"type": "string"},
        }
        schema = _enveloped(success={"const": False}, **said)
        if has_second:
            refused = {
                "type": "object",
                "properties": {**said, "request_id": {"type": "string"}},
                "required": [*said, "request_id"],
            }
            schema = {"anyOf": [schema, _responded(refused)]}
        self.responses[name] = {
            "description": "; ".join(f"code {code.value}: {MEANING_OF[code]}" for code in codes) + ".",
            "content": {JSON: {"schema": schema}},
        }
        if status in _HEADERS_OF_REFUSAL:
            self.responses[name]["headers"] = _headers(_HEADERS_OF_REFUSAL[status])
        return {"$ref": f"#/components/responses/{name}"}


def _types(operation: Operation) -> list[Any]:
    said = [type_ for answer in operation.answers.values() for type_ in answer.content.values()]
    second = operation.second or SecondForm()
    named = (operation.body, operation.data, second.body, second.data, *said)
    return [type_ for type_ in named if type_ is not None]


def _key(type_: Any) -> Any:
    # Types made by subscription are equal, but some cannot be hashed.
    return type_ if isinstance(type_, type) else repr(type_)


def _operation(route: Route, schemas: _Schemas) -> Json:
    operation, frame = route.operation, route.frame
    made: Json = {
        "tags": [_tag(route.path)],
        "operationId": _operation_id(route),
        "summary": operation.summary,
    }
    if operation.description:
        made["description"] = operation.description
    parameters = [
        {"in": "path", "name": name, "required": True, **PATH_PARAMETERS[name]}
        for name in _PARAMETER.findall(route.path)
    ]
    if operation.query is not None:
        parameters += schemas.parameters_of(operation.query)
    parameters += [
        _parameter("header", header.name, {**header.schema, "description": header.description})
        for header in (*frame.headers, *operation.headers)
    ]
    if parameters:
        made["parameters"] = parameters
    if operation.body is not None:
        schema = _requiring(schemas.of(operation.body), operation.required)
        second = operation.second
        if second is not None and second.body is not None:
            schema = {"anyOf": [schema, _requiring(schemas.of(second.body), second.required)]}
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    made["responses"] = {
        str(status): answer
        for status, answer in sorted(_answers(route, schemas).items(), key=lambda item: item[0])
    }
    made["security"] = [{scheme: []} for scheme in frame.schemes]
    return made


def _requiring(schema: Json, required: Sequence[str]) -> Json:
    return {"allOf": [schema], "required": list(required)} if required else schema


def _answers(route: Route, schemas: _Schemas) -> dict[int, Json]:
    operation, frame = route.operation, route.frame
    answers: dict[int, Json] = {
        status: {
            "description": said.description,
            **({"headers": _headers(*said.headers)} if said.headers else {}),
            **(
                {"content": {media: {"schema": schemas.of(type_)} for media, type_ in said.content.items()}}
                if said.content
                else {}
            ),
        }
        for status, said in operation.answers.items()
    }
    if operation.data is not None:
        for status, description in {operation.status: "Done.", **operation.also}.items():
            data = schemas.of(operation.data)
            if frame.is_enveloped:
                # A bulk of which a part failed is no success (envelope.Answer).
                success = {"const": status == operation.status}
                method = {"const": route.method}
                data = _enveloped(success=success, status={"const": status}, data=data, method=method)
            answers[status] = {"description": description, "content": {JSON: {"schema": data}}}
            if route.method != "GET":
                replayed = ("Idempotent-Replayed",) if operation.headers else ()
                answers[status]["headers"] = _headers("Cordboard-Propagation", *replayed)
    if operation.second is not None:
        _add_second(answers, operation.second, schemas.of(operation.second.data))
    for status, codes in _refusals(operation, frame).items():
        answers[status] = schemas.refusal(status, codes, has_second=operation.second is not None)
    return answers


def _add_second(answers: dict[int, Json], second: SecondForm, data: Json) -> None:
    """What is answered well to the second generation, beside or among what the first gets."""
    form = _responded(data)
    # A bulk of which a part failed has the first's other status, too.
    for status in {second.status, *(status for status in answers if status == 207)}:
        if status not in answers:
            answers[status] = {"description": "Done, for the second generation.", "content": {JSON: {}}}
            answers[status]["headers"] = _headers("Cordboard-Propagation", "Idempotent-Replayed")
            answers[status]["content"][JSON]["schema"] = form
        else:
            first = answers[status]["content"][JSON]["schema"]
            answers[status]["content"][JSON]["schema"] = {"anyOf": [first, form]}


def _refusals(operation: Operation, frame: Frame) -> dict[int, list[Code]]:
    """Status → codes, in the order of their numbers."""
    pairs = {*frame.refusals, *((STATUS_OF[code], code) for code in operation.codes)}
    if operation.second is not None:
        pairs |= set(operation.second.codes)
    if operation.body is not None:
        pairs |= {(STATUS_OF[code], code) for code in (Code.MISSING, Code.BAD, Code.TOO_MANY)}
    refusals: dict[int, list[Code]] = {}
    for status, code in sorted(pairs):
        refusals.setdefault(status, []).append(code)
    return refusals


def _enveloped(**properties: Json) -> Json:
    return {"allOf": [{"$ref": f"{_SCHEMAS}{Envelope.__name__}"}], "properties": properties}


def _responded(data: Json) -> Json:
    """The second generation's envelope."""
    return {"type": "object", "properties": {"response": data}, "required": ["response"]}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameter(place: str, name: str, schema: Json, *, is_required: bool = False) -> Json:
    described = {"description": schema.pop("description")} if "description" in schema else {}
    return {"in": place, "name": name, "required": is_required, **described, "schema": schema}


def _without_null(schema: Json) -> Json:
    """Nothing in a query is null; what a model has as None is absent there."""
    schema = {key: value for key, value in schema.items() if key != "default" or value is not None}
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if "anyOf" not in schema or len(kinds) == len(schema["anyOf"]):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else {**rest, "anyOf": kinds}


def _tag(path: str) -> str:
    segment = path.removeprefix("/v1/tenants/{tenant}").split("/")[1]
    if segment in TAGS:
        return TAGS[segment]
    return TAGS[""] if "{" not in path else segment.capitalize()


def _operation_id(route: Route) -> str:
    """`putGreenpinByGreenpinId`: for generators of clients, so it stays as it is."""
    segments = route.path.removeprefix("/v1/tenants/{tenant}").replace("/v1", "").split("/")
    words = (f"by-{segment[1:-1]}" if segment.startswith("{") else segment for segment in segments)
    name = "".join(part.capitalize() for word in words for part in re.split(r"[-_.]", word))
    return route.method.lower() + name
