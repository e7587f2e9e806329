"""Puts the application together: routes, error bodies, middleware, and the engine's life around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from inference_server import __version__
from inference_server.api import errors
from inference_server.api.answering import Answering
from inference_server.api.chat import add_chat
from inference_server.api.chat_schemas import ChatMessage, ChatRequest, StreamOptions, TemplateWishes, TextPart
from inference_server.api.config import ApiConfig
from inference_server.api.docs_page import DOCS_PATH, add_docs_page
from inference_server.api.errors import OPENAI_PREFIX
from inference_server.api.middleware import (
    OPEN_PATHS,
    AccessLog,
    BodyLimit,
    CloseOnDrain,
    Framing,
    RequestIds,
    RequireKey,
    UnhandledErrors,
)
from inference_server.api.models import add_models
from inference_server.api.operations import ROUTINE_ROUTES, add_operations
from inference_server.api.schemas import TriageRequest
from inference_server.api.triage import add_triage
from inference_server.lifecycle import Lifecycle
from inference_server.telemetry.logs import log_loop_error
from inference_server.telemetry.metrics import Metrics
from inference_server.telemetry.tracing import ContinuesTheTrace, Tracing
from inference_server.tracked_engine import Limits, TrackedEngine

# FastAPI's own telemetry would put exception messages, and so patient text, into log records.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


# Names that an error may repeat.
_BODIES = (TriageRequest, ChatRequest, ChatMessage, TextPart, StreamOptions, TemplateWishes)


def create_app(lifecycle: Lifecycle, config: ApiConfig, tracing: Tracing | None = None) -> FastAPI:
    """The ASGI application. Its lifespan loads the lifecycle's engine in the background and closes it."""
    tracing = tracing or Tracing()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        lifecycle.start()
        yield
        await lifecycle.stop()
        await asyncio.to_thread(tracing.close)

    metrics = Metrics(lifecycle)
    limits = Limits(config.engine_patience_seconds, config.max_new_tokens, config.thinking_budget)
    engine = TrackedEngine(lifecycle, metrics.generations, tracing, limits)
    answering = Answering(lifecycle, engine, config)
    app = FastAPI(
        title="llm-operator inference server",
        version=__version__,
        description="Answers patients' questions with generated text. No answer replaces a clinician.",
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        # Both load their scripts from the internet.
        docs_url=None,
        redoc_url=None,
        # A redirect would repeat the query string in its Location header.
        redirect_slashes=False,
    )
    # Not as routers that are included: those are looked through twice for every request.
    add_triage(app, answering)
    add_chat(app, answering)
    add_models(app, lifecycle)
    add_operations(app, lifecycle, metrics)
    add_docs_page(app)
    errors.install(app, known_fields={name for body in _BODIES for name in body.model_fields})
    schema = _corrected(app.openapi(), asks_for_key=bool(config.keys))
    # Named even where an answer is given before routing; a path with parameters is not.
    routes = {*schema["paths"], *filter(None, (DOCS_PATH, app.openapi_url))}
    app.user_middleware = [
        Middleware(RequestIds),
        Middleware(AccessLog, metrics=metrics, routes=routes, routine=ROUTINE_ROUTES),
        Middleware(CloseOnDrain, lifecycle=lifecycle),
        *_cors(config.cors_allow_origins),
        *([Middleware(RequireKey, keys=config.keys)] if config.keys else []),
        *([Middleware(ContinuesTheTrace)] if tracing.exports else []),
        Middleware(UnhandledErrors),
        Middleware(Framing),
        Middleware(BodyLimit, max_bytes=config.max_body_bytes),
    ]
    return app


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    """Before the keys: a browser asks without one whether it may ask."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    ]


def _corrected(schema: dict[str, Any], *, asks_for_key: bool) -> dict[str, Any]:
    """What FastAPI cannot know, in place: the errors' media type and shape, and which paths ask for a key."""
    components = schema["components"]
    for path, operations in schema["paths"].items():
        is_openai = path.startswith(OPENAI_PREFIX)
        for operation in operations.values():
            responses = operation["responses"]
            if is_openai:
                # FastAPI adds its own; here a wrong body is answered 400.
                responses.pop("422", None)
            for status, response in responses.items():
                if status >= "400" and not is_openai:
                    response["content"]["application/problem+json"] = response["content"].pop("application/json")
            if asks_for_key and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    if asks_for_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema
