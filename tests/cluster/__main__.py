"""Local clusters for this repository: `python3 -m tests.cluster up`."""

import argparse
import os
import sys
from pathlib import Path

from tests.cluster import binaries, cluster, controlplane, leftovers
from tests.cluster.places import REPOSITORY, scratch_home, state_home
from tests.cluster.provider import PROVIDERS
from tests.cluster.steps import Failure, say

KUBECONFIG = REPOSITORY / ".local" / "kubeconfig"


def main(words: list[str] | None = None) -> int:
    """Run one command; 1 with a message when it cannot be done."""
    options = _parser().parse_args(words)
    # Root by plain `su` lacks the folders of nft and ip.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    try:
        return int(options.run(options) or 0)
    except Failure as failure:
        say(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `down` removes what has been started")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        return added

    up = command("up", _up, "make a healthy cluster be there; quick when it is")
    up.add_argument("--provider", choices=("auto", *PROVIDERS), default="auto")
    up.add_argument("--kubeconfig", type=Path, default=KUBECONFIG)
    down = command("down", _down, "remove the cluster and all it put on this machine")
    down.add_argument("--kubeconfig", type=Path, default=KUBECONFIG)
    status = command("status", _status, "provider, health and kubeconfig; 1 when not healthy")
    status.add_argument("--provider", action="store_true", help="print only the provider")
    command("leftovers", _leftovers, "list what a cluster left; 1 when there is something")
    programs = command("binaries", _binaries, "fetch or build the programs")
    programs.add_argument("set", nargs="?", choices=("cluster", "actionlint"), default="cluster")
    programs.add_argument("--print-dir", action="store_true", help="print their folder, build nothing")
    load = command("load", _load, "load image archives (docker-archive or OCI) into the cluster")
    load.add_argument("archives", nargs="+", type=Path, metavar="TAR")
    plane = command("controlplane", _controlplane, "start or stop a control plane with fake nodes")
    plane.add_argument("action", choices=("start", "stop"))
    plane.add_argument("name")
    plane.add_argument("--workdir", type=Path, help="default: by name, in the temporary folder")
    plane.add_argument("--nodes", type=int, default=1)
    plane.add_argument("--audit-policy", type=Path)
    plane.add_argument("--extra-arg", action="append", default=[], metavar="COMPONENT=FLAG=VALUE")
    plane.add_argument("--no-qps-limits", action="store_true")
    plane.add_argument("--owner", type=int, default=0, help="pid whose end makes it garbage; none by default")
    command("gc", _gc, "remove control planes whose owner is gone")
    return parser


def _up(options: argparse.Namespace) -> None:
    cluster.up(options.provider, options.kubeconfig)


def _down(options: argparse.Namespace) -> None:
    cluster.down(options.kubeconfig)


def _status(options: argparse.Namespace) -> int:
    found = cluster.status()
    if options.provider:
        print(found.provider or "none")
    else:
        print(f"provider: {found.provider or 'none'}")
        print(f"healthy: {'yes' if found.healthy else 'no: ' + '; '.join(found.problems)}")
        print(f"kubeconfig: {found.kubeconfig or 'none'}")
    return 0 if found.healthy else 1


def _leftovers(_: argparse.Namespace) -> int:
    lines = leftovers.find(state_home()).lines()
    for line in lines:
        print(line)
    return 1 if lines else 0


def _binaries(options: argparse.Namespace) -> None:
    modules = (binaries.ACTIONLINT,) if options.set == "actionlint" else binaries.MODULES
    if options.print_dir:
        print(binaries.bin_dir(modules))
    elif options.set == "actionlint":
        print(binaries.ensure(modules) / "actionlint")
    else:
        print(binaries.ensure(modules))


def _load(options: argparse.Namespace) -> None:
    cluster.load(options.archives)


def _controlplane(options: argparse.Namespace) -> None:
    workdir = (options.workdir or scratch_home() / options.name).resolve()
    if options.action == "stop":
        controlplane.ControlPlane(options.name, workdir, workdir / "kubeconfig", None).stop()
        return
    plane = controlplane.start(
        options.name,
        workdir=workdir,
        kwok_nodes=options.nodes,
        audit_policy=options.audit_policy,
        extra_args=options.extra_arg,
        qps_limits=not options.no_qps_limits,
        owner=options.owner,
    )
    print(plane.kubeconfig)


def _gc(_: argparse.Namespace) -> None:
    for workdir in controlplane.gc():
        say(f"removed {workdir}")


if __name__ == "__main__":
    sys.exit(main())
