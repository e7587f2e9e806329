"""In-cluster names: CoreDNS as a process of the host, behind the Service that clusters call kube-dns."""

import socket
from pathlib import Path

from tests.cluster import network, processes
from tests.cluster.api import Api, Json
from tests.cluster.controlplane import free_ports
from tests.cluster.steps import wait_until

ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
SERVICE = {"name": "kube-dns", "namespace": "kube-system"}


def start(state: Path, *, programs: Path, kubeconfig: Path, api: Api, log: Path) -> None:
    """Start CoreDNS on the node's address and point the Service at it."""
    address, [port] = network.own_address(), free_ports(1)
    corefile = state / "Corefile"
    corefile.write_text(f""".:{port} {{
  bind {address}
  errors
  cache 5
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    ttl 5
  }}
  forward . /etc/resolv.conf
}}
""")
    processes.spawn([programs / "coredns", "-conf", corefile], log=log)
    wait_until("CoreDNS listens", lambda: _listens(address, port), seconds=30, logs=(log,))
    api.apply("/api/v1/namespaces/kube-system/services", service())
    api.apply("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", endpoints(address, port))


def service() -> Json:
    """The Service pods ask; without a selector, because no pod answers."""
    ports = [{"name": f"dns-{name.lower()}", "protocol": name, "port": 53} for name in ("UDP", "TCP")]
    return {"apiVersion": "v1", "kind": "Service", "metadata": SERVICE, "spec": {"clusterIP": ADDRESS, "ports": ports}}


def endpoints(address: str, port: int) -> Json:
    """Where it leads."""
    ports = [{"name": f"dns-{name.lower()}", "protocol": name, "port": port} for name in ("UDP", "TCP")]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**SERVICE, "labels": {"kubernetes.io/service-name": SERVICE["name"]}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0
