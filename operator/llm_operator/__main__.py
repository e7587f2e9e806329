"""`python -m llm_operator`: runs against `KUBECONFIG`, or in a pod with its service account."""

import asyncio
import logging
import sys

import kopf
from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from llm_operator import __version__, logs, watch
from llm_operator.controller import Controller
from llm_operator.core.model import Settings
from llm_operator.health import health_server
from llm_operator.kube import Kube
from llm_operator.reconcile import Reconciler
from llm_operator.settings import OperatorSettings

EX_CONFIG = 78
log = logging.getLogger("llm_operator")


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT, or until a part fails."""
    kube = await Kube.connect()
    controller = Controller(
        kube,
        Reconciler(kube, Settings(server_image=settings.server_image)),
        namespaces=settings.namespaces,
        workers=settings.concurrency,
        resync_seconds=settings.resync_seconds,
    )
    try:
        async with health_server(controller, settings.health_port) as port:
            where = ", ".join(settings.namespaces) or "all namespaces"
            log.info("llm-operator %s watches %s; probes on port %d", __version__, where, port)
            await _until_stopped(controller, settings)
    finally:
        await kube.close()


async def _until_stopped(controller: Controller, settings: OperatorSettings) -> None:
    """Watch and work until one of both ends: kopf ends on SIGTERM and SIGINT, the rest is a failure."""
    stop = asyncio.Event()
    watching = kopf.operator(
        registry=watch.build_registry(controller.queue.add),
        settings=watch.build_settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )
    watcher = asyncio.create_task(watching, name="watches")
    worker = asyncio.create_task(controller.run(), name="controller")
    done, _ = await asyncio.wait({watcher, worker}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    worker.cancel()
    await asyncio.wait({watcher, worker}, timeout=15)
    for task in done:
        task.result()


def main() -> int:
    """Entry point; the exit code is 78 for settings that are not valid."""
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = f"LLMOP_{'_'.join(str(part) for part in one['loc'][:1]).upper()}"
            sys.stderr.write(f"{name}: {one['msg']} (is {one['input']!r})\n")
        return EX_CONFIG
    logs.configure(settings.log_level)
    try:
        asyncio.run(run(settings))
    except ConfigException as error:
        sys.stderr.write(f"No credentials for a cluster: {error}. Set KUBECONFIG, or run in a pod.\n")
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
