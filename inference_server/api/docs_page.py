"""GET /docs: what can be asked, as one page without scripts, styles or anything from elsewhere.

Pages that draw the schema with scripts load them from the internet, and stay blank where there is none.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

DOCS_PATH = "/docs"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def add_docs_page(app: FastAPI) -> None:

    async def docs(_: Request) -> Response:
        return HTMLResponse(docs_page(app.openapi()), headers=_HEADERS)

    app.add_route(DOCS_PATH, docs, include_in_schema=False)


def docs_page(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI document. Pure."""
    info = schema["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n'
        f"<p>{escape(info['description'])}</p>\n"
        # Relative: whatever stands in front may have put a prefix before both.
        '<p>All of this for programs: <a href="openapi.json">openapi.json</a>.</p>\n' + "".join(_operations(schema))
    )


def _operations(schema: dict[str, Any]) -> Iterator[str]:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>\n<p>{escape(operation['description'])}</p>\n"
            if "security" in operation:
                yield "<p>Needs a key: <code>Authorization: Bearer …</code></p>\n"
            if "requestBody" in operation:
                yield _table(("Field", "", "Meaning"), _fields(operation["requestBody"], schema))
            answers = operation["responses"].items()
            yield _table(("Status", "When"), [(status, answer["description"]) for status, answer in answers])


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, ...]]:
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    model = schema["components"]["schemas"][name]
    required = model["required"]
    return [
        (field, "required" if field in required else "", definition["description"])
        for field, definition in model["properties"].items()
    ]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return f"<table>\n{''.join(lines)}</table>\n"


def _row(kind: str, cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>\n"
