"""LLM_MODE=qwen, as a process: from the environment to an answer."""

from pathlib import Path
from typing import Any

import httpx2

from inference_server.fetch.ready import Ready, ReadyFile, dump_ready
from tests.unit.server.running import PATIENCE_SECONDS, QUESTION, a_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_fetched_model_answers_triage_questions(thinking_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tiny--model" / COMMIT
    folder.parent.mkdir(parents=True)
    folder.symlink_to(thinking_model)
    files = {path.name: ReadyFile(path.stat().st_size, "") for path in folder.iterdir() if path.name != "READY.json"}
    (folder / "READY.json").write_text(dump_ready(Ready("tiny/model", COMMIT, files, 0)))
    variables = {
        "LLM_MODE": "qwen",
        "MODEL_CACHE_DIR": str(tmp_path / "cache"),
        "MODEL_REPOSITORY": "tiny/model",
        "MODEL_REVISION": COMMIT,
        "MAX_NEW_TOKENS": "40",
        "ENGINE_THREADS": "1",
        "DO_SAMPLE": "false",
    }
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
    assert answer["response"] == again["response"] == chat["message"]["content"] != varied["response"]
    assert (facts["quantization"], facts["threads"]) == ("int8", 1)
