import asyncio

import pytest

from inference_server.triage.safe_text import CUT_TEXT
from tests.unit.server.engines import BlockedEngine, CountingEngine, NeverLoadedEngine, UnfinishedEngine
from tests.unit.server.running import QUESTION, an_app, until


async def test_a_question_is_answered_by_the_mock() -> None:
    async with an_app() as app:
        answer = await app.client.post("/triage", json=QUESTION)
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("response")
    assert body.pop("request_id") == answer.headers["x-request-id"]
    assert body == {
        "incomplete": False,
        "mode": "mock",
        "model": "mock",
        "revision": None,
        "finish_reason": "stop",
        "usage": None,
        "thinking_truncated": False,
    }


async def test_the_answer_carries_what_the_engine_reports() -> None:
    async with an_app(CountingEngine()) as app:
        body = (await app.client.post("/triage", json=QUESTION)).json()
    del body["request_id"]
    assert body == {
        "response": f"Drink water.{CUT_TEXT}",
        "incomplete": True,
        "mode": "qwen",
        "model": "Qwen/Qwen3-4B-Thinking-2507",
        "revision": "0123abc",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "reasoning_tokens": 1, "answer_tokens": 2},
        "thinking_truncated": False,
    }


async def test_the_engine_sees_the_query_and_not_the_record_number() -> None:
    engine = CountingEngine()
    async with an_app(engine) as app:
        answer = await app.client.post("/triage", json={"patient_mrn": "MRN-7531", "query": "  I feel dizzy. "})
    request = engine.seen[-1]
    assert request.request_id == answer.json()["request_id"]
    assert [(message.role, message.content) for message in request.messages] == [("user", "I feel dizzy.")]


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        pytest.param({"query": "x"}, ["body", "patient_mrn"], "missing", id="no record number"),
        pytest.param({"patient_mrn": "x"}, ["body", "query"], "missing", id="no query"),
        pytest.param({**QUESTION, "query": ""}, ["body", "query"], "string_too_short", id="empty query"),
        pytest.param({**QUESTION, "query": " \n\t "}, ["body", "query"], "string_too_short", id="blank query"),
        pytest.param({**QUESTION, "query": "x" * 8001}, ["body", "query"], "string_too_long", id="long query"),
        pytest.param({**QUESTION, "patient_mrn": ""}, ["body", "patient_mrn"], "string_too_short", id="empty mrn"),
        pytest.param({**QUESTION, "patient_mrn": "x" * 65}, ["body", "patient_mrn"], "string_too_long", id="long mrn"),
        pytest.param({**QUESTION, "query": 5}, ["body", "query"], "string_type", id="query is a number"),
        pytest.param({**QUESTION, "query": None}, ["body", "query"], "string_type", id="query is null"),
        pytest.param({**QUESTION, "query": ["x"]}, ["body", "query"], "string_type", id="query is a list"),
        pytest.param({**QUESTION, "steam": True}, ["body", "(unknown field)"], "extra_forbidden", id="misspelt"),
        pytest.param({**QUESTION, "stream": "yes"}, ["body", "stream"], "bool_type", id="stream is a text"),
        pytest.param({**QUESTION, "temperature": 2.1}, ["body", "temperature"], "less_than_equal", id="too hot"),
        pytest.param({**QUESTION, "top_p": 0}, ["body", "top_p"], "greater_than", id="nothing to draw from"),
        pytest.param({**QUESTION, "seed": -1}, ["body", "seed"], "greater_than_equal", id="seed"),
        pytest.param({**QUESTION, "max_new_tokens": 0}, ["body", "max_new_tokens"], "greater_than_equal", id="tokens"),
        pytest.param({**QUESTION, "thinking_budget": 0.5}, ["body", "thinking_budget"], "int_type", id="half a token"),
        pytest.param({**QUESTION, "timeout_seconds": 0}, ["body", "timeout_seconds"], "greater_than", id="no time"),
        pytest.param([QUESTION], ["body"], "model_attributes_type", id="a list of questions"),
        pytest.param("text", ["body"], "model_attributes_type", id="only a text"),
    ],
)
async def test_a_wrong_body_is_refused_with_its_place(body: object, loc: list[str], kind: str) -> None:
    async with an_app() as app:
        answer = await app.client.post("/triage", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["loc"], error["type"]) == (loc, kind)
    assert set(error) == {"loc", "type", "msg"}


@pytest.mark.parametrize("query", ["x" * 8000, "\N{GRINNING FACE}" * 8000], ids=["ascii", "emoji"])
async def test_the_longest_query_fits_into_the_default_body_limit(query: str) -> None:
    async with an_app() as app:
        answer = await app.client.post("/triage", json={"patient_mrn": "x" * 64, "query": query})
    assert answer.status_code == 200


async def test_half_a_unicode_pair_is_refused_not_crashed_on() -> None:
    async with an_app() as app:
        answer = await app.client.post(
            "/triage",
            content=rb'{"patient_mrn": "1", "query": "\ud800"}',
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 422


async def test_before_the_engine_is_ready_clients_are_told_to_come_back() -> None:
    async with an_app(NeverLoadedEngine(), wait=False) as app:
        answer = await app.client.post("/triage", json=QUESTION)
    assert (answer.status_code, answer.json()["reason"]) == (503, "NotReady")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_engine_that_was_closed_is_unavailable_not_an_error() -> None:
    async with an_app() as app:
        await app.lifecycle.engine.close()
        answer = await app.client.post("/triage", json=QUESTION)
    assert (answer.status_code, answer.json()["reason"]) == (503, "NotReady")


async def test_an_answer_without_an_end_is_an_error() -> None:
    async with an_app(UnfinishedEngine(), wait=False) as app:
        app.lifecycle.started = True
        answer = await app.client.post("/triage", json=QUESTION)
    assert answer.status_code == 500


async def test_requests_that_must_end_now_get_503_and_leave_the_engine() -> None:
    engine = BlockedEngine()
    async with an_app(engine) as app:
        asking = asyncio.create_task(app.client.post("/triage", json=QUESTION))
        await until(lambda: engine.stats().active_requests == 1)
        app.lifecycle.give_up()
        answer = await asking
        assert (answer.status_code, answer.json()["reason"]) == (503, "ShuttingDown")
        assert engine.stats().active_requests == 0
        assert engine.cancelled == 1
