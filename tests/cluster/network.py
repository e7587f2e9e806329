"""The node's network: CNI configuration, masquerading, kernel settings; and taking all of it back."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

from tests.cluster.steps import Failure

BRIDGE = "llmop0"
POD_CIDR = "10.88.0.0/16"
SERVICE_CIDR = "10.96.0.0/12"
API_ADDRESS = "10.96.0.1"
NETWORK = "llm-operator"
TABLE = "llm-operator-cluster"
PROXY_TABLE = "kube-proxy"
SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
}
# The kubelet writes these itself; they are kept with ours so that `down` can restore them.
KUBELET_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
SYSCTL = Path("/proc/sys")
CNI_PLUGINS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def plugins() -> Path:
    """Where Debian's package, or a hand-made installation, keeps the CNI plugins."""
    for folder in CNI_PLUGINS:
        if (folder / "bridge").is_file():
            return folder
    raise Failure(f"no CNI plugins in {' or '.join(map(str, CNI_PLUGINS))} (containernetworking-plugins)")


def conflist(state: Path) -> str:
    """Pods on one bridge; masquerading is our own nftables table, not the plugin's iptables chains."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(state / "cni" / "addresses"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return json.dumps({"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge, portmap]}, indent=2)


def prepare(state: Path) -> None:
    """Set what the kernel needs to route for pods, remembering what it was."""
    if shutil.which("modprobe"):
        for module in ("br_netfilter", "overlay"):
            subprocess.run(["modprobe", module], capture_output=True, check=False)
    before = {
        name: (SYSCTL / name).read_text().strip() for name in (*SETTINGS, *KUBELET_SETTINGS) if (SYSCTL / name).exists()
    }
    (state / "sysctl.json").write_text(json.dumps(before))
    for name, value in SETTINGS.items():
        if not (SYSCTL / name).exists():
            raise Failure(f"{SYSCTL / name} is missing: the kernel lacks bridge netfilter (br_netfilter)")
        (SYSCTL / name).write_text(value)
    rules = f"""table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {POD_CIDR} ip daddr != {POD_CIDR} oifname != "{BRIDGE}" masquerade
  }}
}}
"""
    nft("-f", "-", given=rules)


def restore(state: Path) -> None:
    """Undo `prepare`, kube-proxy and CNI; what is already gone is no error."""
    for family, name in tables():
        nft("delete", "table", family, name)
    drop_portmap_chains()
    if BRIDGE in links():
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
    remembered = state / "sysctl.json"
    if remembered.is_file():
        for name, value in json.loads(remembered.read_text()).items():
            (SYSCTL / name).write_text(value)


def tables() -> list[tuple[str, str]]:
    """Our nftables tables and kube-proxy's, as (family, name)."""
    return [(family, name) for family, name in all_tables() if name in (TABLE, PROXY_TABLE)]


def all_tables() -> list[tuple[str, str]]:
    """Every nftables table; none where nft is not installed."""
    return parse_tables(nft("list", "tables")) if shutil.which("nft") else []


def parse_tables(listing: str) -> list[tuple[str, str]]:
    """Read `nft list tables`: lines of `table FAMILY NAME`."""
    rows = (line.split() for line in listing.splitlines())
    return [(row[1], row[2]) for row in rows if len(row) >= 3 and row[0] == "table"]


def portmap_chains() -> list[str]:
    """Chains the portmap plugin made for hostPorts."""
    # Asking iptables about a table makes it, so ask only where there is one.
    if ("ip", "nat") not in all_tables() or not shutil.which("iptables"):
        return []
    answer = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=False)
    rows = (line.split() for line in answer.stdout.splitlines())
    return [row[1] for row in rows if row[0] == "-N" and row[1].startswith("CNI-")]


def drop_portmap_chains() -> None:
    """Remove them and the rules that lead to them; the `nat` table may be others' too and stays."""
    chains = portmap_chains()
    if not chains:
        return
    rules = subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=False).stdout
    for rule in rules.splitlines():
        words = rule.split()
        if words[0] == "-A" and any(chain in words for chain in chains):
            subprocess.run(["iptables", "-t", "nat", "-D", *words[1:]], capture_output=True, check=False)
    for flag in ("-F", "-X"):
        for chain in chains:
            subprocess.run(["iptables", "-t", "nat", flag, chain], capture_output=True, check=False)


def own_address() -> str:
    """The address other machines, and pods, would use; loopback does not do for pods."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing; it only chooses the route.
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError as error:
            raise Failure(f"this machine has no default route, so pods could not reach it: {error}") from error
        address: str = probe.getsockname()[0]
    return address


def links() -> list[str]:
    """Names of the network interfaces."""
    return sorted(path.name for path in Path("/sys/class/net").iterdir())


def bridge_ports() -> list[str]:
    """Host ends of the pods' interfaces."""
    ports = Path(f"/sys/class/net/{BRIDGE}/brif")
    return sorted(path.name for path in ports.iterdir()) if ports.is_dir() else []


def nft(*words: str, given: str | None = None) -> str:
    """Run nft; a refusal is a Failure with its own words."""
    answer = subprocess.run(["nft", *words], input=given, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Failure(f"nft {' '.join(words)}: {answer.stderr.strip()}")
    return answer.stdout


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that nobody else uses."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
