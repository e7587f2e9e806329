"""Never an empty 200: where there is no answer, an error says so; where it is cut, the answer itself does."""

import httpx2
import openai
import pytest

from inference_server.engine.protocol import Event, Finished, TextDelta, Timing, Usage
from inference_server.triage.safe_text import CUT_TEXT, SAFE_TEXT
from tests.unit.server.engines import CountingEngine, SlowEngine, ThinkingForEver, WordlessEngine
from tests.unit.server.running import PATIENCE_SECONDS, a_served_app, an_app, events_of

EMERGENCY = {"patient_mrn": "MRN-001", "query": "crushing chest pain"}
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "crushing chest pain"}]}
BODIES = {"/triage": EMERGENCY, "/v1/chat/completions": CHAT}
PATHS = pytest.mark.parametrize("path", BODIES)
SHORT = {"timeout_seconds": 0.2}


@PATHS
@pytest.mark.parametrize("include_reasoning", [False, True])
def test_a_model_that_thinks_for_ever_is_answered_with_an_error(path: str, include_reasoning: bool) -> None:
    body = {**BODIES[path], **SHORT, "include_reasoning": include_reasoning}
    with a_served_app(ThinkingForEver()) as (url, _):
        whole = httpx2.post(url + path, json=body, timeout=PATIENCE_SECONDS)
        stream = httpx2.post(url + path, json={**body, "stream": True}, timeout=PATIENCE_SECONDS)
    assert whole.status_code == 504
    assert int(whole.headers["retry-after"]) >= 1
    _, last = events_of(stream.text)[-1]
    for document in (whole.json(), last):
        if path == "/triage":
            assert (document["reason"], document["status"]) == ("DeadlineExceeded", 504)
            assert SAFE_TEXT in document["detail"]
        else:
            assert document["error"]["code"] == "deadline_exceeded"
            assert SAFE_TEXT in document["error"]["message"]
    assert 'finish_reason":"' not in stream.text
    assert "[DONE]" not in stream.text


def test_openais_client_raises_where_there_is_no_answer() -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "crushing chest pain"}]
    with (
        a_served_app(ThinkingForEver()) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="mock", messages=messages, extra_body=SHORT)
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="mock", messages=messages, extra_body=SHORT, stream=True))


@PATHS
@pytest.mark.parametrize(
    ("events", "status", "code", "words"),
    [
        pytest.param(
            (Finished("deadline", Usage(9, 0), timing=Timing(0.2, None)),), 504, "DeadlineExceeded", "its turn",
            id="its time was over in the queue",
        ),
        pytest.param((Finished("stop", None),), 500, "EmptyAnswer", "without a word", id="nothing at all"),
        pytest.param((TextDelta(" \n"), Finished("length", None)), 500, "EmptyAnswer", "without a word", id="blanks"),
        pytest.param((Finished("shutdown", None),), 503, "ShuttingDown", "had to stop", id="the server stops"),
    ],
)  # fmt: skip
async def test_an_answer_without_words_is_an_error(
    path: str, events: tuple[Event, ...], status: int, code: str, words: str
) -> None:
    engine = WordlessEngine(*events)
    async with an_app(engine) as app:
        whole = await app.client.post(path, json=BODIES[path])
        stream = await app.client.post(path, json={**BODIES[path], "stream": True})
    assert whole.status_code == status
    for text in (whole.text, stream.text):
        assert words in text
        assert code.lower() in text.replace("_", "").lower()


async def test_who_names_a_text_to_end_before_may_get_nothing() -> None:
    async with an_app(WordlessEngine(Finished("stop", None))) as app:
        answer = await app.client.post("/v1/chat/completions", json={**CHAT, "stop": "\n"})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == ""


def test_a_cut_answer_says_so_to_the_patient() -> None:
    with a_served_app(SlowEngine()) as (url, _):
        whole = httpx2.post(f"{url}/triage", json={**EMERGENCY, **SHORT}, timeout=PATIENCE_SECONDS).json()
        text = httpx2.post(f"{url}/triage", json={**EMERGENCY, **SHORT, "stream": True}, timeout=PATIENCE_SECONDS).text
    *deltas, (_, end) = events_of(text)
    assert (whole["incomplete"], whole["finish_reason"]) == (True, "deadline")
    assert whole["response"].startswith("word ")
    assert whole["response"].endswith(CUT_TEXT)
    assert deltas[-1] == ("delta", {"text": CUT_TEXT})
    assert end["incomplete"]


async def test_the_time_of_a_request_bounds_its_reasoning() -> None:
    engine = ThinkingForEver()
    async with an_app(engine) as app:
        for seconds in (2, 0.1):
            await app.client.post("/triage", json={**EMERGENCY, "timeout_seconds": seconds, "thinking_budget": 200})
    budgets = [request.sampling.thinking_budget for request in engine.seen[-2:]]
    # Of 80 and of 4 tokens half is for the answer.
    assert budgets == [40, 2]


async def test_a_refused_prompt_costs_the_engine_nothing() -> None:
    engine = ThinkingForEver()
    long = {**CHAT, "messages": [{"role": "user", "content": "pain " * 20_000}]}
    async with an_app(engine) as app:
        before = len(engine.seen)
        answer = await app.client.post("/v1/chat/completions", json=long)
        metrics = (await app.client.get("/metrics")).text
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "32768" in answer.json()["error"]["message"]
    assert len(engine.seen) == before
    assert 'llm_server_rejected_total{reason="prompt_too_long"} 1.0' in metrics


async def test_an_engine_that_does_not_tell_its_context_takes_every_prompt() -> None:
    engine = CountingEngine()
    long = [{"role": "user", "content": "pain " * 20_000}]
    async with an_app(engine) as app:
        answer = await app.client.post("/v1/chat/completions", json={"model": engine.info.model, "messages": long})
    assert answer.status_code == 200
