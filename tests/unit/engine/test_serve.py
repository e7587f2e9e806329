"""LLM_MODE=qwen, as a process: from the environment to an answer."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference_server.engine.qwen.hardware import choose, read_machine
from inference_server.fetch.ready import Ready, ReadyFile, dump_ready
from inference_server.triage.safe_text import CUT_TEXT
from tests.unit.engine.checkpoints import with_generation
from tests.unit.server.running import PATIENCE_SECONDS, QUESTION, ServerProcess, a_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def a_fetched_model(thinking_model: Path, tmp_path: Path) -> dict[str, str]:
    """The variables of a server that runs it."""
    folder = tmp_path / "cache" / "tiny--model" / COMMIT
    folder.parent.mkdir(parents=True)
    folder.symlink_to(thinking_model)
    files = {path.name: ReadyFile(path.stat().st_size, "") for path in folder.iterdir() if path.name != "READY.json"}
    (folder / "READY.json").write_text(dump_ready(Ready("tiny/model", COMMIT, files, 0)))
    return {
        "LLM_MODE": "qwen",
        "MODEL_CACHE_DIR": str(tmp_path / "cache"),
        "MODEL_REPOSITORY": "tiny/model",
        "MODEL_REVISION": COMMIT,
        "MAX_NEW_TOKENS": "40",
        "ENGINE_THREADS": "1",
        "DO_SAMPLE": "false",
    }


# Of so small a model that memory does not decide.
BEST = choose(read_machine(gpu=None), parameters=1, answer_numbers=1)


@pytest.mark.parametrize(
    ("formats", "dtype", "quantization"),
    [
        pytest.param({"ENGINE_DTYPE": "float32"}, "float32", "int8", id="as the settings say"),
        pytest.param({"ENGINE_QUANTIZATION": "int8"}, "float32", "int8", id="as the settings say of the weights"),
        pytest.param({}, BEST.dtype, {"int8": "int8", "none": None}[BEST.quantization], id="as suits this processor"),
    ],
)
def test_a_fetched_model_answers_triage_questions(
    thinking_model: Path, tmp_path: Path, formats: dict[str, str], dtype: str, quantization: str | None
) -> None:
    variables = a_fetched_model(thinking_model, tmp_path) | {"ENGINE_DEVICE": "cpu"} | formats
    with a_server(tmp_path, **variables) as server:

        def ask(path: str, **body: Any) -> Any:
            return httpx2.post(f"{server.url}{path}", json=body, timeout=PATIENCE_SECONDS).json()

        answer, again = (ask("/triage", **QUESTION) for _ in range(2))
        varied = ask("/triage", **QUESTION, temperature=2, top_p=1)
        messages = [{"role": "user", "content": QUESTION["query"]}]
        (chat,) = ask("/v1/chat/completions", model="tiny/model", messages=messages)["choices"]
        assert server.get("/livez").status_code == 200
        (facts,) = [event for event in server.events if event["event"] == "engine"]
    assert (answer["mode"], answer["model"], answer["revision"]) == ("qwen", "tiny/model", COMMIT)
    assert answer["response"]
    assert answer["usage"]["completion_tokens"] <= 40
    assert answer["response"] == again["response"] != varied["response"]
    # Its end, where it was cut at its limit, is not the model's.
    assert answer["response"].removesuffix(CUT_TEXT) == chat["message"]["content"]
    assert (facts["dtype"], facts["quantization"], facts["threads"]) == (dtype, quantization, 1)


def test_advice_of_the_model_that_is_not_followed_is_told(thinking_model: Path, tmp_path: Path) -> None:
    (tmp_path / "advised").mkdir()
    model = with_generation(thinking_model, tmp_path / "advised", {"top_k": 20, "repetition_penalty": 1.05})
    with a_server(tmp_path, **a_fetched_model(model, tmp_path)) as server:
        (card,) = server.get("/v1/models").json()["data"]
        told = [event for event in server.events if event["event"] == "advice_not_heeded"]
    assert card["llm_server"]["unheeded_advice"] == ["repetition_penalty=1.05"]
    assert [(event["level"], event["advice"]) for event in told] == [("WARNING", ["repetition_penalty=1.05"])]


def test_who_waits_for_an_engine_that_is_killed_is_told(thinking_model: Path, tmp_path: Path) -> None:
    with a_server(tmp_path, **a_fetched_model(thinking_model, tmp_path)) as server, ThreadPoolExecutor(1) as clients:
        worker = the_worker_of(server)
        os.kill(worker, signal.SIGSTOP)
        waiting = clients.submit(httpx2.post, f"{server.url}/triage", json=QUESTION, timeout=PATIENCE_SECONDS)
        # The other one is the scrape that asks.
        server.wait_metric("llm_server_http_requests_in_flight", 2.0)
        os.kill(worker, signal.SIGKILL)
        answer = waiting.result()
    assert (answer.status_code, answer.json()["reason"]) == (503, "EngineDied")


def the_worker_of(server: ServerProcess) -> int:
    (worker,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return int(worker)


def test_a_server_whose_engine_is_killed_says_so_at_its_end(thinking_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    with a_server(tmp_path, **a_fetched_model(thinking_model, tmp_path), TERMINATION_LOG_PATH=str(log)) as server:
        os.kill(the_worker_of(server), signal.SIGKILL)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 70
    assert json.loads(log.read_text())["reason"] == "EngineDied"
