"""Real clusters: what is promised about starting twice and leaving nothing."""

from pathlib import Path

import pytest

from tests.cluster import cluster, controlplane, processes
from tests.cluster.api import Api
from tests.cluster.places import state_home


@pytest.mark.integration
def test_two_control_planes_run_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    planes = [controlplane.start(name, workdir=tmp_path / name, kwok_nodes=1) for name in ("one", "two")]
    try:
        assert all(Api(plane.kubeconfig).ready_nodes() == ["kwok-0"] for plane in planes)
        assert planes[0].kubeconfig.read_text() != planes[1].kubeconfig.read_text()
    finally:
        for plane in planes:
            plane.stop()
    assert [processes.owned_by(plane.workdir) for plane in planes] == [[], []]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_second_up_restarts_nothing(tmp_path: Path) -> None:
    if cluster.recorded() != "bare":
        pytest.skip("only the bare cluster has processes of its own to look at")
    assert cluster.status().healthy
    before = processes.owned_by(state_home())
    cluster.up("auto", tmp_path / "kubeconfig")
    after = set(processes.owned_by(state_home()))
    assert {process for process in before if not process.program.startswith("containerd-shim")} <= after
    assert Api(tmp_path / "kubeconfig").ready_nodes()
