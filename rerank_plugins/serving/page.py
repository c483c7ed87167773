"""The documentation page, made of the OpenAPI schema; no script, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.2rem .5rem;"
    "text-align:left;vertical-align:top}"
)


def page(schema: dict[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        schema: An OpenAPI schema, version 3.1.
    """
    about = schema["info"]
    title = escape(f"{about['title']} {about['version']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(about['description'])}</p>"
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a></p>"
        + "".join(_operations(schema))
    )


def _operations(schema: dict[str, Any]) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            yield from _fields(operation, schema["components"]["schemas"])
            yield "<p>Answers: "
            yield "; ".join(
                f"{escape(status)} {escape(answer['description'])}"
                for status, answer in operation["responses"].items()
            )
            yield "</p>"


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the header and body fields of an operation."""
    rows = [
        (one["name"], one["schema"], one.get("description", "Header."))
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body is not None:
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        needed = schemas[name].get("required", ())
        for field, about in schemas[name]["properties"].items():
            words = about.get("description", "")
            rows.append((field, about, f"Needed. {words}" if field in needed else words))
    if rows:
        yield "<table><tr><th>field<th>type<th>meaning"
        for field, about, words in rows:
            yield f"<tr><td><code>{escape(field)}</code><td>{escape(_type(about))}"
            yield f"<td>{escape(words)}"
        yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return a schema's type in words: ``array of string or null``."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(repr(one) for one in schema["enum"])
    kind = str(schema.get("type", "any"))
    return f"{kind} of {_type(schema['items'])}" if kind == "array" and "items" in schema else kind
