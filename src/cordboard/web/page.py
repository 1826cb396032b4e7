"""The document of the API as one HTML page: a stylesheet, no script, nothing from anywhere else."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, Final

import orjson

Json = dict[str, Any]

STYLE: Final = Path(__file__).with_name("page.css").read_text(encoding="utf-8")

_LIMITS: Final = {
    "pattern": "pattern",
    "minimum": "from",
    "maximum": "to",
    "minLength": "at least",
    "maxLength": "at most",
    "minItems": "at least",
    "maxItems": "at most",
}


def policy() -> str:
    """Content-Security-Policy: the page's own stylesheet and nothing else."""
    digest = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )


def page_of(document: Json) -> str:
    info = document["info"]
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    by_tag = {
        tag["name"]: [item for item in operations if tag["name"] in item[2]["tags"]]
        for tag in document["tags"]
    }
    contents = "".join(
        f"<li>{escape(tag)}<ul>{''.join(_link(*item) for item in items)}</ul></li>"
        for tag, items in by_tag.items()
    )
    sections = "".join(
        f"<section><h2>{escape(tag)}</h2>{''.join(_operation(document, *item) for item in items)}</section>"
        for tag, items in by_tag.items()
    )
    schemas = "".join(
        f'<article id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
        f"{_described(schema)}{_schema(schema)}</article>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f'{_paragraphs(info["description"])}<p><a href="openapi.json">openapi.json</a></p></header>'
        f"<nav><ul>{contents}<li><a href='#schemas'>Schemas</a></li></ul></nav>"
        f"<main>{sections}<section id='schemas'><h2>Schemas</h2>{schemas}</section></main></body></html>"
    )


# ── operations ───────────────────────────────────────────────────────────────


def _link(method: str, path: str, operation: Json) -> str:
    name = f"<b>{method.upper()}</b> {escape(operation['summary'])}"
    return f'<li><a href="#{escape(operation["operationId"])}" title="{escape(path)}">{name}</a></li>'


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    schemes = document["components"]["securitySchemes"]
    who = [schemes[name]["description"] for scheme in operation["security"] for name in scheme]
    parameters = operation.get("parameters", [])
    return (
        f'<article id="{escape(operation["operationId"])}"><h3>{escape(operation["summary"])}</h3>'
        f'<p class="request"><b class="{method}">{method.upper()}</b> <code>{_breakable(path)}</code></p>'
        + _described(operation)
        + (f"<p class=who>{_prose(' Or: '.join(who))}</p>" if who else "")
        + (_table("Parameters", map(_parameter_row, parameters)) if parameters else "")
        + (f"<h4>Body</h4>{_content(operation['requestBody'])}" if "requestBody" in operation else "")
        + _table("Answers", (_answer_row(document, *item) for item in operation["responses"].items()))
        + "</article>"
    )


def _parameter_row(parameter: Json) -> str:
    place = parameter["in"] + (", required" if parameter["required"] and parameter["in"] != "path" else "")
    return _row(
        f"<code>{escape(parameter['name'])}</code> <i>{place}</i>",
        _joined(_kind(parameter["schema"]), _prose(parameter.get("description", ""))),
    )


def _answer_row(document: Json, status: str, answer: Json) -> str:
    if "$ref" in answer:
        # Every refusal is the same envelope, so the codes say all.
        answer = {
            "description": document["components"]["responses"][answer["$ref"].split("/")[-1]]["description"]
        }
    return _row(f"<code>{status}</code>", _prose(answer["description"]) + _content(answer))


def _content(said: Json) -> str:
    return "".join(
        f"<div><i>{escape(media_type)}</i> {_schema(kind['schema'])}</div>"
        for media_type, kind in said.get("content", {}).items()
    )


# ── schemas ──────────────────────────────────────────────────────────────────


def _schema(schema: Json) -> str:
    """A table of the keys of an object; one line for anything else."""
    if "anyOf" in schema:
        # The forms of both generations; each is told as if it stood alone.
        return " or ".join(map(_schema, schema["anyOf"]))
    if set(schema.get("properties", ())) == {"response"}:
        return f"<code>response</code>: {_kind(schema['properties']['response'])}"
    if "allOf" in schema:
        whole = " ".join(map(_kind, schema["allOf"]))
        data = schema.get("properties", {}).get("data")
        needed = "".join(f", with <code>{escape(key)}</code>" for key in schema.get("required", ()))
        return whole + needed + (f", <code>data</code>: {_kind(data)}" if data is not None else "")
    if "properties" not in schema:
        return _kind(schema)
    required = schema.get("required", ())
    rows = (
        _row(
            f"<code>{escape(key)}</code>" + (" <i>always</i>" if key in required else ""),
            _joined(_kind(of_key), _prose(_said(of_key))),
        )
        for key, of_key in schema["properties"].items()
    )
    return f"<table>{''.join(rows)}</table>"


def _said(schema: Json) -> str:
    """Its description, or those of the values that it may be or have."""
    if "description" in schema:
        return str(schema["description"])
    parts = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
    return " ".join(said for part in parts if (said := _said(part)))


def _kind(schema: Json) -> str:
    """The values that it allows, in one line."""
    if "$ref" in schema:
        name = escape(schema["$ref"].split("/")[-1])
        return f'<a href="#schema-{name}">{name}</a>'
    for joint in ("anyOf", "allOf"):
        if joint in schema:
            return " or ".join(map(_kind, schema[joint]))
    if "const" in schema or "enum" in schema:
        # As JSON, which tells a text from what it looks like.
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return " or ".join(f"<code>{escape(orjson.dumps(value).decode())}</code>" for value in values)
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array":
        kind = f"list of {_kind(schema['items'])}"
    if "format" in schema:
        kind += f" ({escape(schema['format'])})"
    limits = [
        f"{words} <code>{escape(str(schema[key]))}</code>" for key, words in _LIMITS.items() if key in schema
    ]
    return ", ".join([kind, *limits])


# ── text ─────────────────────────────────────────────────────────────────────


def _described(thing: Json) -> str:
    return _paragraphs(thing.get("description", ""))


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_prose(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph)


def _prose(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _breakable(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")


def _joined(kind: str, said: str) -> str:
    return f"{kind}<br>{said}" if said else kind


def _row(head: str, rest: str) -> str:
    return f"<tr><th scope=row>{head}</th><td>{rest}</td></tr>"


def _table(caption: str, rows: Iterable[str]) -> str:
    return f"<h4>{caption}</h4><table>{''.join(rows)}</table>"
