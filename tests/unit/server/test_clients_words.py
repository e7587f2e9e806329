"""What clients say in ways of their own: heeded, or refused by name; never ignored where it would change the answer."""

import json
import socket
from typing import Any

import httpx2
import pytest

from inference_server.api.sse import frame
from inference_server.engine.advice import UNHEEDED
from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import MAX_TOKENS, EngineInfo, EngineStats
from inference_server.lifecycle import Lifecycle, Phase
from tests.unit.server.engines import CountingEngine
from tests.unit.server.running import PATIENCE_SECONDS, QUESTION, a_served_app, an_app

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "I feel dizzy."}]}
QWEN = {**CHAT, "model": "Qwen/Qwen3-4B-Thinking-2507"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template_kwargs", {"enable_thinking": False, "tools_in_user_message": True}),
        ("guided_regex", "yes|no"),
        ("guided_json", {"type": "object"}),
        ("stop_token_ids", [1]),
        ("min_tokens", 5),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function"}]),
        ("logprobs", True),
        ("n", 2),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("format", "json"),
        ("verbosity", "low"),
    ],
)
async def test_what_would_change_the_answer_is_refused_by_name(field: str, value: object) -> None:
    async with an_app() as app:
        answer = await app.client.post(PATH, json={**CHAT, field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


@pytest.mark.parametrize("field", UNHEEDED)
async def test_what_is_not_done_for_a_model_is_not_done_for_a_client(field: str) -> None:
    async with an_app() as app:
        assert (await app.client.post(PATH, json={**CHAT, field: 7})).status_code == 400


async def test_a_field_that_nobody_knows_is_refused_without_its_name() -> None:
    async with an_app() as app:
        answer = await app.client.post(PATH, json={**CHAT, "zyxwv_has_pain": 1})
    assert answer.status_code == 400
    assert "zyxwv" not in answer.text
    assert "max_completion_tokens" in answer.text


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}, id="openai"),
        pytest.param({"ignore_eos": True, "stop": None, "max_tokens": 5, "max_completion_tokens": 5,
                      "stream_options": {"include_usage": True, "continuous_usage_stats": True}}, id="guidellm"),
        pytest.param({"seed": 1234, "stop": ["a", "b", "c", "d"], "temperature": 0, "max_tokens": 9}, id="lm-eval"),
        pytest.param({"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "logprobs": False}, id="old"),
        pytest.param({"min_tokens": 0, "stop_token_ids": [], "repetition_penalty": 1.0, "top_k": 0}, id="vllm's own"),
        pytest.param({"reasoning_effort": "medium", "parallel_tool_calls": True, "tools": []}, id="agents"),
    ],
)  # fmt: skip
async def test_what_clients_send_by_themselves_is_taken(body: dict[str, Any]) -> None:
    async with an_app() as app:
        assert (await app.client.post(PATH, json={**CHAT, **body})).status_code == 200


@pytest.mark.parametrize(
    ("wish", "most"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
        ({"chat_template_kwargs": {"thinking": False}}, 0),
        ({"chat_template_kwargs": {"enable_thinking": True}}, 256),
        ({"chat_template_kwargs": {"enable_thinking": False}, "thinking_budget": 7}, 7),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "low"}, 128),
        ({"reasoning_effort": "high"}, 256),
        ({"reasoning_effort": "high", "max_tokens": MAX_TOKENS}, MAX_TOKENS - 256),
        ({}, 256),
    ],
)
async def test_wishes_about_the_reasoning_are_heeded(wish: dict[str, Any], most: int) -> None:
    engine = CountingEngine()
    async with an_app(engine) as app:
        assert (await app.client.post(PATH, json={**QWEN, **wish})).status_code == 200
    assert engine.seen[-1].sampling.thinking_budget == most


@pytest.mark.parametrize(("asked", "random"), [(-1, True), (-2, False), (0, False), (7, False)])
async def test_minus_one_is_a_random_seed(asked: int, random: bool) -> None:
    engine = CountingEngine()
    async with an_app(engine) as app:
        await app.client.post(PATH, json={**QWEN, "seed": asked})
    assert (engine.seen[-1].sampling.seed is None) == random


