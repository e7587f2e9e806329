from pathlib import Path

import pytest

from inference_server.api.keys import Keys, read_keys
from inference_server.settings import Settings
from inference_server.termination import StartupError
from tests.unit.server.running import QUESTION, an_app

KEYS = Keys(("first-key", "second-key"))
OPEN = ["/livez", "/readyz", "/startupz", "/health", "/metrics", "/docs", "/openapi.json"]


@pytest.mark.parametrize("key", ["first-key", "second-key"])
async def test_any_of_the_keys_opens_the_server(key: str) -> None:
    async with an_app(keys=KEYS) as app:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {key}"}
            assert (await app.client.post("/triage", json=QUESTION, headers=headers)).status_code == 200
            assert (await app.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([("Authorization", "Bearer wrong")], id="wrong"),
        pytest.param([("Authorization", "Bearer first-key-and-more")], id="longer"),
        pytest.param([("Authorization", "Bearer first-ke")], id="shorter"),
        pytest.param([("Authorization", "Bearer ")], id="empty"),
        pytest.param([("Authorization", "first-key")], id="without the scheme"),
        pytest.param([("Authorization", "Basic first-key")], id="another scheme"),
        pytest.param([("Authorization", "Bearer first-key"), ("Authorization", "Bearer x")], id="two"),
        pytest.param([(b"Authorization", b"Bearer \xff")], id="not ascii"),
    ],
)
async def test_without_a_key_everything_else_is_closed(headers: list[tuple[str, str]]) -> None:
    async with an_app(keys=KEYS) as app:
        for path in ("/triage", "/v1/chat/completions", "/v1/models", "/", "/nothing"):
            answer = await app.client.post(path, content=b"not even read", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            body = answer.json()
            code = body["error"]["code"] if path.startswith("/v1") else body["reason"]
            assert code in {"invalid_api_key", "InvalidKey"}


async def test_probes_metrics_and_documentation_need_no_key() -> None:
    async with an_app(keys=KEYS) as app:
        assert {(await app.client.get(path)).status_code for path in OPEN} == {200}


async def test_without_keys_nobody_is_asked() -> None:
    async with an_app() as app:
        assert (await app.client.get("/v1/models")).status_code == 200


def test_keys_come_from_the_variable_and_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\n\nfour\n")
    keys = read_keys(Settings.model_validate({"api_key": "one, two", "api_key_file": str(file)}))
    assert all(keys.admit(key) for key in (b"one", b"two", b"three", b"four"))
    assert not any(keys.admit(key) for key in (b"", b"one, two"))
    assert not read_keys(Settings())


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", "schl\u00fcssel".encode(), None])
def test_a_file_without_a_usable_key_does_not_open_the_server(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        read_keys(Settings(api_key_file=str(file)))
    assert caught.value.reason == "InvalidSettings"


def test_a_key_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "very-secret")
    settings = Settings()
    assert "very-secret" not in f"{settings!r} {settings} {read_keys(settings)!r}"
