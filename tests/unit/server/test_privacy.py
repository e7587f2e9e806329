"""No patient text leaves through an error body, a header, a metric or the process's output."""

import asyncio
import json
import logging
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from inference_server.api.keys import Keys
from inference_server.engine.protocol import Engine, Finished
from inference_server.telemetry.logs import configure_logging
from tests.unit.server.engines import CrashingEngine, DyingEngine, SlowEngine, ThinkingForEver, WordlessEngine
from tests.unit.server.running import PATIENCE_SECONDS, ServerProcess, a_server, an_app

CANARY = "Zyxwv"
JSON = {"content-type": "application/json"}


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


HALF = f"{CANARY}\ud83d"
FINE = body(patient_mrn=CANARY, query=f"{CANARY} has chest pain")

CHAT = "/v1/chat/completions"


def chat(**fields: object) -> bytes:
    talk = [{"role": "system", "content": CANARY}, {"role": "user", "content": f"{CANARY} has chest pain"}]
    return body(**{"model": "mock", "messages": talk, **fields})


REQUESTS = [
    pytest.param("POST", "/triage", body(patient_mrn=CANARY, query=CANARY, stream=True), JSON, id="stream"),
    pytest.param("POST", "/triage", body(patient_mrn=CANARY, query=CANARY, seed=CANARY), JSON, id="no number"),
    pytest.param("POST", "/triage", body(patient_mrn="1", query=CANARY, include_reasoning=True), JSON, id="thoughts"),
    pytest.param("POST", CHAT, chat(), JSON, id="chat"),
    pytest.param("POST", CHAT, chat(stream=True, stream_options={"include_usage": True}), JSON, id="chat stream"),
    pytest.param("POST", CHAT, chat(model=CANARY), JSON, id="chat model"),
    pytest.param("POST", CHAT, chat(stop=[CANARY], user=CANARY, metadata={CANARY: CANARY}), JSON, id="chat extras"),
    pytest.param("POST", CHAT, chat(tools=[{"type": CANARY}]), JSON, id="chat tools"),
    pytest.param("POST", CHAT, chat(response_format={"type": CANARY}), JSON, id="chat format"),
    pytest.param("POST", CHAT, chat(stop=[CANARY] * 9), JSON, id="chat stops"),
    pytest.param("POST", CHAT, chat(temperature=CANARY, n=CANARY), JSON, id="chat numbers"),
    pytest.param("POST", CHAT, chat(messages=CANARY), JSON, id="chat messages"),
    pytest.param("POST", CHAT, chat(messages=[{"role": CANARY, "content": {CANARY: CANARY}}]), JSON, id="chat role"),
    pytest.param("POST", CHAT, chat(messages=[{"role": "user", "content": [{"type": CANARY}]}]), JSON, id="chat parts"),
    pytest.param("POST", CHAT, json.dumps(CANARY).encode(), JSON, id="chat not an object"),
    pytest.param("POST", CHAT, b'{"model": "' + CANARY.encode(), JSON, id="chat cut JSON"),
    pytest.param("POST", CHAT, chat(), {"content-type": f"text/{CANARY}"}, id="chat content type"),
    pytest.param("POST", CHAT, chat() + CANARY.encode() * 99_999, JSON, id="chat too large"),
    pytest.param("POST", CHAT, chat(guided_regex=CANARY), JSON, id="chat refused field"),
    pytest.param("POST", CHAT, chat(**{CANARY: CANARY}), JSON, id="chat unknown field"),
    pytest.param("POST", CHAT, chat(chat_template_kwargs={CANARY: CANARY}), JSON, id="chat unknown wish"),
    pytest.param("POST", CHAT, chat(chat_template_kwargs={"enable_thinking": CANARY}), JSON, id="chat wish"),
    pytest.param("POST", CHAT, chat(reasoning_effort=CANARY), JSON, id="chat effort"),
    pytest.param("POST", CHAT, chat(stop=CANARY * 99), JSON, id="chat long stop"),
    pytest.param("POST", CHAT, chat(messages=[{"role": "assistant", "content": None, "tool_calls": [CANARY]}]), JSON,
                 id="chat tool calls"),
    pytest.param("POST", CHAT, chat(messages=[{"role": "user", "content": None, CANARY: CANARY}]), JSON, id="null"),
    pytest.param("POST", CHAT, chat(messages=[{"role": "user", "content": HALF}]), JSON, id="chat half a character"),
    pytest.param("POST", CHAT, chat(metadata={HALF: HALF}), JSON, id="chat half a character in a name"),
    pytest.param("POST", CHAT, chat(**{HALF: 1}), JSON, id="chat half a character in a field's name"),
    pytest.param("POST", "/triage", body(patient_mrn=HALF, query=CANARY), JSON, id="half a character"),
    pytest.param("POST", "/triage", body(**{"patient_mrn": "1", "query": CANARY, HALF: 1}), JSON, id="half, in a name"),
    pytest.param("POST", "/triage", FINE, {**JSON, "content-encoding": CANARY}, id="encoding"),
    pytest.param("POST", CHAT, chat(), {**JSON, "content-encoding": CANARY}, id="chat encoding"),
    pytest.param("POST", "/triage", FINE, {"content-type": f"application/json; charset={CANARY}"}, id="charset"),
    pytest.param("POST", "/triage", FINE, {**JSON, "origin": f"https://{CANARY}.example"}, id="origin"),
    pytest.param("GET", f"/v1/models/{CANARY}", b"", {}, id="model in the path"),
    pytest.param("GET", f"/v1/{CANARY}?q={CANARY}", b"", {}, id="path under v1"),
    pytest.param("POST", "/triage", FINE, JSON, id="valid"),
    pytest.param("POST", "/triage", body(patient_mrn=CANARY), JSON, id="missing field"),
    pytest.param("POST", "/triage", body(patient_mrn=CANARY * 99, query=CANARY), JSON, id="long record number"),
    pytest.param("POST", "/triage", body(patient_mrn="1", query=CANARY * 9999), JSON, id="long query"),
    pytest.param("POST", "/triage", body(patient_mrn=[CANARY], query={CANARY: CANARY}), JSON, id="wrong types"),
    pytest.param("POST", "/triage", body(patient_mrn="1", query="x", other=CANARY), JSON, id="extra field"),
    pytest.param("POST", "/triage", body(**{"patient_mrn": "1", "query": "x", CANARY: 1}), JSON, id="extra name"),
    pytest.param("POST", "/triage", body(**{CANARY: {CANARY: CANARY}}), JSON, id="only unknown names"),
    pytest.param("POST", "/triage", json.dumps(CANARY).encode(), JSON, id="not an object"),
    pytest.param("POST", "/triage", b'{"query": "' + CANARY.encode(), JSON, id="cut JSON"),
    pytest.param("POST", "/triage", CANARY.encode() + b"\xff", JSON, id="not text"),
    pytest.param("POST", "/triage", FINE, {"content-type": f"text/{CANARY}"}, id="wrong content type"),
    pytest.param("POST", "/triage", FINE, {}, id="no content type"),
    pytest.param("POST", "/triage", FINE + CANARY.encode() * 99_999, JSON, id="too large"),
    pytest.param("POST", f"/triage/{CANARY}", FINE, JSON, id="path"),
    pytest.param("POST", "/triage/?q=" + CANARY, FINE, JSON, id="query string, nearly a route"),
    pytest.param("POST", "/triage?patient_mrn=" + CANARY, FINE, JSON, id="query string"),
    pytest.param("GET", "/triage?q=" + CANARY, b"", {}, id="wrong method"),
    pytest.param("GET", "/docs?q=" + CANARY, b"", {}, id="documentation"),
    pytest.param("GET", "/metrics?q=" + CANARY, b"", {"accept": f"text/plain; version={CANARY}"}, id="scrape"),
    pytest.param(CANARY.upper(), "/triage", FINE, JSON, id="method"),
    pytest.param("POST", "/triage", FINE, {**JSON, "x-request-id": f"id of {CANARY}"}, id="prose as request id"),
    pytest.param("POST", "/triage", FINE, {**JSON, "user-agent": CANARY, "cookie": f"a={CANARY}"}, id="headers"),
    pytest.param("POST", "/triage", FINE, {**JSON, "authorization": f"Bearer {CANARY}"}, id="authorization"),
    pytest.param("POST", "/triage", FINE, {**JSON, "traceparent": CANARY, "x-forwarded-for": CANARY}, id="proxies"),
]  # fmt: skip


