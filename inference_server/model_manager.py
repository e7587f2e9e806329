"""The model's files, for Python callers; `download_model_if_needed` is `python -m inference_server fetch`."""

import sys
from pathlib import Path

from inference_server.fetch.display import choose_display
from inference_server.fetch.fetcher import fetch
from inference_server.fetch.settings import load_fetch_settings


def get_model_cache_dir() -> Path:
    """The folder that holds all models: MODEL_CACHE_DIR."""
    return Path(load_fetch_settings().model_cache_dir)


def download_model_if_needed() -> Path:
    """The folder of the model of the settings, whole and checked; downloaded only if it is not there.

    Raises StartupError, or its kind FetchError, with the reason and a remedy.
    """
    settings = load_fetch_settings()
    display = choose_display(sys.stdout, seconds_between=settings.fetch_progress_seconds)
    return fetch(settings, display).path
