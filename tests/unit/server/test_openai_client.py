"""The real client of OpenAI, on a real socket."""

import asyncio
import time

import openai
import pytest

from inference_server.api.keys import Keys
from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import EngineBusy
from tests.unit.server.engines import CountingEngine, FailingEngine, RefusingEngine, SlowEngine
from tests.unit.server.running import PATIENCE_SECONDS, a_served_app, until

QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "I feel dizzy."}]
QWEN = "Qwen/Qwen3-4B-Thinking-2507"


def a_client(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_it_lists_the_model_and_gets_whole_answers_and_streams() -> None:
    with a_served_app(CountingEngine()) as (url, _), a_client(url) as client:
        assert [model.id for model in client.models.list()] == [QWEN]
        assert client.models.retrieve(QWEN).owned_by == "Qwen"
        answer = client.chat.completions.create(model=QWEN, messages=QUESTION, seed=1, max_completion_tokens=9)
        chunks = list(
            client.chat.completions.create(
                model=QWEN, messages=QUESTION, stream=True, stream_options={"include_usage": True}
            )
        )
    assert answer.choices[0].message.content == "Drink water."
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(text) == "Drink water."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


async def test_its_asynchronous_form_works_too() -> None:
    with a_served_app(MockEngine()) as (url, _):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            whole = await client.chat.completions.create(model="mock", messages=QUESTION)
            stream = await client.chat.completions.create(model="mock", messages=QUESTION, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


def test_closing_its_stream_frees_the_engine() -> None:
    engine = SlowEngine()
    with a_served_app(engine) as (url, _), a_client(url) as client:
        with client.chat.completions.create(model="mock", messages=QUESTION, stream=True) as stream:
            assert next(stream).choices
            assert engine.running == 1
        end = time.monotonic() + PATIENCE_SECONDS
        while engine.running and time.monotonic() < end:
            time.sleep(0.005)
    assert (engine.running, engine.cancelled) == (0, 1)


async def test_cancelling_its_task_frees_the_engine() -> None:
    engine = SlowEngine()
    with a_served_app(engine) as (url, _):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            asking = asyncio.create_task(client.chat.completions.create(model="mock", messages=QUESTION))
            await until(lambda: engine.running == 1)
            asking.cancel()
            await until(lambda: engine.running == 0)
    assert engine.cancelled == 1


def test_it_understands_our_errors() -> None:
    with a_served_app(MockEngine(), keys=Keys(("secret",))) as (url, _):
        with a_client(url, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        with a_client(url, "secret") as client:
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="gpt-4", messages=QUESTION)
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model="mock", messages=QUESTION, n=2)
    assert refused.value.param == "n"
    with a_served_app(RefusingEngine(EngineBusy(3))) as (url, _), a_client(url) as client:
        with pytest.raises(openai.RateLimitError) as busy:
            client.chat.completions.create(model="mock", messages=QUESTION)
        assert busy.value.response.headers["retry-after"] == "3"


def test_it_raises_when_a_stream_fails_in_the_middle() -> None:
    with a_served_app(FailingEngine()) as (url, _), a_client(url) as client:
        stream = client.chat.completions.create(model="mock", messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="engine failed"):
            list(stream)
