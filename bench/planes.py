"""A control plane of the measurement's own, with the operator's CRD and rights."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from tests.cluster import controlplane
from tests.cluster.steps import Failure, say
from tests.integration.conftest import ControlPlane, install

ROOT = Path(__file__).parents[1]
# kwokctl's default range holds some 250 Services.
SERVICE_RANGE = "kube-apiserver=service-cluster-ip-range=10.96.0.0/12"


@dataclass(frozen=True)
class Plane:
    """A running control plane."""

    kubeconfig: Path
    operator_kubeconfig: Path
    audit_log: Path
    workdir: Path


@contextmanager
def control_plane(*, nodes: int, stages: Path | None = None) -> Iterator[Plane]:
    """Without the clients' own limits of requests per second: they would be what is measured."""
    scratch = Path(tempfile.mkdtemp(prefix="llm-operator-bench-")).resolve()
    say("==> Control plane")
    try:
        plane = controlplane.start(
            f"bench-{os.getpid()}",
            workdir=scratch / "kwok",
            kwok_nodes=nodes,
            audit_policy=Path(__file__).with_name("audit-policy.yaml"),
            stages=stages,
            extra_args=[SERVICE_RANGE],
            qps_limits=False,
        )
        try:
            assert plane.audit_log is not None
            ours = ControlPlane(plane.kubeconfig, scratch / "operator-kubeconfig", plane.audit_log)
            install(ours)
            yield Plane(ours.kubeconfig, ours.operator_kubeconfig, ours.audit_log, plane.workdir)
        finally:
            plane.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def results_folder() -> Path:
    """Where this run leaves its figures and logs; git ignores it."""
    folder = ROOT / ".local" / "bench" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    folder.mkdir(parents=True)
    return folder


@contextmanager
def failures_told(logs: Path) -> Iterator[None]:
    """What is to be expected of a busy machine ends the program with a sentence; anything else with a traceback.

    SIGTERM ends it like Ctrl-C: neither may leave a control plane or an operator behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (Failure, TimeoutError) as error:
        _give_up([error], logs)
    except BaseExceptionGroup as group:
        expected, other = group.split((Failure, TimeoutError))
        if expected is None or other is not None:
            raise
        _give_up(_leaves(expected), logs)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _give_up(errors: Sequence[BaseException], logs: Path) -> NoReturn:
    for error in errors:
        say(f"  FAILED: {error or 'not done in time'}")
    say(f"  logs are in {logs}")
    raise SystemExit(1)
