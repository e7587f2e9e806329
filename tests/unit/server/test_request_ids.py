import re

import pytest

from tests.unit.server.running import QUESTION, an_app


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param("b7e23ec29af22b0b4e41da31e868d572", id="hexadecimal"),
        pytest.param("3fa85f64-5717-4562-b3fc-2c963f66afa6", id="uuid"),
        pytest.param("01ARZ3NDEKTSV4RRFFQ69G5FAV", id="ulid"),
        pytest.param("x" * 64, id="longest"),
    ],
)
async def test_a_sane_id_is_kept(offered: str) -> None:
    async with an_app() as app:
        answer = await app.client.post("/triage", json=QUESTION, headers={"X-Request-ID": offered})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == offered


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"short", id="short"),
        pytest.param(b"x" * 65, id="long"),
        pytest.param(b"patient John Doe", id="prose"),
        pytest.param(b'abcdefgh","level":"FATAL', id="breaks a log line"),
        pytest.param("abcdefgh\u00e9".encode(), id="not ascii"),
    ],
)
async def test_another_id_is_replaced(offered: bytes) -> None:
    async with an_app() as app:
        answer = await app.client.get("/livez", headers=[(b"X-Request-ID", offered)])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_two_ids_are_replaced_by_a_new_one() -> None:
    async with an_app() as app:
        answer = await app.client.get("/livez", headers=[("X-Request-ID", "a" * 8), ("X-Request-ID", "b" * 8)])
    assert len(answer.headers["x-request-id"]) == 32


async def test_requests_have_different_ids() -> None:
    async with an_app() as app:
        ids = {(await app.client.get("/livez")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
