"""What the platform asks: probes, metrics, and what runs here."""

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from inference_server import __version__
from inference_server.api.errors import ProblemError
from inference_server.api.schemas import ProbeStatus, ServiceInfo, problem_responses
from inference_server.lifecycle import Lifecycle, Phase
from inference_server.telemetry.metrics import Metrics

# Asked every few seconds for ever: logged at DEBUG only.
ROUTINE_ROUTES = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})


def add_operations(app: FastAPI, lifecycle: Lifecycle, metrics: Metrics) -> None:

    def answer(good: bool, reason: str) -> ProbeStatus:
        if not good:
            raise ProblemError(503, reason, _state(lifecycle))
        return ProbeStatus(status="ok", phase=lifecycle.phase)

    def not_ready() -> str:
        return "QueueNearlyFull" if lifecycle.queue_nearly_full else "NotReady"

    @app.get("/livez", tags=["operations"], responses=problem_responses(503))
    async def livez() -> ProbeStatus:
        """200 unless only a restart can help: the event loop answers and the engine makes progress."""
        return answer(lifecycle.alive, "NotAlive")

    @app.get("/readyz", tags=["operations"], responses=problem_responses(503))
    async def readyz() -> ProbeStatus:
        """200 while requests should be sent here: warmed up, no shutdown has begun, and the queue has room."""
        return answer(lifecycle.ready, not_ready())

    @app.get("/startupz", tags=["operations"], responses=problem_responses(503))
    async def startupz() -> ProbeStatus:
        """200 once the engine has loaded and warmed up, and from then on."""
        return answer(lifecycle.started, "NotStarted")

    @app.get("/health", tags=["operations"], responses=problem_responses(503))
    async def health() -> ProbeStatus:
        """The same as /readyz, for load balancers that expect this name."""
        return answer(lifecycle.ready, not_ready())

    @app.get("/metrics", tags=["operations"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus_metrics() -> Response:
        """Prometheus metrics in the text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    for path, probe in (("/livez", livez), ("/readyz", readyz), ("/startupz", startupz), ("/health", health)):
        app.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)

    @app.get("/", tags=["operations"], responses=problem_responses(401))
    async def root() -> ServiceInfo:
        """What runs here."""
        return ServiceInfo(
            name="llm-operator inference server",
            version=__version__,
            mode=lifecycle.engine.info.mode,
            docs="/docs",
        )


def _state(lifecycle: Lifecycle) -> str:
    loaded = f", {lifecycle.engine.load_progress():.0%} of the model" if lifecycle.phase is Phase.LOADING else ""
    waiting = f"; waiting requests: {lifecycle.engine.stats().queued_requests}"
    return f"phase: {lifecycle.phase}{loaded}; engine heartbeat: {lifecycle.engine.heartbeat():.1f} s ago{waiting}"
