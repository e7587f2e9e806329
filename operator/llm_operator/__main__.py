"""`python -m llm_operator`: runs against `KUBECONFIG`, or in a pod with its service account."""

import asyncio
import logging
import signal
import sys

import kopf
from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from llm_operator import __version__, logs, watch
from llm_operator.controller import Controller
from llm_operator.core.model import Settings
from llm_operator.health import health_server
from llm_operator.kube import LLMDEPLOYMENTS, ApiError, Kube
from llm_operator.reconcile import Reconciler
from llm_operator.settings import OperatorSettings

EX_CONFIG = 78
# A reconcile is a few requests of at most 30 s; the pod has 30 s in all.
FINISH_SECONDS = 20.0
LOOK_FOR_CRD_SECONDS = 2.0
log = logging.getLogger("llm_operator")


async def run(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT, or until a part fails."""
    stop = asyncio.Event()
    _set_on_signal(stop)
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
            await _until_stopped(kube, controller, settings, stop)
    finally:
        await kube.close()


def _set_on_signal(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _until_stopped(kube: Kube, controller: Controller, settings: OperatorSettings, stop: asyncio.Event) -> None:
    """Watch and work until a signal; raises if a part ends before."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    served = asyncio.create_task(_until_served(kube), name="wait for the CRD")
    await asyncio.wait({stopped, served}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        served.cancel()
        await asyncio.wait({served})
        return
    served.result()
    await _watch_and_work(controller, settings, stop, stopped)


async def _until_served(kube: Kube) -> None:
    """Wait for the CRD: kopf looks once which kinds there are, and never watches one that comes later."""
    while True:
        try:
            if await kube.serves(LLMDEPLOYMENTS):
                return
            log.warning("this cluster has no LLMDeployments yet: apply crds/llmdeployments.yaml")
        except ApiError as error:
            log.warning("waiting for the API server: %s", error)
        await asyncio.sleep(LOOK_FOR_CRD_SECONDS)


async def _watch_and_work(
    controller: Controller, settings: OperatorSettings, stop: asyncio.Event, stopped: asyncio.Task[object]
) -> None:
    before = asyncio.all_tasks()
    watches = await kopf.spawn_tasks(
        registry=watch.build_registry(controller.queue.add),
        settings=watch.build_settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    # In place of kopf's own handlers: its way to stop takes every other task of the loop for one of its own.
    _set_on_signal(stop)
    work = asyncio.create_task(controller.run(), name="controller")
    done, _ = await asyncio.wait({stopped, work, *watches}, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: finishing what is being worked on")
    controller.stop()
    await asyncio.wait({work}, timeout=FINISH_SECONDS)
    await _end(before)
    for task in done - {stopped}:
        if not task.cancelled():
            task.result()
        raise RuntimeError(f"{task.get_name()} ended although nobody asked for it")


async def _end(before: set[asyncio.Task[object]]) -> None:
    """Cancel every task that was started since: again and again, because parts of kopf swallow a cancellation."""
    for _ in range(20):
        rest = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not rest:
            return
        for task in rest:
            task.cancel()
        await asyncio.wait(rest, timeout=0.25)


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
    except Exception:
        log.exception("the operator ends; it is to be started again")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
