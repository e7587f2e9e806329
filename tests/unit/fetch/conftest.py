import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.layout import ModelFolder
from inference_server.fetch.settings import FetchSettings, PruneSettings
from inference_server.fetch.staging import read_ready
from tests.hub.checkpoint import a_checkpoint
from tests.hub.server import Hub, a_hub
from tests.unit.fetch.running import GOOD_TOKEN, REPOSITORY, fetched


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of the developer's machine reaches a test."""
    for name in os.environ:
        if (
            name.startswith("HF_")
            or name.lower() in {**FetchSettings.model_fields, **PruneSettings.model_fields}
            or name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the command sets for the whole process."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    handlers, level, uvicorn_level = root.handlers, root.level, uvicorn.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for module, name in [
        (logging, "raiseExceptions"),
        (warnings, "showwarning"),
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
    ]:
        monkeypatch.setattr(module, name, getattr(module, name))
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers = handlers
    root.setLevel(level)
    uvicorn.setLevel(uvicorn_level)


@pytest.fixture(scope="session")
def checkpoint() -> dict[str, bytes]:
    return a_checkpoint(padding=2_000_000)


@pytest.fixture(scope="session")
def fetched_once(checkpoint: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    with a_hub() as hub:
        hub.add(REPOSITORY, checkpoint)
        fetched(hub, cache)
    return cache


@pytest.fixture
def cached(hub: Hub, fetched_once: Path, tmp_path: Path) -> Fetched:
    """The model as a fetch has left it in tmp_path; the Hub was not asked."""
    shutil.copytree(fetched_once, tmp_path, dirs_exist_ok=True)
    commit = hub.repositories[REPOSITORY].references["main"]
    ready = read_ready(ModelFolder(tmp_path, REPOSITORY), commit)
    assert ready is not None
    return Fetched(tmp_path / "tiny--qwen3" / commit, ready)


@pytest.fixture
def hub(checkpoint: dict[str, bytes]) -> Iterator[Hub]:
    """A Hub with one model."""
    with a_hub(tokens=(GOOD_TOKEN,)) as hub:
        hub.add(REPOSITORY, checkpoint)
        yield hub
