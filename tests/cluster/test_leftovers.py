"""Reading what the kernel says about mounts, rules and control groups."""

from pathlib import Path

from tests.cluster import cgroups, leftovers, network

STATE = Path("/var/lib/state")
MOUNTS = """\
/dev/vda / ext4 rw 0 0
overlay /var/lib/state/run/rootfs overlay rw,lowerdir=/var/lib/state/x 0 0
tmpfs /var/lib/state/run/rootfs/a\\040b tmpfs rw 0 0
tmpfs /var/lib/state-of-another tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
"""


def test_mounts_below_the_state_folder_come_deepest_first() -> None:
    assert leftovers.mounts_under(STATE, MOUNTS) == [STATE / "run/rootfs/a b", STATE / "run/rootfs"]


def test_no_mount_is_ours_when_none_is_below_the_state_folder() -> None:
    assert leftovers.mounts_under(Path("/var/lib/other"), MOUNTS) == []


def test_each_control_group_hierarchy_is_named_once() -> None:
    assert cgroups.hierarchies(MOUNTS) == [
        ("cgroup", Path("/sys/fs/cgroup/memory")),
        ("cgroup2", Path("/sys/fs/cgroup/unified")),
    ]


def test_nftables_tables_are_read_by_family_and_name() -> None:
    listing = "table ip kube-proxy\ntable ip6 kube-proxy\ntable inet filter # warning\n"
    assert network.parse_tables(listing) == [("ip", "kube-proxy"), ("ip6", "kube-proxy"), ("inet", "filter")]


def test_nothing_left_has_no_lines() -> None:
    assert leftovers.Leftovers().lines() == []


def test_what_is_left_is_listed_by_kind() -> None:
    found = leftovers.Leftovers(processes=("7 kubelet",), files=(str(STATE),))
    assert found.lines() == ["processes: 7 kubelet", "files: /var/lib/state"]