def everything_in(answer: httpx2.Response) -> str:
    return f"{answer.headers.multi_items()} {answer.text}".casefold()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with a_server(tmp_path_factory.mktemp("server"), LOG_LEVEL="DEBUG") as running:
        yield running


@pytest.mark.parametrize(("method", "path", "content", "headers"), REQUESTS)
def test_a_real_server_repeats_nothing(
    server: ServerProcess, method: str, path: str, content: bytes, headers: dict[str, str]
) -> None:
    answer = httpx2.request(method, server.url + path, content=content, headers=headers, timeout=PATIENCE_SECONDS)
    assert CANARY.casefold() not in everything_in(answer)
    assert CANARY.casefold() not in everything_in(server.get("/metrics"))
    server.wait_event(event="request", request_id=answer.headers["x-request-id"])
    assert CANARY.casefold() not in server.output.casefold()


UNFINISHED = (
    "POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n" + CANARY
)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(f"POST /triage HTTP/1.1\r\n{CANARY} broken\r\n\r\n", id="broken header"),
        pytest.param(f"{CANARY}\r\n\r\n", id="no request line"),
        pytest.param(f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: {CANARY}\r\nConnection: upgrade\r\n\r\n", id="upgrade"),
        pytest.param(f"POST /triage HTTP/1.1\r\nHost: x\r\nContent-Length: {CANARY}\r\n\r\n", id="broken length"),
        pytest.param(
            "POST /triage HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
            f"Transfer-Encoding: chunked\r\nX: {CANARY}\r\n\r\n5\r\n{CANARY}\r\n0\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(f"POST /triage HTTP/1.1\r\nHost: x\r\nX: {CANARY * 9999}\r\n\r\n", id="long header"),
        pytest.param(UNFINISHED, id="client leaves in the middle of the body"),
    ],
)  # fmt: skip
def test_broken_http_repeats_nothing(server: ServerProcess, raw: str) -> None:
    with socket.create_connection(server.address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(raw.encode())
        connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    assert CANARY.encode().lower() not in received.lower()
    # The other one is the scrape that asks.
    server.wait_metric("llm_server_http_requests_in_flight", 1.0)
    after = server.get("/livez").headers["x-request-id"]
    server.wait_event(event="request", request_id=after)
    assert CANARY.casefold() not in server.output.casefold()


@pytest.mark.parametrize(
    "begun", [f"POST /triage HTTP/1.1\r\nHost: x\r\nX: {CANARY}\r\n", UNFINISHED], ids=["head", "body"]
)
def test_a_request_that_comes_too_slowly_is_not_repeated(tmp_path: Path, begun: str) -> None:
    with a_server(tmp_path, LOG_LEVEL="DEBUG", RECEIVE_TIMEOUT_SECONDS="1") as server:
        with socket.create_connection(server.address, timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(begun.encode())
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        assert received.startswith(b"HTTP/1.1 408 ")
        assert CANARY.encode() not in received
        server.wait_metric("llm_server_http_requests_in_flight", 1.0)
        metrics = server.get("/metrics").text
        assert CANARY.casefold() not in (server.output + metrics).casefold()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/triage", CHAT])
@pytest.mark.parametrize(
    ("engine", "query", "told"),
    [
        pytest.param(lambda: ThinkingForEver(), CANARY, "DeadlineExceeded", id="no answer in time"),
        pytest.param(lambda: ThinkingForEver(), CANARY * 7000, "PromptTooLong", id="more than the context holds"),
        pytest.param(lambda: SlowEngine(), CANARY, "", id="a cut answer"),
        pytest.param(lambda: WordlessEngine(Finished("stop", None)), CANARY, "EmptyAnswer", id="no word"),
        pytest.param(lambda: DyingEngine(dies=True, late=False), CANARY, "EngineDied", id="a dying engine"),
        pytest.param(lambda: DyingEngine(dies=True, late=True), CANARY, "EngineDied", id="a dying engine, too late"),
    ],
)  # fmt: skip
async def test_an_answer_that_does_not_come_repeats_nothing(
    capfd: pytest.CaptureFixture[str],
    restored_logging: None,
    engine: Callable[[], Engine],
    query: str,
    told: str,
    path: str,
    stream: bool,
) -> None:
    configure_logging("DEBUG")
    talk = [{"role": "user", "content": query}]
    asked = chat(messages=talk, stream=stream, timeout_seconds=0.2)
    if path == "/triage":
        asked = body(patient_mrn=CANARY, query=query, stream=stream, timeout_seconds=0.2)
    async with an_app(engine(), max_body_bytes=2**20) as app:
        answer = await app.client.post(path, content=asked, headers=JSON)
        metrics = await app.client.get("/metrics")
    reason = "InvalidRequest" if path == "/triage" and len(query) > 8000 else told
    assert reason.lower() in answer.text.replace("_", "").lower().replace("contextlengthexceeded", "prompttoolong")
    for text in ("".join(capfd.readouterr()), everything_in(answer), metrics.text):
        assert CANARY.casefold() not in text.casefold()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/triage", CHAT])
async def test_an_engine_crash_repeats_nothing(
    capfd: pytest.CaptureFixture[str], restored_logging: None, path: str, stream: bool
) -> None:
    configure_logging("DEBUG")
    content = chat(stream=stream) if path == CHAT else body(patient_mrn=CANARY, query=CANARY, stream=stream)
    async with an_app(CrashingEngine()) as app:
        answer = await app.client.post(path, content=content, headers=JSON)
        metrics = await app.client.get("/metrics")
    output = "".join(capfd.readouterr())
    crash = next(line for line in map(json.loads, output.splitlines()) if line["event"] == "unhandled_exception")
    assert [link["type"] for link in crash["exception"]] == ["builtins.RuntimeError", "builtins.ValueError"]
    assert any("engines.py" in frame for frame in crash["exception"][0]["frames"])
    assert crash["request_id"] == answer.headers["x-request-id"]
    for text in (output, everything_in(answer), metrics.text):
        assert CANARY.casefold() not in text.casefold()


async def test_a_wrong_key_is_not_repeated(capfd: pytest.CaptureFixture[str], restored_logging: None) -> None:
    configure_logging("DEBUG")
    async with an_app(keys=Keys((f"{CANARY}-key",))) as app:
        for path in ("/triage", CHAT):
            answer = await app.client.post(path, content=FINE, headers={"authorization": f"Bearer {CANARY}"})
            assert answer.status_code == 401
            assert CANARY.casefold() not in everything_in(answer)
        metrics = (await app.client.get("/metrics")).text
    assert CANARY.casefold() not in "".join([*capfd.readouterr(), metrics]).casefold()


async def test_the_last_resorts_of_python_repeat_nothing(
    capfd: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    async def fail() -> None:
        raise ValueError(CANARY)

    class Unraisable:
        def __del__(self) -> None:
            raise ValueError(CANARY)

    async with an_app():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            configure_logging("DEBUG")
            warnings.warn(CANARY, stacklevel=1)
        forgotten = asyncio.create_task(fail())
        await asyncio.wait([forgotten])
        del forgotten
        thread = threading.Thread(target=int, args=[CANARY])
        thread.start()
        thread.join()
        Unraisable()
        sys.excepthook(ValueError, ValueError(CANARY), None)
        logging.getLogger("library").error("%d", CANARY)
    output = "".join(capfd.readouterr())
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert events.count("uncaught_exception") == 3
    assert {"asyncio_error", "warning"} <= set(events)
    assert CANARY not in output
