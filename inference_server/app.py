"""Puts the application together: routes, error bodies, middleware, and the engine's life around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware

from inference_server import __version__
from inference_server.api import problems
from inference_server.api.operations import ROUTINE_ROUTES, operations_router
from inference_server.api.schemas import TriageRequest
from inference_server.api.triage import triage_router
from inference_server.lifecycle import Lifecycle
from inference_server.logs import log_loop_error
from inference_server.metrics import Metrics
from inference_server.middleware.body_limit import BodyLimit
from inference_server.middleware.failures import Failures
from inference_server.middleware.hang_up import HangUp
from inference_server.middleware.records import Records
from inference_server.middleware.request_ids import RequestIds

# FastAPI's own telemetry would put exception messages, and so patient text, into log records.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(lifecycle: Lifecycle, *, max_body_bytes: int) -> FastAPI:
    """The ASGI application. Its lifespan loads the lifecycle's engine in the background and closes it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        lifecycle.start()
        yield
        await lifecycle.stop()

    metrics = Metrics(lifecycle)
    app = FastAPI(
        title="llm-operator inference server",
        version=__version__,
        description="Answers patients' questions with generated text. No answer replaces a clinician.",
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        redoc_url=None,
        # A redirect would repeat the query string in its Location header.
        redirect_slashes=False,
    )
    app.include_router(triage_router(lifecycle))
    app.include_router(operations_router(lifecycle, metrics))
    problems.install(app, known_fields=TriageRequest.model_fields)
    schema = _with_problem_media_type(app.openapi())
    # Named even where an answer is given before routing; a path with parameters is not.
    routes = {*schema["paths"], *filter(None, (app.docs_url, app.openapi_url))}
    app.user_middleware = [
        Middleware(RequestIds),
        Middleware(Records, metrics=metrics, routes=routes, routine=ROUTINE_ROUTES),
        Middleware(HangUp, lifecycle=lifecycle),
        Middleware(Failures),
        Middleware(BodyLimit, max_bytes=max_body_bytes),
    ]
    return app


def _with_problem_media_type(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI documents every model as application/json; correct that, in place, for the error responses."""
    for path in schema["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    response["content"]["application/problem+json"] = response["content"].pop("application/json")
    return schema
