import pytest

from tests.unit.server.engines import CountingEngine
from tests.unit.server.running import an_app, events_of

PATH = "/v1/chat/completions"
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "I feel dizzy."}]}
THINKING = {**CHAT, "model": "Qwen/Qwen3-4B-Thinking-2507"}


async def test_an_answer_has_openais_shape() -> None:
    async with an_app(CountingEngine()) as app:
        answer = await app.client.post(PATH, json=THINKING)
    body = answer.json()
    request_id = answer.headers["x-request-id"]
    assert body.pop("created") > 0
    assert body == {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "model": "Qwen/Qwen3-4B-Thinking-2507",
        "system_fingerprint": "0123abc",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Drink water.", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "total_tokens": 15,
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        "llm_server": {
            "mode": "qwen",
            "revision": "0123abc",
            "finish_reason": "length",
            "thinking_truncated": False,
            "request_id": request_id,
        },
    }


@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_has_a_role_then_text_then_an_end_then_usage_if_asked_for(usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    async with an_app(CountingEngine()) as app:
        answer = await app.client.post(PATH, json={**THINKING, "stream": True, **options})
    chunks = [data for _, data in events_of(answer.text)]
    assert chunks.pop() == "[DONE]"
    if usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 15)
        assert {chunk["usage"] for chunk in chunks} == {None}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Drink "},
        {"content": "water."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]


async def test_reasoning_content_is_sent_only_to_who_asks_for_it() -> None:
    body = {**THINKING, "include_reasoning": True}
    async with an_app(CountingEngine()) as app:
        whole = (await app.client.post(PATH, json=body)).json()
        stream = await app.client.post(PATH, json={**body, "stream": True})
    assert whole["choices"][0]["message"]["reasoning_content"] == "Thirsty?"
    assert {"reasoning_content": "Thirsty?"} in [
        data["choices"][0]["delta"] for _, data in events_of(stream.text) if data != "[DONE]"
    ]


async def test_the_engine_is_asked_what_the_body_says() -> None:
    engine = CountingEngine()
    body = {
        **THINKING,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "I feel "}, {"type": "text", "text": "dizzy."}]},
            {"role": "assistant", "content": "Since when?"},
            {"role": "user", "content": "Today."},
        ],
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": -2,
        "stop": ["a", "b"],
        "thinking_budget": 4,
    }
    async with an_app(engine, system_prompt="Be safe.") as app:
        assert (await app.client.post(PATH, json=body)).status_code == 200
    request = engine.seen[-1]
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "I feel dizzy."),
        ("assistant", "Since when?"),
        ("user", "Today."),
    ]
    sampling = request.sampling
    assert (sampling.max_new_tokens, sampling.thinking_budget, sampling.top_k) == (9, 4, 3)
    assert (sampling.temperature, sampling.top_p, sampling.stop) == (0, 0.5, ("a", "b"))
    assert sampling.seed is not None
    assert sampling.seed >= 0


async def test_a_conversation_without_a_system_message_gets_the_servers() -> None:
    engine = CountingEngine()
    async with an_app(engine, system_prompt="Be safe.") as app:
        await app.client.post(PATH, json=THINKING)
    assert [message.role for message in engine.seen[-1].messages] == ["system", "user"]


async def test_the_mock_ends_before_a_stop_text_and_at_its_limit_of_words() -> None:
    async with an_app() as app:
        stopped = (await app.client.post(PATH, json={**CHAT, "stop": " is hard"})).json()
        cut = (await app.client.post(PATH, json={**CHAT, "max_tokens": 2})).json()
    assert stopped["choices"][0]["message"]["content"].endswith("This text")
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == (
        "[MOCK RESPONSE] ",
        "length",
    )


NEUTRAL = {
    "n": 1,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "frequency_penalty": 0.0,
    "logprobs": False,
    "logit_bias": {},
    "user": "u",
    "metadata": {"a": "b"},
    "reasoning_effort": "low",
    "store": False,
    "stop": None,
    "max_tokens": None,
    "stream_options": None,
}


async def test_fields_that_change_nothing_are_taken() -> None:
    async with an_app() as app:
        assert (await app.client.post(PATH, json={**CHAT, **NEUTRAL})).status_code == 200


WRONG: list[tuple[dict[str, object], str]] = [
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"audio": {}}, "audio"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": [""]}, "stop.0"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
]


async def test_what_is_wrong_or_not_there_is_refused_by_its_name() -> None:
    async with an_app() as app:
        for wrong, param in WRONG:
            answer = await app.client.post(PATH, json={**CHAT, **wrong})
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
            assert param.split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status", "code"),
    [
        pytest.param("POST", PATH, b"{", "application/json", 400, "invalid_body", id="cut JSON"),
        pytest.param("POST", PATH, b"{}", "text/plain", 415, "unsupported_media_type", id="not JSON"),
        pytest.param("POST", PATH, b"x" * 200_000, "application/json", 413, "body_too_large", id="too large"),
        pytest.param("GET", PATH, b"", "", 405, "method_not_allowed", id="wrong method"),
        pytest.param("GET", "/v1/embeddings", b"", "", 404, "not_found", id="no such path"),
        pytest.param("GET", "/v1", b"", "", 404, "not_found", id="nothing at the root"),
        pytest.param("GET", "/v1/models/gpt-4", b"", "", 404, "model_not_found", id="no such model"),
    ],
)
async def test_errors_have_openais_shape(
    method: str, path: str, content: bytes, kind: str, status: int, code: str
) -> None:
    async with an_app() as app:
        answer = await app.client.request(method, path, content=content, headers={"content-type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["Qwen/Qwen3-4B-Thinking-2507", "Qwen3-4B-Thinking-2507"])
async def test_the_model_has_its_name_with_and_without_its_owner(name: str) -> None:
    async with an_app(CountingEngine()) as app:
        card = (await app.client.get(f"/v1/models/{name}")).json()
        [listed] = (await app.client.get("/v1/models")).json()["data"]
        answer = await app.client.post(PATH, json={**CHAT, "model": name})
        other = await app.client.post(PATH, json={**CHAT, "model": "Zyxwv"})
    assert answer.status_code == 200
    assert (card["id"], card["owned_by"]) == ("Qwen/Qwen3-4B-Thinking-2507", "Qwen")
    assert card == listed
    assert (card["llm_server"]["thinks"], card["llm_server"]["revision"]) == (True, "0123abc")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert "Zyxwv" not in other.text


@pytest.mark.parametrize("field", ["include_reasoning", "temperature", "seed", "stop", "stream", "n", "tools"])
async def test_null_is_as_if_the_field_were_not_there(field: str) -> None:
    async with an_app() as app:
        assert (await app.client.post(PATH, json={**CHAT, field: None})).status_code == 200


async def test_the_lowest_seed_and_no_word_about_usage_are_taken() -> None:
    body = {**CHAT, "seed": -(2**63), "stream": True, "stream_options": {"include_usage": None}}
    async with an_app() as app:
        answer = await app.client.post(PATH, json=body)
    assert answer.status_code == 200
    assert '"usage"' not in answer.text
