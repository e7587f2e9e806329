from collections.abc import Iterator
from typing import Any

from inference_server.keys import Keys
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
        assert (await app.client.get("/")).json()["docs"] == "/docs"
