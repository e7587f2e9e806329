import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.fetch.settings import FetchSettings
from inference_server.settings import Settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of the developer's machine reaches a test."""
    for name in {*Settings.model_fields, *FetchSettings.model_fields}:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what configure_logging sets for the whole process."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    handlers, level, uvicorn_level = root.handlers, root.level, uvicorn.level
    for module, name in [
        (logging, "raiseExceptions"),
        (logging, "logThreads"),
        (logging, "logProcesses"),
        (logging, "logMultiprocessing"),
        (warnings, "showwarning"),
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
    ]:
        monkeypatch.setattr(module, name, getattr(module, name))
    yield
    root.handlers = handlers
    root.setLevel(level)
    uvicorn.setLevel(uvicorn_level)
