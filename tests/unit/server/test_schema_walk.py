"""Requests made from the OpenAPI document, valid and not: no answer is undocumented, and none is our failure."""

from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.server.engines import CountingEngine
from tests.unit.server.running import a_served_app

CHECKS = [
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def document() -> Iterator[schemathesis.BaseSchema]:
    with a_served_app(CountingEngine()) as (url, _):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        pytest.param("POST", "/triage", GenerationMode.POSITIVE, id="questions"),
        pytest.param("POST", "/triage", GenerationMode.NEGATIVE, id="no questions"),
        pytest.param("POST", "/v1/chat/completions", GenerationMode.POSITIVE, id="conversations"),
        pytest.param("POST", "/v1/chat/completions", GenerationMode.NEGATIVE, id="no conversations"),
        pytest.param("GET", "/v1/models/{model}", GenerationMode.POSITIVE, id="names of models"),
    ],
)
def test_the_server_does_what_its_document_says(
    document: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    @hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=document[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def test_every_operation_is_documented(document: schemathesis.BaseSchema) -> None:
    assert len(list(document.get_all_operations())) == 10
