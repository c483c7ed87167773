"""API documentation as one static page.

The pages of FastAPI load scripts from a remote host; this one also works without a network.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:auto}pre{white-space:pre-wrap}"
)

router: Final = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the documentation."""
    return HTMLResponse(render_page(request.app.openapi()))


def render_page(schema: dict[str, Any]) -> str:
    """Return the operations of an OpenAPI 3.1 schema, with their parameters, as HTML."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{title}</h1><p>{escape(schema['info']['description'])}</p>",
        "<p>Machine-readable: <a href='openapi.json'>openapi.json</a></p>",
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts += [
                f"<h2><code>{escape(f'{method.upper()} {path}')}</code></h2>",
                f"<p>{escape(operation.get('description', ''))}</p>",
                *(f"<pre>{escape(text)}</pre>" for text in _parameters(schema, operation)),
            ]
    return "".join(parts)


def _parameters(schema: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """Return the JSON schemas of the headers and of the body of an operation."""
    schemas = list(operation.get("parameters", ()))
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schemas.append(schema["components"]["schemas"][reference.rpartition("/")[2]])
    return [json.dumps(parameters, indent=2) for parameters in schemas]
