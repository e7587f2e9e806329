import asyncio

import pytest

from inference_server.engine.answer import collect
from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import EngineUnavailable, GenerationRequest, Message, TextDelta
from inference_server.llm_client import generate_response, generate_response_mock
from inference_server.serve import choose_engine
from inference_server.settings import load_settings
from inference_server.termination import StartupError
from inference_server.triage.safe_text import CUT_TEXT
from tests.unit.server.running import QUESTION, an_app

QUERIES = {
    "red flag": "I have CHEST PAIN",
    "medicines": "What are my current medications?",
    "anything else": "My knee is stiff in the morning",
}


def a_request(query: str = "hello") -> GenerationRequest:
    return GenerationRequest("r", (Message("user", query),))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_every_answer_says_that_it_is_a_mock_and_when_to_call_for_help(query: str) -> None:
    text = await generate_response("mock", query)
    assert text == generate_response_mock(query)
    assert text.startswith("[MOCK RESPONSE]")
    assert "not medical advice" in text
    assert "emergency number" in text
    assert query not in text


def test_kinds_of_questions_have_different_answers() -> None:
    assert len({generate_response_mock(query) for query in QUERIES.values()}) == 3


@pytest.mark.parametrize("mode", ["qwen", "Qwen3-4B-Thinking-2507"])
async def test_a_model_that_is_not_there_is_refused(mode: str) -> None:
    with pytest.raises(StartupError) as caught:
        await generate_response(mode, "hello")
    assert caught.value.reason == "ModelMissing"


async def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="mock, qwen, Qwen3-4B-Thinking-2507"):
        await generate_response("gpt", "hello")


async def test_the_engine_streams_the_same_text_in_pieces() -> None:
    engine = MockEngine()
    await engine.load()
    pieces = [event.text async for event in engine.submit(a_request()) if isinstance(event, TextDelta)]
    assert len(pieces) > 5
    assert "".join(pieces) == generate_response_mock("hello") == (await collect(engine, a_request())).text


async def test_a_mock_heeds_the_settings_limit_of_words_and_a_request_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_NEW_TOKENS", "5")
    async with an_app(choose_engine(load_settings())) as app:
        chat = {"model": "mock", "messages": [{"role": "user", "content": "hello"}]}
        answers = [
            (await app.client.post("/triage", json=QUESTION)).json()["response"].removesuffix(CUT_TEXT),
            (await app.client.post("/triage", json={**QUESTION, "max_new_tokens": 7}))
            .json()["response"]
            .removesuffix(CUT_TEXT),
            (await app.client.post("/v1/chat/completions", json=chat)).json()["choices"][0]["message"]["content"],
        ]
    assert [len(answer.split()) for answer in answers] == [5, 7, 5]


async def test_the_engine_answers_only_between_load_and_drain() -> None:
    engine = MockEngine()
    with pytest.raises(EngineUnavailable):
        await engine.warm_up()
    await engine.load()
    await engine.warm_up()
    await engine.drain()
    with pytest.raises(EngineUnavailable):
        await engine.warm_up()
    await engine.close()
    await engine.close()


async def test_drain_waits_for_the_accepted_requests() -> None:
    engine = MockEngine()
    await engine.load()
    events = engine.submit(a_request())
    await anext(events)
    draining = asyncio.create_task(engine.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    async for _ in events:
        pass
    await draining
    assert engine.stats().active_requests == 0


def test_a_message_keeps_its_text_out_of_its_repr() -> None:
    assert "headache" not in repr(a_request("headache")) + repr(TextDelta("headache"))
