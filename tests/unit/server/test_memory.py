"""Requests leave nothing behind in the process."""

import gc

import pytest

from tests.unit.server.running import QUESTION, RawRequest, an_app

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/triage", QUESTION, id="answers"),
        pytest.param("/triage", {**QUESTION, "stream": True}, id="streams"),
        pytest.param("/triage", {**QUESTION, "query": 5}, id="mistakes"),
        pytest.param("/v1/chat/completions", {**CHAT, "stream": True}, id="chunks"),
    ],
)
async def test_thousands_of_requests_leave_no_object_behind(path: str, body: dict[str, object]) -> None:
    async def ask(times: int) -> int:
        for _ in range(times):
            request = RawRequest(app.asgi, path, body)
            await request.task
            assert request.status in {200, 422}
        gc.collect()
        return len(gc.get_objects())

    async with an_app() as app:
        # What is kept on purpose is there after the first ones.
        before = await ask(50)
        after = await ask(1000)
    assert after - before < 100
