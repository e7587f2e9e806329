from collections.abc import Iterator
from typing import Any

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
    assert set(answers) == {"200", "400", "413", "415", "422", "500", "503"}
    for status, answer in answers.items():
        kind = "application/json" if status == "200" else "application/problem+json"
        assert list(answer["content"]) == [kind]


async def test_fastapis_own_error_schema_is_gone() -> None:
    async with an_app() as app:
        assert "HTTPValidationError" not in app.schema["components"]["schemas"]


async def test_the_document_and_its_page_are_served() -> None:
    async with an_app() as app:
        assert (await app.client.get("/openapi.json")).json() == app.schema
        assert (await app.client.get("/docs")).status_code == 200
        assert (await app.client.get("/")).json()["docs"] == "/docs"
