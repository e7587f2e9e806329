"""The model: its files and the engine that runs it, for `serve` and for Python callers.

`download_model_if_needed` is `python -m inference_server fetch`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from inference_server.engine.qwen.host import QwenEngine
from inference_server.engine.qwen.wire import EngineConfig
from inference_server.fetch.display import choose_display
from inference_server.fetch.fetcher import fetch
from inference_server.fetch.layout import READY_FILE, ModelFolder, is_commit
from inference_server.fetch.ready import damage, parse_ready
from inference_server.fetch.settings import load_fetch_settings
from inference_server.fetch.staging import file_sizes, look, read_reference
from inference_server.settings import Settings, load_settings, require_model
from inference_server.system_prompt import system_prompt
from inference_server.termination import ExitCode, StartupError

ChoiceT = TypeVar("ChoiceT", bound=str)


@dataclass(frozen=True, slots=True)
class Model:
    """Where it is and what it is."""

    folder: Path
    repository: str
    commit: str


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


def find_model(settings: Settings) -> Model:
    """The model of MODEL_PATH, else the one that was fetched. Never asks the network. Raises StartupError."""
    return _model_at(Path(settings.model_path)) if settings.model_path else _fetched_model()


def qwen_engine(settings: Settings) -> QwenEngine:
    """The engine for the model of the settings, not loaded yet. Raises StartupError when there is no model."""
    model = find_model(settings)
    config = EngineConfig(
        model_path=str(model.folder.resolve()),
        model=model.repository,
        revision=model.commit,
        device=_given(settings.engine_device),
        dtype=_given(settings.engine_dtype),
        quantization=_given(settings.engine_quantization),
        threads=settings.engine_threads or None,
        concurrent_requests=settings.max_concurrent_requests or None,
        context_tokens=settings.max_context_tokens,
        max_new_tokens=settings.max_new_tokens,
        thinking_budget=None if settings.thinking_budget < 0 else settings.thinking_budget,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        do_sample=settings.do_sample,
        system_prompt=system_prompt(settings),
    )
    return QwenEngine(config, queued_requests=settings.max_queued_requests)


async def load_qwen_model(settings: Settings | None = None) -> QwenEngine:
    """The model with its tokenizer, loaded and warm: ask it by `engine.answer.collect`, and `close` it at the end."""
    engine = qwen_engine(settings or load_settings())
    try:
        await engine.load()
        await engine.warm_up()
    except BaseException:
        await engine.close()
        raise
    return engine


def _model_at(folder: Path) -> Model:
    require_model(folder)
    try:
        ready = parse_ready((folder / READY_FILE).read_text())
        found = damage(ready, repository=ready.repository, commit=ready.commit, sizes=file_sizes(folder, ready))
    except (OSError, ValueError) as error:
        raise _missing(f"{folder / READY_FILE} cannot be read ({type(error).__name__})") from None
    if found:
        raise _missing(f"in {folder} {found}")
    return Model(folder, ready.repository, ready.commit)


def _fetched_model() -> Model:
    settings = load_fetch_settings()
    repository, revision = settings.model_repository, settings.model_revision
    folder = ModelFolder(Path(settings.model_cache_dir), repository)
    try:
        commit = revision if is_commit(revision) else read_reference(folder, revision)
        found = look(folder, commit) if commit and is_commit(commit) else "it was never fetched"
    except OSError as error:
        raise _missing(f"{settings.model_cache_dir} cannot be read ({type(error).__name__})") from None
    if isinstance(found, str):
        raise _missing(f"{settings.model_cache_dir} holds no whole {repository} at {revision}: {found}")
    return Model(folder.commit(found.commit), repository, found.commit)


def _missing(what: str) -> StartupError:
    return StartupError(
        "ModelMissing",
        f"There is no model: {what}.",
        "Fetch it (python -m inference_server fetch), mount the volume that has it, or correct MODEL_PATH.",
        ExitCode.CONFIG,
    )


def _given(value: ChoiceT | Literal["auto"]) -> ChoiceT | None:
    return None if value == "auto" else value
