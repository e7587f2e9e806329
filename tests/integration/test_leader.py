"""Two operators, one Lease: one works, the other takes over, and who lost the lease writes nothing any more."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import pytest

from tests.integration.conftest import ControlPlane, answers, free_port
from tests.integration.faults import FaultProxy, Record, running_fault_proxy
from tests.integration.test_lifecycle import server, wait_ready
from tests.kubectl import Kubectl, an_llmdeployment, eventually

LEASE = "llm-operator"
Scenario = Callable[[ControlPlane, Kubectl, Kubectl, Path], None]


class StoodStill(Exception):
    """A lease was lost that nobody took: this machine stood still for ten seconds."""


class Operator:
    """An operator behind a proxy, of which a test may expect that it ends."""

    def __init__(self, proxy: FaultProxy, log: Path, **settings: str) -> None:
        self.proxy, self.log = proxy, log
        self.port = free_port()
        self._settings = settings
        self.start()

    def start(self) -> None:
        """Start the process, once more if it has ended."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "llm_operator"],
                env={
                    **os.environ,
                    "KUBECONFIG": str(self.proxy.kubeconfig),
                    "LLMOP_SERVER_IMAGE": "registry.example.com/server:1",
                    "LLMOP_HEALTH_PORT": str(self.port),
                    "LLMOP_METRICS_PORT": "0",
                    **self._settings,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_ready(self) -> bool:
        """Whether it works, or stands by."""
        return answers(f"http://127.0.0.1:{self.port}/readyz")

    def is_healthy(self) -> bool:
        """Whether a kubelet would leave it alone."""
        return answers(f"http://127.0.0.1:{self.port}/healthz")

    def writes(self, since: int = 0) -> list[Record]:
        """What it wrote, or tried to, besides the lease."""
        return [one for one in self.proxy.writes(since=since) if one.call.resource != "leases"]

    def lost_its_lease(self) -> bool:
        """Whether it could not renew its lease, or not give it up."""
        log = self.log.read_text()
        return "ending at once" in log or "could not be given up" in log

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout=120)
            finally:
                self.process.kill()


@contextmanager
def running(plane: ControlPlane, folder: Path, *names: str) -> Iterator[list[Operator]]:
    """Operators that are started in this order: the first one leads."""
    name, *others = names
    (folder / name).mkdir()
    with running_fault_proxy(plane.operator_kubeconfig, folder / name) as proxy:
        operator = Operator(proxy, folder / name / "log", LLMOP_IDENTITY=name)
        try:
            eventually(operator.is_ready)
            if others:
                with running(plane, folder, *others) as rest:
                    yield [operator, *rest]
            else:
                yield [operator]
        except AssertionError as error:
            if operator.lost_its_lease():
                raise StoodStill from error
            raise
        finally:
            operator.end()


def thrice_at_most(scenario: Scenario) -> Scenario:
    """A test that begins anew where this machine stood still."""

    @wraps(scenario)
    def test(control_plane: ControlPlane, kubectl: Kubectl, lease: Kubectl, tmp_path: Path) -> None:
        for is_last in (False, False, True):
            folder = tmp_path / uuid.uuid4().hex
            folder.mkdir()
            try:
                scenario(control_plane, kubectl, lease, folder)
                return
            except StoodStill:
                if is_last:
                    raise
            kubectl("delete", "llmdep", "--all", "--cascade=foreground")
            nobody_holds(lease)

    return test


def nobody_holds(lease: Kubectl) -> None:
    lease("delete", "lease", LEASE, "--ignore-not-found")


@pytest.fixture
def lease(control_plane: ControlPlane) -> Kubectl:
    """kubectl in the namespace of the Lease, which nobody holds."""
    kubectl = control_plane.kubectl("llm-operator-system")
    nobody_holds(kubectl)
    return kubectl


def holder(kubectl: Kubectl) -> str:
    found = kubectl.get("lease", LEASE)
    return str((found or {}).get("spec", {}).get("holderIdentity", ""))


@thrice_at_most
def test_only_the_leader_writes_and_at_its_end_the_other_goes_on(
    control_plane: ControlPlane, kubectl: Kubectl, lease: Kubectl, tmp_path: Path
) -> None:
    with running(control_plane, tmp_path, "a", "b") as (a, b):
        kubectl.apply(an_llmdeployment("one"))
        wait_ready(kubectl, "one")
        assert holder(lease) == "a"
        eventually(b.is_ready)  # though it only stands by
        assert (a.writes() != [], b.writes()) == (True, [])
        # Told to end, it gives the lease up: it does not have to run out.
        b.process.send_signal(signal.SIGSTOP)
        a.process.terminate()
        assert a.process.wait(timeout=120) == 0
        assert holder(lease) == ""
        b.process.send_signal(signal.SIGCONT)
        eventually(lambda: holder(lease) == "b")
        written = len(a.proxy.writes())
        kubectl.apply(an_llmdeployment("two"))
        wait_ready(kubectl, "two")
        assert b.writes() != []
        assert len(a.proxy.writes()) == written


@thrice_at_most
def test_the_lease_of_one_that_was_killed_runs_out(
    control_plane: ControlPlane, kubectl: Kubectl, lease: Kubectl, tmp_path: Path
) -> None:
    with running(control_plane, tmp_path, "a", "b") as (a, b):
        assert holder(lease) == "a"
        a.process.kill()
        a.process.wait()
        kubectl.apply(an_llmdeployment())
        eventually(lambda: holder(lease) == "b")
        wait_ready(kubectl)
        assert b.writes() != []


@thrice_at_most
def test_one_that_was_stopped_and_goes_on_ends_without_a_write(
    control_plane: ControlPlane, kubectl: Kubectl, lease: Kubectl, tmp_path: Path
) -> None:
    with running(control_plane, tmp_path, "a", "b") as (a, b):
        kubectl.apply(an_llmdeployment())
        wait_ready(kubectl)
        assert holder(lease) == "a"
        a.process.send_signal(signal.SIGSTOP)
        # There is work for it as soon as it wakes up.
        kubectl.patch("llmdep", "triage", {"spec": {"image": "other/server:2"}})
        eventually(lambda: holder(lease) == "b")
        wait_ready(kubectl)
        kubectl("delete", "service", "triage")
        eventually(lambda: kubectl.get("service", "triage"))
        written = len(a.proxy.writes())
        a.process.send_signal(signal.SIGCONT)
        assert a.process.wait(timeout=120) == 1
        assert (
            a.writes(since=0)[-1:] == [one for one in a.proxy.writes()[:written] if one.call.resource != "leases"][-1:]
        )
        assert holder(lease) == "b"
        assert "the lease" in a.log.read_text()
        assert server(kubectl)["image"] == "other/server:2"
        eventually(b.is_ready)
