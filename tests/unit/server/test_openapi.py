import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from inference_server.api.docs_page import docs_page
from inference_server.api.keys import Keys
from tests.unit.server.running import an_app


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, model in schema["components"]["schemas"].items():
        for field, definition in model.get("properties", {}).items():
            yield f"{name}.{field}", definition


async def test_every_field_has_a_description_and_an_example() -> None:
    async with an_app() as app:
        fields = dict(properties(app.schema))
    assert "TriageRequest.query" in fields
    assert [name for name, field in fields.items() if not field.get("description")] == []
    assert [name for name, field in fields.items() if not field.get("examples")] == []


async def test_every_operation_and_answer_has_a_description() -> None:
    async with an_app() as app:
        operations = [
            (f"{method} {path}", operation)
            for path, methods in app.schema["paths"].items()
            for method, operation in methods.items()
        ]
    assert [name for name, operation in operations if not operation.get("description")] == []
    for name, operation in operations:
        assert all(answer["description"] for answer in operation["responses"].values()), name


async def test_errors_are_documented_as_problem_documents() -> None:
    async with an_app() as app:
        answers = app.schema["paths"]["/triage"]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "413", "415", "422", "429", "500", "503", "504"}
    assert set(answers.pop("200")["content"]) == {"application/json", "text/event-stream"}
    assert {kind for answer in answers.values() for kind in answer["content"]} == {"application/problem+json"}


async def test_errors_of_openais_paths_are_documented_in_its_shape() -> None:
    async with an_app() as app:
        answers = app.schema["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "404", "413", "415", "429", "500", "503", "504"}
    del answers["200"]
    shapes = {answer["content"]["application/json"]["schema"]["$ref"] for answer in answers.values()}
    assert shapes == {"#/components/schemas/OpenAIError"}


async def test_a_key_is_documented_where_one_is_asked_for() -> None:
    async with an_app(keys=Keys(("secret",))) as app:
        paths = app.schema["paths"]
    assert paths["/triage"]["post"]["security"] == [{"key": []}]
    assert "security" not in paths["/livez"]["get"]


async def test_fastapis_own_error_schema_is_gone() -> None:
    async with an_app() as app:
        assert not {"HTTPValidationError", "ValidationError"} & set(app.schema["components"]["schemas"])


async def test_the_document_and_its_page_are_served() -> None:
    async with an_app() as app:
        assert (await app.client.get("/openapi.json")).json() == app.schema
        assert (await app.client.get("/docs")).status_code == 200
        assert (await app.client.head("/docs")).status_code == 200
        assert (await app.client.get("/")).json()["docs"] == "/docs"


class Links(HTMLParser):
    """What a browser would load or run for a page, and where a reader can go from it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.linked += [value or "" for name, value in attrs if name == "href"]
        if tag in {"script", "style", "link", "img", "iframe", "base", "form", "object"}:
            self.loaded.append(tag)


async def test_the_page_needs_no_internet_and_says_what_can_be_asked() -> None:
    async with an_app() as app:
        answer = await app.client.get("/docs")
    page = Links()
    page.feed(answer.text)
    assert (page.loaded, page.linked) == ([], ["openapi.json"])
    assert "//" not in re.sub("<!doctype html>", "", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["content-type"].startswith("text/html")
    for path, methods in app.schema["paths"].items():
        for method in methods:
            assert f"<h2>{method.upper()} {path}</h2>" in answer.text
    for field in ("patient_mrn", "max_completion_tokens", "429"):
        assert f"<td>{field}</td>" in answer.text


@pytest.mark.parametrize(("keys", "told"), [((), False), (("secret",), True)])
async def test_the_page_says_whether_a_key_is_needed_and_needs_none(keys: tuple[str, ...], told: bool) -> None:
    async with an_app(keys=Keys(keys)) as app:
        answer = await app.client.get("/docs")
    assert answer.status_code == 200
    assert ("Needs a key" in answer.text) == told


def test_texts_of_the_schema_are_texts_on_the_page() -> None:
    operation = {"description": "a < b & c", "responses": {"200": {"description": "<script>"}}}
    schema = {"info": {"title": "<T>", "version": "1", "description": ""}, "paths": {"/<x>": {"get": operation}}}
    page = docs_page(schema)
    assert "<script>" not in page
    assert "<h2>GET /&lt;x&gt;</h2>" in page
    assert "a &lt; b &amp; c" in page
