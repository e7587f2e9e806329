"""The programs a cluster is made of, in a cache that every clone of this repository shares.

Order: cached, downloaded from the projects' own release servers, built from the pinned Go modules beside
this file. A set is published by renaming its finished folder, so that nobody ever sees half of one.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import download
from tests.cluster.places import SOURCE, cache_home, locked
from tests.cluster.steps import Failure, Progress, step

KUBERNETES = "v1.34.4"
ETCD = "v3.6.16"
RELEASED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
GO_NEEDED = (1, 26)


@dataclass(frozen=True)
class Module:
    """A Go module of ours whose `tool` lines name the programs to build."""

    name: str
    programs: tuple[str, ...]
    ldflags: str = "-s -w"
    package: str = "tool"
    renames: tuple[tuple[str, str], ...] = ()
    download: Callable[[Path], bool] | None = None

    @property
    def source(self) -> Path:
        return SOURCE / self.name


def _versions() -> str:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    stamps = {
        "gitVersion": KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "2026-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in stamps.items())


def _download_kubernetes(target: Path) -> bool:
    return download.kubernetes(target, version=KUBERNETES, programs=RELEASED) and download.etcd(target, version=ETCD)


MODULES = (
    Module(
        "kubernetes",
        programs=(*RELEASED, "etcd"),
        ldflags=f"-s -w {_versions()}",
        renames=(("server", "etcd"),),
        download=_download_kubernetes,
    ),
    Module("kwok", programs=("kwok", "kwokctl")),
    Module("coredns", programs=("coredns",), package="."),
    Module("pause", programs=("pause",), package="main.go", renames=(("main", "pause"),)),
)
ACTIONLINT = Module("actionlint", programs=("actionlint",))


def fingerprint(modules: Sequence[Module]) -> str:
    """Name of a set of binaries: changes with anything that changes them."""
    digest = hashlib.sha256(platform.machine().encode())
    for module in modules:
        digest.update(f"\0{module.programs}\0{module.ldflags}\0{module.package}\0".encode())
        for path in sorted(module.source.iterdir()):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def bin_dir(modules: Sequence[Module] = MODULES) -> Path:
    """Where these binaries are, or will be."""
    return cache_home() / fingerprint(modules) / "bin"


def ensure(modules: Sequence[Module] = MODULES) -> Path:
    """Return the folder of the binaries, fetching or building them the first time."""
    target = bin_dir(modules)
    if target.is_dir():
        return target
    with locked("binaries"):
        if not target.is_dir():
            publish(target, lambda folder: _fill(folder, modules))
    return target


def publish(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder and give it its name only when it is complete."""
    home = target.parent.parent
    home.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=home, prefix=".partial-"))
    try:
        (partial / "bin").mkdir()
        fill(partial / "bin")
        partial.chmod(0o755)
        shutil.rmtree(target.parent, ignore_errors=True)
        partial.rename(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, modules: Sequence[Module]) -> None:
    for module in modules:
        if not (module.download and module.download(folder)):
            build(module, folder)
        if missing := [name for name in module.programs if not (folder / name).is_file()]:
            raise Failure(f"the module {module.source} did not give {', '.join(missing)}")


def build(module: Module, folder: Path) -> None:
    """Build a module's programs with Go, saying how far it is."""
    _require_go(module)
    with step(f"build {', '.join(module.programs)} from {module.name}/") as progress:
        command = ["go", "build", "-v", "-trimpath", f"-ldflags={module.ldflags}", "-o", f"{folder}/"]
        _go_build([*command, module.package], module, progress)
    for built, wanted in module.renames:
        (folder / built).rename(folder / wanted)


def _go_build(command: list[str], module: Module, progress: Progress) -> None:
    listing = subprocess.run(
        ["go", "list", "-deps", module.package],
        cwd=module.source, env=_go_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    total, done, output = len(listing.stdout.splitlines()), 0, []
    with subprocess.Popen(command, cwd=module.source, env=_go_environment(), stderr=subprocess.PIPE, text=True) as go:
        assert go.stderr is not None
        for line in go.stderr:
            output.append(line.rstrip())
            done += 1
            # Packages already compiled are not named, so this counts what a cold build has done.
            progress.detail = f"{done} packages compiled of at most {total}"
    if go.returncode:
        raise Failure(
            f"`{' '.join(command[:3])} ...` failed in {module.source}; the first build downloads Go modules,"
            f" which needs GOPROXY ({os.environ.get('GOPROXY', 'https://proxy.golang.org')}).\n"
            + "\n".join(output[-15:])
        )


def _go_environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}


def _require_go(module: Module) -> None:
    wanted = ".".join(map(str, GO_NEEDED))
    names = ", ".join(module.programs)
    if shutil.which("go") is None:
        raise Failure(
            f"{names} could not be downloaded, and building them needs Go {wanted} or later: `go` is not on PATH"
        )
    answer = subprocess.run(
        ["go", "env", "GOVERSION"],
        cwd=module.source, env=_go_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    version = answer.stdout.strip()
    numbers = tuple(int(part) for part in version.removeprefix("go").split(".")[:2] if part.isdigit())
    if numbers < GO_NEEDED:
        found = version or answer.stderr.strip()
        raise Failure(f"building {names} needs Go {wanted} or later, found: {found}")
