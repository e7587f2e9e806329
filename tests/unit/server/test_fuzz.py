import asyncio
import json
import string
from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.server.running import App, an_app

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.sampled_from(["patient_mrn", "query", "role", "content", "type", "text", "include_usage"]) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)
questions = st.fixed_dictionaries(
    {},
    optional={
        "patient_mrn": st.text() | values,
        "query": st.text(min_size=1) | values,
        "stream": st.booleans() | values,
    },
)
messages = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": st.sampled_from(["user", "system", "tool"]) | values, "content": st.text() | values}
    ),
    max_size=3,
)
numbers = st.sampled_from([0, 1, -1, 0.5, 2, 1e308, 10**30, True, None]) | values
conversations = st.fixed_dictionaries(
    {"model": st.just("mock")},
    optional={
        "messages": messages | values,
        "stop": values,
        "stream": values,
        "stream_options": values,
        "tools": values,
        **dict.fromkeys(["n", "seed", "temperature", "top_p", "max_tokens", "top_k", "timeout_seconds"], numbers),
    },
)
bodies = st.binary() | (values | questions | conversations).map(lambda value: json.dumps(value).encode())
kinds = st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", "", "/;=,"]) | st.text(
    string.printable.strip()
)


@pytest.mark.parametrize("path", ["/triage", "/v1/chat/completions"])
def test_no_body_makes_the_server_fail(path: str) -> None:
    async def ask(app: App, content: bytes, kind: str, chunked: bool) -> httpx2.Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield content[:3]
            yield content[3:]

        body = chunks() if chunked else content
        return await app.client.post(path, content=body, headers={"content-type": kind})

    with asyncio.Runner() as runner:
        running = an_app()
        app = runner.run(running.__aenter__())

        @settings(deadline=None)
        @given(content=bodies, kind=kinds, chunked=st.booleans())
        def check(content: bytes, kind: str, chunked: bool) -> None:
            answer = runner.run(ask(app, content, kind, chunked))
            assert answer.status_code in {200, 400, 415, 422}
            if answer.status_code != 200:
                kind = "application/problem+json" if path == "/triage" else "application/json"
                assert answer.headers["content-type"] == kind

        check()
        runner.run(running.__aexit__(None, None, None))
