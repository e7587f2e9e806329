"""The operator goes away and comes back: nothing is written that is already so, nothing is missed."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.conftest import OPERATOR, ROOT, ControlPlane, install, running_operator, started_control_plane
from tests.integration.test_lifecycle import create_ready, server, wait_ready
from tests.kubectl import Kubectl, an_llmdeployment, eventually

NAMES = ("a", "b", "c")


def test_a_restart_writes_nothing_and_rest_writes_nothing(
    kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_operator(control_plane, log, LLMOP_RESYNC_SECONDS="1"):
        for name in NAMES:
            create_ready(kubectl, name, replicas=2, resources={"requests": {"cpu": "0.1"}, "limits": {"memory": "1Gi"}})
        start = len(control_plane.requests())
        time.sleep(5)
        assert control_plane.operator_writes(namespace=kubectl.namespace, since=start) == [], "at rest"
    start = len(control_plane.requests())
    with running_operator(control_plane, log, LLMOP_RESYNC_SECONDS="1"):
        time.sleep(6)
    looked = [
        one["objectRef"]["resource"]
        for one in control_plane.requests(since=start)
        if one["user"]["username"] == OPERATOR and one["verb"] == "list"
    ]
    assert {"llmdeployments", "deployments", "services", "pods"} <= set(looked), "the second operator did look"
    assert control_plane.operator_writes(namespace=kubectl.namespace, since=start) == [], "after a restart"


def test_what_happened_while_it_was_away_is_made_good(
    kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_operator(control_plane, log):
        for name in NAMES:
            create_ready(kubectl, name)
    kubectl("delete", "deployment", "a")
    kubectl.patch("llmdep", "b", {"spec": {"image": "new/server:2"}})
    kubectl("delete", "llmdep", "c", "--timeout=120s")
    kubectl.apply(an_llmdeployment("d"))
    eventually(lambda: kubectl.get("deployment", "c") is None)
    with running_operator(control_plane, log):
        for name in ("a", "b", "d"):
            wait_ready(kubectl, name)
        assert server(kubectl, "b")["image"] == "new/server:2"
        assert kubectl.get("deployment", "c") is None


def test_a_killed_operator_leaves_nothing_that_the_next_one_cannot_finish(
    kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for pause in (0.0, 0.02, 0.05, 0.1):
        name = f"k{int(pause * 100)}"
        process: subprocess.Popen[bytes]
        try:
            with running_operator(control_plane, log) as process:
                start = len(control_plane.requests())
                kubectl.apply(an_llmdeployment(name))
                eventually(
                    lambda start=start: control_plane.operator_writes(namespace=kubectl.namespace, since=start),
                    every=0.01,
                )
                time.sleep(pause)
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=120)
        except AssertionError:
            assert process.returncode == -signal.SIGKILL
    with running_operator(control_plane, log):
        for name in ("k0", "k2", "k5", "k10"):
            wait_ready(kubectl, name)
        assert len(kubectl.list("deployments")) == 4
        assert len(kubectl.list("services")) == 4


def test_it_keeps_to_the_namespaces_it_is_given(kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path) -> None:
    elsewhere = control_plane.kubectl("default")
    elsewhere.apply(an_llmdeployment("elsewhere"))
    with running_operator(control_plane, tmp_path / "log", LLMOP_NAMESPACES=kubectl.namespace):
        create_ready(kubectl)
        found = elsewhere.get("llmdep", "elsewhere")
        assert found is not None
        assert found["status"] == {"observedGeneration": -1}
        assert elsewhere.get("deployment", "elsewhere") is None
    elsewhere("delete", "llmdep", "elsewhere")


def test_the_crd_may_come_after_the_operator_and_going_ends_it(tmp_path: Path) -> None:
    with started_control_plane("crd", tmp_path) as plane:
        install(plane, crd=False)
        kubectl, log = plane.kubectl("default"), tmp_path / "log"
        ended = pytest.raises(AssertionError, match="ended by itself")
        with ended, running_operator(plane, log, wait=False, LLMOP_RESYNC_SECONDS="3600") as process:
            eventually(lambda: "no LLMDeployments yet" in log.read_text())
            kubectl("apply", "--server-side", "-f", str(ROOT / "crds/llmdeployments.yaml"))
            kubectl("wait", "--for=condition=Established", "crd/llmdeployments.llm.carepath.ai")
            create_ready(kubectl)
            kubectl("delete", "crd", "llmdeployments.llm.carepath.ai")
            eventually(lambda: process.poll() is not None)
            assert process.returncode == 1
