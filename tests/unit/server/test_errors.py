from collections.abc import AsyncIterator

import pytest

from tests.unit.server.engines import CrashingEngine
from tests.unit.server.running import QUESTION, an_app

JSON = {"content-type": "application/json"}
BODY = b'{"patient_mrn": "MRN-001", "query": "hello"}'


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "reason"),
    [
        pytest.param("GET", "/nothing", b"", {}, 404, "NotFound", id="unknown path"),
        pytest.param("POST", "/triage/", BODY, JSON, 404, "NotFound", id="trailing slash is not redirected"),
        pytest.param("GET", "/triage", b"", {}, 405, "MethodNotAllowed", id="wrong method"),
        pytest.param("POST", "/triage", b'{"query": ', JSON, 400, "InvalidBody", id="cut JSON"),
        pytest.param("POST", "/triage", b"\xff\xfe\xfa", JSON, 400, "InvalidBody", id="not even text"),
        pytest.param("POST", "/triage", b"[" * 90_000, JSON, 400, "InvalidBody", id="deeply nested"),
        pytest.param("POST", "/triage", b"9" * 9000, JSON, 400, "InvalidBody", id="endless number"),
        pytest.param("POST", "/triage", BODY, {}, 415, "UnsupportedMediaType", id="no content type"),
        pytest.param(
            "POST", "/triage", BODY, {"content-type": "text/plain"}, 415, "UnsupportedMediaType", id="plain text"
        ),
        pytest.param("POST", "/triage", b"", JSON, 422, "InvalidRequest", id="no body"),
        pytest.param("POST", "/triage", b"x" * 200_000, JSON, 413, "BodyTooLarge", id="large body"),
        pytest.param("GET", "/livez", b"x" * 200_000, {}, 413, "BodyTooLarge", id="large body where none belongs"),
        pytest.param("POST", "/triage", BODY, JSON, 500, "InternalError", id="engine crash"),
    ],
)
async def test_every_error_is_a_problem_document(
    method: str, path: str, content: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    async with an_app(CrashingEngine()) as app:
        answer = await app.client.request(method, path, content=content, headers=headers)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]


async def test_a_wrong_method_is_told_the_right_one() -> None:
    async with an_app() as app:
        assert (await app.client.get("/triage")).headers["allow"] == "POST"


async def test_json_with_a_charset_or_a_suffix_is_json() -> None:
    async with an_app() as app:
        for kind in ("application/json; charset=utf-8", "application/fhir+json"):
            answer = await app.client.post("/triage", content=BODY, headers={"content-type": kind})
            assert answer.status_code == 200


async def test_a_large_body_of_unknown_length_is_cut_off_while_it_arrives() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 1000

    async with an_app(max_body_bytes=5000) as app:
        answer = await app.client.post("/triage", content=endless(), headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (413, "BodyTooLarge")
    assert taken == 6


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    content = BODY.ljust(5000)
    async with an_app(max_body_bytes=5000) as app:
        assert (await app.client.post("/triage", content=content, headers=JSON)).status_code == 200
        assert (await app.client.post("/triage", content=content + b" ", headers=JSON)).status_code == 413


async def test_the_server_goes_on_after_an_engine_crash() -> None:
    async with an_app(CrashingEngine()) as app:
        for _ in range(3):
            assert (await app.client.post("/triage", json=QUESTION)).status_code == 500
        assert (await app.client.get("/readyz")).status_code == 200
        assert app.lifecycle.engine.stats().active_requests == 0
