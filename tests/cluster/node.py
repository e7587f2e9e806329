"""A real node on this machine: containerd, kubelet and kube-proxy, each with its own files and ports."""

import json
import subprocess
from pathlib import Path

from tests.cluster import dns, images, network, processes
from tests.cluster.api import Api
from tests.cluster.cgroups import CGROUP
from tests.cluster.controlplane import free_ports
from tests.cluster.steps import Failure, step, wait_until

NAME = "llm-operator-node"
COMPONENTS = frozenset({"containerd", "kubelet", "kube-proxy"})


def logs(state: Path) -> Path:
    """Where the three log."""
    return state / "logs"


def start(state: Path, *, programs: Path, kubeconfig: Path, ca: Path, api: Api) -> None:
    """Start the node and wait until the control plane calls it Ready."""
    with step("start containerd"):
        _start_containerd(state)
    with step("load the pause image"):
        images.archive(state / "pause.tar", name=images.PAUSE, program=programs / "pause")
        images.load(state, [state / "pause.tar"], snapshotter=snapshotter(state))
    with step("start kubelet and kube-proxy"):
        _start_kubelet(state, programs=programs, kubeconfig=kubeconfig, ca=ca)
        _start_proxy(state, programs=programs, kubeconfig=kubeconfig)
    with step("wait for the node to be Ready"):
        ends = tuple(logs(state) / f"{name}.log" for name in ("kubelet", "containerd"))
        wait_until("node Ready", lambda: api.is_node_ready(NAME), seconds=120, logs=ends, every=0.5)
        wait_until(
            "kube-proxy's nftables rules",
            lambda: any(name == network.PROXY_TABLE for _, name in network.tables()),
            seconds=60,
            logs=(logs(state) / "kube-proxy.log",),
        )


def snapshotter(state: Path) -> str:
    """`overlayfs`, or `native` (slow, copies) where the state folder cannot hold an overlay's layers."""
    marker = state / "snapshotter"
    if not marker.exists():
        marker.write_text("overlayfs" if _overlay_works(state / "overlay-probe") else "native")
    return marker.read_text()


def _overlay_works(probe: Path) -> bool:
    folders = {name: probe / name for name in ("lower", "upper", "work", "merged")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    options = "lowerdir={lower},upperdir={upper},workdir={work}".format(**folders)
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(folders["merged"])]
    works = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if works:
        subprocess.run(["umount", str(folders["merged"])], check=True)
    return works


def _start_containerd(state: Path) -> None:
    (state / "cni" / "conf").mkdir(parents=True)
    (state / "cni" / "conf" / "10-llm-operator.conflist").write_text(network.conflist(state))
    socket = state / "containerd.sock"
    # restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot write negative scores.
    # netns_mounts_under_state_dir: so that `down` knows every namespace it finds there is ours.
    config = f"""version = 2
root = "{state}/containerd/root"
state = "{state}/containerd/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter(state)}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{state}/containerd/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{network.plugins()}"
    conf_dir = "{state}/cni/conf"
"""
    path = state / "containerd.toml"
    path.write_text(config)
    log = logs(state) / "containerd.log"
    processes.spawn(["containerd", "--config", path], log=log)
    check = ["ctr", "--address", str(socket), "--connect-timeout", "2s", "version"]
    wait_until(
        "containerd answers",
        lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0,
        seconds=30,
        logs=(log,),
    )


def _start_kubelet(state: Path, *, programs: Path, kubeconfig: Path, ca: Path) -> None:
    port, healthz = free_ports(2)
    _write_config(state / "kubelet.json", "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", {
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [dns.ADDRESS],
        "clusterDomain": dns.DOMAIN,
        "cgroupRoot": CGROUP,
        "containerRuntimeEndpoint": f"unix://{state}/containerd.sock",
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "failSwapOn": False,
        "healthzPort": healthz,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(state / "logs" / "pods"),
        "port": port,
        "readOnlyPort": 0,
        "volumePluginDir": str(state / "kubelet" / "volumeplugins"),
    })  # fmt: skip
    command: list[str | Path] = [programs / "kubelet", f"--config={state}/kubelet.json", f"--kubeconfig={kubeconfig}"]
    command += [f"--root-dir={state}/kubelet", f"--cert-dir={state}/kubelet/pki", f"--hostname-override={NAME}"]
    # Without it the kubelet asks DNS for the node's name, and a slow answer delays or spoils its start.
    command += [f"--node-ip={network.own_address()}"]
    processes.spawn(command, log=logs(state) / "kubelet.log")


def _start_proxy(state: Path, *, programs: Path, kubeconfig: Path) -> None:
    healthz, metrics = free_ports(2)
    # Zeros: leave the machine's own connection tracking limits alone.
    _write_config(state / "kube-proxy.json", "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", {
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": network.POD_CIDR,
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
        "healthzBindAddress": f"127.0.0.1:{healthz}",
        "hostnameOverride": NAME,
        "metricsBindAddress": f"127.0.0.1:{metrics}",
        "mode": "nftables",
    })  # fmt: skip
    processes.spawn([programs / "kube-proxy", f"--config={state}/kube-proxy.json"], log=logs(state) / "kube-proxy.log")


def _write_config(path: Path, version: str, kind: str, fields: dict[str, object]) -> None:
    path.write_text(json.dumps({"apiVersion": version, "kind": kind, **fields}, indent=2))


def missing_kernel_parts() -> list[str]:
    """Kernel interfaces the node cannot do without."""
    needed = ("/proc/sys/net/ipv4/ip_forward", "/sys/fs/cgroup", "/dev/kmsg")
    return [path for path in needed if not Path(path).exists()]


def require_kernel() -> None:
    """Fail early, naming what this machine lacks."""
    if missing := missing_kernel_parts():
        raise Failure(f"a real node cannot run here: {', '.join(missing)} missing")
