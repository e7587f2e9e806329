"""The bare provider: a control plane and a real node as processes of this machine, without Docker."""

import json
from pathlib import Path

from tests.cluster import binaries, cgroups, controlplane, dns, leftovers, network, node, packages, processes, storage
from tests.cluster.api import Api, ApiError
from tests.cluster.steps import step

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def start(state: Path) -> None:
    """Bring up everything below a state folder that `leftovers.remove` has emptied."""
    programs = binaries.ensure()
    packages.ensure()
    node.require_kernel()
    state.mkdir(parents=True, exist_ok=True)
    with step("prepare network and cgroups"):
        network.prepare(state)
        cgroups.create()
    plane = _plane(state)
    with step("start etcd, kube-apiserver, kube-controller-manager and kube-scheduler"):
        _start_plane(state, plane)
    api = Api(plane / "kubeconfig")
    node.start(
        state,
        programs=programs,
        kubeconfig=plane / "kubeconfig",
        ca=controlplane.pki(plane) / "ca.crt",
        api=api,
    )
    with step("start CoreDNS"):
        log = node.logs(state) / "coredns.log"
        dns.start(state, programs=programs, kubeconfig=plane / "kubeconfig", api=api, log=log)


def settle(state: Path) -> None:
    """Install what every provider has; safe to repeat."""
    folder = state / "volumes"
    storage.install(Api(kubeconfig(state)), str(folder), local=folder)


def dead(state: Path) -> list[str]:
    """Components that do not run."""
    running = {process.program for process in processes.owned_by(state)}
    return sorted((controlplane.COMPONENTS | node.COMPONENTS | {"coredns"}) - running)


def problems(state: Path) -> list[str]:
    """Why the cluster is not healthy; empty when it is."""
    if not kubeconfig(state).is_file():
        return ["it was not started completely"]
    if missing := dead(state):
        return [f"{', '.join(missing)} not running"]
    try:
        ready = Api(kubeconfig(state)).is_node_ready(node.NAME)
    except ApiError as error:
        return [str(error)]
    lost = sorted({network.TABLE, network.PROXY_TABLE} - {name for _, name in network.tables()})
    return ([] if ready else [f"node {node.NAME} is not Ready"]) + [f"no nftables table {name}" for name in lost]


def kubeconfig(state: Path) -> Path:
    """The administrator's kubeconfig, copied to whoever says `up`."""
    return _plane(state) / "kubeconfig"


def remove(state: Path) -> None:
    """Leave nothing of the cluster."""
    leftovers.remove(state)
    leftovers.require_none(state)


def _plane(state: Path) -> Path:
    return state / "plane"


def _start_plane(state: Path, plane: Path) -> None:
    policy = state / "audit-policy.yaml"
    policy.write_text(json.dumps(AUDIT_POLICY))
    pki = controlplane.pki(plane)
    address = network.own_address()
    apiserver = {
        # Pods reach the API server through the node's address; etcd and the rest stay on loopback.
        "bind-address": "0.0.0.0",
        "advertise-address": address,
        "service-cluster-ip-range": network.SERVICE_CIDR,
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-client-certificate": str(pki / "admin.crt"),
        "kubelet-client-key": str(pki / "admin.key"),
        "audit-log-maxsize": "100",
        "audit-log-maxbackup": "1",
    }
    controlplane.launch(
        plane,
        kwok=False,
        audit_policy=policy,
        extra_args=[f"kube-apiserver={flag}={value}" for flag, value in apiserver.items()],
        certificate_names=[network.API_ADDRESS, address],
        qps_limits=False,
    )
