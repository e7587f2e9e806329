"""The operator's real client and Actor on a socket to a simulated API server, for tests that are no coroutines."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from llm_operator.act import Actor, Outcome
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.planner import Plan
from llm_operator.kube import Kube
from llm_operator.watch_cache import WatchCache
from tests.unit.operator.api_server import serve, write_config
from tests.unit.operator.simulated_api import Api


class Hands:
    """What carries plans out; on whichever API server is given."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.api = Api()
        self.kube: Kube

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return await self.api.answer(request)

    def carry_out(self, api: Api, observation: Observation, plan: Plan) -> Outcome:
        """The writes of a plan. Raises ApiError."""
        self.api = api
        outcome = self._runner.run(Actor(self.kube, WatchCache()).carry_out(observation, plan))
        if outcome.failure is not None:
            raise outcome.failure.error
        return outcome

    def write_status(self, api: Api, observation: Observation, status: Manifest) -> bool:
        """The status, and the events of what changed. Raises ApiError."""
        self.api = api
        return self._runner.run(Actor(self.kube, WatchCache()).write_status(observation, status))


@contextmanager
def at_work() -> Iterator[Hands]:
    """Serve, and connect."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        hands = Hands(runner)
        server = runner.run(serve(hands))
        before = os.environ.get("KUBECONFIG")
        os.environ["KUBECONFIG"] = str(Path(folder) / "config")
        try:
            write_config(Path(folder) / "config", server)
            hands.kube = runner.run(Kube.connect())
        finally:
            os.environ.pop("KUBECONFIG")
            if before is not None:
                os.environ["KUBECONFIG"] = before
        yield hands
        runner.run(hands.kube.close())
        runner.run(server.cleanup())