LONE = "\\ud83d"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/triage", '{"patient_mrn": "1", "query": "%s"}', id="query"),
        pytest.param("/triage", '{"patient_mrn": "%s", "query": "a"}', id="record number"),
        pytest.param("/triage", '{"patient_mrn": "1", "query": "a", "%s": 1}', id="name of a field"),
        pytest.param(PATH, '{"model": "mock", "messages": [{"role": "user", "content": "%s"}]}', id="content"),
        pytest.param(
            PATH, '{"model": "mock", "messages": [{"role": "user", "content": [{"type": "text", "text": "%s"}]}]}',
            id="part",
        ),
        pytest.param(PATH, '{"model": "%s", "messages": [{"role": "user", "content": "a"}]}', id="model"),
        pytest.param(
            PATH, '{"model": "mock", "stop": "%s", "messages": [{"role": "user", "content": "a"}]}', id="stop"
        ),
        pytest.param(
            PATH, '{"model": "mock", "metadata": {"%s": 1}, "messages": [{"role": "user", "content": "a"}]}',
            id="name in metadata",
        ),
        pytest.param(PATH, '{"model": "mock", "%s": 1, "messages": [{"role": "user", "content": "a"}]}', id="name"),
    ],
)  # fmt: skip
def test_half_a_character_is_refused(path: str, body: str) -> None:
    with a_served_app(MockEngine()) as (url, _):
        answer = httpx2.post(
            url + path,
            content=(body % LONE).encode(),
            headers={"content-type": "application/json"},
            timeout=PATIENCE_SECONDS,
        )
    assert answer.status_code == (422 if path == "/triage" else 400)
    assert "Unicode" in answer.text


async def test_the_assistants_content_may_be_null_and_nobody_elses() -> None:
    engine = CountingEngine()
    turns = [{"role": "assistant", "content": None}, {"role": "user", "content": "Today."}]
    async with an_app(engine) as app:
        taken = await app.client.post(PATH, json={**QWEN, "messages": turns})
        tools = [{**turns[0], "tool_calls": [{"id": "1"}]}, turns[1]]
        refused = await app.client.post(PATH, json={**QWEN, "messages": tools})
        nobody = await app.client.post(PATH, json={**QWEN, "messages": [{"role": "user", "content": None}]})
    assert taken.status_code == 200
    assert [message.content for message in engine.seen[-1].messages] == ["", "Today."]
    assert (refused.status_code, nobody.status_code) == (400, 400)
    assert "tool calls" in refused.text


async def test_too_many_stops_are_told_as_such() -> None:
    async with an_app() as app:
        answer = await app.client.post(PATH, json={**CHAT, "stop": ["a", "b", "c", "d", "e"]})
    assert answer.status_code == 400
    assert "4 items" in answer.json()["error"]["message"]


async def test_a_compressed_body_is_named() -> None:
    async with an_app() as app:
        for path, status in (("/triage", 415), (PATH, 415)):
            answer = await app.client.post(
                path, content=b"\x1f\x8b", headers={"content-type": "application/json", "content-encoding": "gzip"}
            )
            assert answer.status_code == status
            assert "Content-Encoding" in answer.text


def test_a_length_beside_chunks_is_refused_and_the_connection_closed() -> None:
    raw = (
        b"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    with a_served_app(MockEngine()) as (url, _):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(raw)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
    assert received.startswith(b"HTTP/1.1 400 ")


def test_lines_of_a_stream_end_nowhere_else() -> None:
    text = "a\u2028b\u2029c\x85d"
    sent = frame({"text": text}).decode()
    assert len(sent.splitlines()) == 2
    assert json.loads(sent.removeprefix("data: ")) == {"text": text}


@pytest.mark.parametrize(("path", "body"), [("/triage", QUESTION), (PATH, CHAT)])
async def test_nobody_keeps_an_answer(path: str, body: dict[str, Any]) -> None:
    async with an_app() as app:
        answer = await app.client.post(path, json=body)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz", "/health"])
def test_probes_answer_head(path: str) -> None:
    with a_served_app(MockEngine()) as (url, _):
        answer = httpx2.head(url + path, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_slash_behind_the_models_lists_them() -> None:
    async with an_app() as app:
        assert (await app.client.get("/v1/models/")).json() == (await app.client.get("/v1/models")).json()


@pytest.mark.parametrize(("places", "waiting", "ready"), [(1, 1, True), (2, 2, False), (10, 8, True), (10, 9, False)])
async def test_one_that_waits_does_not_close_the_door(places: int, waiting: int, ready: bool) -> None:
    class Queue(MockEngine):
        @property
        def info(self) -> EngineInfo:
            return EngineInfo("mock", "mock", None, queued_requests=places)

        def stats(self) -> EngineStats:
            return EngineStats(1, queued_requests=waiting)

    lifecycle = Lifecycle(Queue(), heartbeat_timeout=60, ready_queue_percent=90)
    lifecycle.phase = Phase.READY
    assert lifecycle.ready == ready


@pytest.mark.parametrize("origins", [("https://portal.example.org",), ()])
async def test_a_web_page_may_ask_where_the_settings_say_so(origins: tuple[str, ...]) -> None:
    headers = {"origin": "https://portal.example.org", "access-control-request-method": "POST"}
    async with an_app(cors_allow_origins=origins) as app:
        preflight = await app.client.options("/triage", headers=headers)
        answer = await app.client.post("/triage", json=QUESTION, headers=headers)
        stranger = await app.client.post("/triage", json=QUESTION, headers={"origin": "https://evil.example.org"})
    assert (preflight.status_code == 200) == bool(origins)
    assert answer.headers.get("access-control-allow-origin") == (origins[0] if origins else None)
    assert "access-control-allow-origin" not in stranger.headers
