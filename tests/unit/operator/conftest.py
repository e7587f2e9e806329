from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llm_operator.kube import Kube
from tests.unit.operator.api_server import ApiServer, serve, write_config
from tests.unit.operator.operator_at_work import Hands, at_work


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
async def kube(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    """A client of the server."""
    runner = await serve(server)
    write_config(tmp_path / "config", runner)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("llm_operator.kube.READ_PAUSES", (0.0,))
    client = await Kube.connect()
    yield client
    await client.close()
    await runner.cleanup()


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    """The operator's hands on a simulated API server."""
    with at_work() as hands:
        yield hands
