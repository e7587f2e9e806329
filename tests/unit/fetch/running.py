"""Fetches for tests: in the test's own process, or as a process that can be killed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from inference_server.fetch.display import LogLines
from inference_server.fetch.failures import FetchError
from inference_server.fetch.fetcher import Fetched, fetch
from inference_server.fetch.settings import FetchSettings
from inference_server.termination import StartupError
from tests.hub.server import Hub
from tests.unit.processes import LoggedProcess

# Generous: it only bounds how long a broken test hangs.
PATIENCE_SECONDS = 300

REPOSITORY = "tiny/qwen3"
GOOD_TOKEN = "hf_GoodTokenForTests"
FIRST_SHARD = "model-00001-of-00002.safetensors"
SECOND_SHARD = "model-00002-of-00002.safetensors"
SERVED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "model.safetensors.index.json",
    FIRST_SHARD,
    SECOND_SHARD,
}


def settings_of(hub: Hub, cache: Path, **changed: Any) -> FetchSettings:
    settings: dict[str, Any] = {
        "model_repository": REPOSITORY,
        "model_cache_dir": str(cache),
        "hf_endpoint": hub.url,
        "fetch_tries": 1,
        "fetch_owner_timeout_seconds": 600,
        "fetch_progress_seconds": 0.1,
        **changed,
    }
    return FetchSettings(
        **{
            name: SecretStr(value) if "_token" in name and "path" not in name else value
            for name, value in settings.items()
        }
    )


def variables_of(settings: FetchSettings) -> dict[str, str]:
    """The same settings, for a process."""
    values = settings.model_dump()
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
    }


class Silent(LogLines):
    """Keeps what it is told about tries."""

    def __init__(self) -> None:
        super().__init__(seconds_between=3600)
        self.retries: list[tuple[str, int, float]] = []
        self.messages: list[str] = []
        self.cached: list[str] = []

    def retrying(self, error: FetchError, *, tried: int, seconds: float) -> None:
        self.retries.append((error.reason, tried, seconds))
        self.messages.append(error.message)

    def used_cached(self, error: FetchError) -> None:
        self.cached.append(error.reason)
        self.messages.append(error.message)


def fetched(hub: Hub, cache: Path, display: Silent | None = None, **changed: Any) -> Fetched:
    return fetch(settings_of(hub, cache, **changed), display or Silent())


def failure(hub: Hub, cache: Path, **changed: Any) -> StartupError:
    try:
        fetched(hub, cache, **changed)
    except StartupError as error:
        return error
    raise AssertionError("the fetch succeeded")


def assert_whole(path: Path, files: Mapping[str, bytes]) -> None:
    """The model, READY.json, and nothing else."""
    assert {found.name for found in path.iterdir()} == SERVED | {"READY.json"}
    for name in SERVED:
        assert (path / name).read_bytes() == files[name], name


def leftovers(cache: Path) -> list[str]:
    """What is in the folder of a repository besides models and references."""
    return [path.name for path in cache.glob("*/.*") if path.name != ".refs"]


class FetchProcess(LoggedProcess):
    """`python -m inference_server fetch`."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        super().__init__(directory, ("-m", "inference_server", "fetch"), variables)

    @property
    def pid(self) -> int:
        return self._process.pid

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        code = self._process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(number) for number in path.read_text().split()]


def a_fetch(hub: Hub, cache: Path, directory: Path, **changed: Any) -> FetchProcess:
    return FetchProcess(directory, variables_of(settings_of(hub, cache, **changed)))


def wait_for(reached: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := reached()):
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.01)
    return found
