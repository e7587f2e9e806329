"""Docker or buildah: the few things we ask of whichever the machine has.

buildah gets a store of its own below our cache folder, so cleaning it can never touch anybody else's images.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.images.progress import ImageError, step

# Layers without a name that the newest build of no image has used: so many are kept for somebody's next one.
SPARE_LAYERS = 20
PULL_TIMEOUT_SECONDS = 300
CA_BUNDLES = ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class Engine(Protocol):
    """What builds images here."""

    name: str

    def has(self, image: str) -> bool: ...

    def pull(self, image: str) -> bool:
        """Fetch a public image; False if it is out of reach."""
        ...

    def build(
        self,
        *,
        tag: str,
        context: Path,
        dockerfile: Path,
        arguments: dict[str, str],
        log: Path,
        options: Sequence[str] = (),
    ) -> None:
        """`options`: further ones that both engines know."""
        ...

    def run(self, image: str, *command: str) -> str:
        """What a command prints in a container of the image, as the image's user."""
        ...

    def save(self, image: str, archive: Path) -> None:
        """Write a docker-archive, which `docker load`, `ctr images import` and kind all read."""
        ...

    def tags(self, repository: str) -> list[str]:
        """Full names of our builds of a repository, newest first."""
        ...

    def remove(self, images: list[str]) -> None: ...


def cache_folder() -> Path:
    """Outside the clone, so that the next clone starts with a warm cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llm-operator" / "images"


def installed() -> Engine | None:
    """Docker where it runs, else buildah where it is installed."""
    if shutil.which("docker") and _quiet("docker", "info", timeout=20):
        return Docker()
    return Buildah(cache_folder()) if shutil.which("buildah") else None


def pick() -> Engine:
    """An engine; buildah is installed first if there is none and this is root on a Debian-like machine."""
    engine = installed()
    if engine is None:
        ensure_installed("buildah")
        engine = Buildah(cache_folder())
    return engine


def ensure_installed(*programs: str) -> None:
    """Install what is missing with apt when allowed to, else say what is missing. A package is named as its program."""
    missing = [program for program in programs if find_program(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ImageError(
            f"no Docker engine answers, and without one this needs {' and '.join(missing)}: "
            f"start Docker, or run as root: apt-get install {' '.join(missing)}"
        )
    with step(f"installing {' '.join(missing)}"):
        install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
        if not _quiet(*install):
            _quiet("apt-get", "update")
            if not _quiet(*install):
                raise ImageError(f"`{' '.join(install)}` fails: run it by hand to see why")


def find_program(name: str) -> str | None:
    """Like `which`, but also where only root's PATH looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class Docker:
    name = "docker"

    def has(self, image: str) -> bool:
        return _quiet("docker", "image", "inspect", image)

    def pull(self, image: str) -> bool:
        return _quiet("docker", "pull", "--quiet", image, timeout=PULL_TIMEOUT_SECONDS)

    def build(
        self,
        *,
        tag: str,
        context: Path,
        dockerfile: Path,
        arguments: dict[str, str],
        log: Path,
        options: Sequence[str] = (),
    ) -> None:
        command = ["docker", "build", "--file", str(dockerfile), "--tag", tag]
        for name in PROXY_VARIABLES:
            command += ["--build-arg", name] if name in os.environ else []
        command += [*_build_options(arguments), *options, str(context)]
        # An attestation would make the image an index, which an archive import into a node cannot always read.
        settings = {"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        _logged(command, log, {**os.environ, **settings})

    def run(self, image: str, *command: str) -> str:
        program, *words = command
        return _checked("docker", "run", "--rm", "--network", "none", "--entrypoint", program, image, *words)

    def save(self, image: str, archive: Path) -> None:
        _checked("docker", "save", "--output", str(archive), image)

    def tags(self, repository: str) -> list[str]:
        listed = _checked("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository)
        return [image for image in listed.split() if image.startswith(f"{repository}:dev-")]

    def remove(self, images: list[str]) -> None:
        for image in images:
            _quiet("docker", "image", "rm", image)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One line of `buildah images`; `created` is an ISO time."""

    id: str
    names: tuple[str, ...]
    created: str


class Buildah:
    name = "buildah"

    def __init__(self, cache: Path) -> None:
        driver = os.environ.get("STORAGE_DRIVER", "overlay")
        self._command = [
            "buildah",
            "--root",
            str(cache / "store"),
            "--runroot",
            str(cache / "run"),
            "--storage-driver",
            driver,
        ]
        # buildah keeps its cache mounts and half-made layers below TMPDIR.
        self._environment = {**os.environ, "TMPDIR": str(cache / "tmp")}
        # The layers that the newest build of each image was made of: the store does not know.
        self._used = cache / "used"
        for folder in (cache / "tmp", self._used):
            folder.mkdir(parents=True, exist_ok=True)

    def has(self, image: str) -> bool:
        return self._quiet("inspect", "--type", "image", image)

    def pull(self, image: str) -> bool:
        return self._quiet("pull", "--quiet", image, timeout=PULL_TIMEOUT_SECONDS)

    def build(
        self,
        *,
        tag: str,
        context: Path,
        dockerfile: Path,
        arguments: dict[str, str],
        log: Path,
        options: Sequence[str] = (),
    ) -> None:
        command = [*self._command, "bud", "--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"]
        command += ["--file", str(dockerfile), "--tag", tag, *_build_options(arguments), *options, str(context)]
        try:
            _logged(command, log, self._environment)
        finally:
            # An older buildah leaves the container of a stage that is only a FROM, mounted; the store is ours alone.
            self._quiet("rm", "--all")
        repository = tag.rpartition("/")[2].partition(":")[0]
        (self._used / repository).write_text("\n".join(layers_of(log.read_text(errors="replace"))))

    def run(self, image: str, *command: str) -> str:
        container = _checked(*self._command, "from", "--pull-never", image, env=self._environment).strip()
        try:
            run = (*self._command, "run", "--isolation", "chroot", container, "--", *command)
            return _checked(*run, env=self._environment)
        finally:
            self._quiet("rm", container)

    def save(self, image: str, archive: Path) -> None:
        _checked(*self._command, "push", "--quiet", image, f"docker-archive:{archive}:{image}", env=self._environment)

    def tags(self, repository: str) -> list[str]:
        return [name for image in self._images() for name in image.names if name.startswith(f"{repository}:dev-")]

    def remove(self, images: list[str]) -> None:
        for image in images:
            self._quiet("rmi", image)
        used = tuple(layer for file in self._used.iterdir() for layer in file.read_text().split())
        spare = [stored.id for stored in self._images() if not stored.names and not stored.id.startswith(used)]
        for layer in spare[SPARE_LAYERS:]:
            self._quiet("rmi", layer)

    def _images(self) -> list[StoredImage]:
        """All images, newest first; those without a name are cached layers."""
        listed = json.loads(_checked(*self._command, "images", "--all", "--json", env=self._environment) or "null")
        images = [StoredImage(one["id"], tuple(one.get("names") or ()), one["createdatraw"]) for one in listed or ()]
        return sorted(images, key=lambda image: image.created, reverse=True)

    def _quiet(self, *arguments: str, timeout: float | None = None) -> bool:
        return _quiet(*self._command, *arguments, timeout=timeout, env=self._environment)


def layers_of(log: str) -> list[str]:
    """What a build of buildah made or found, by id, whole or its beginning."""
    return re.findall(r"^--> (?:Using cache )?([0-9a-f]{11,64})$", log, re.MULTILINE)


def _build_options(arguments: dict[str, str]) -> list[str]:
    options: list[str] = []
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    bundle = ca_bundle()
    if bundle:
        options += ["--secret", f"id=ca,src={bundle}"]
    return options


def ca_bundle() -> Path | None:
    """The authorities this machine trusts, which may include a company's own."""
    for place in CA_BUNDLES:
        path = Path(os.environ.get(place, place))
        if path.is_absolute() and path.is_file():
            return path
    return None


def _quiet(*command: str, timeout: float | None = None, env: dict[str, str] | None = None) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
        return subprocess.run(command, capture_output=True, timeout=timeout, env=env, check=False).returncode == 0
    return False


def _checked(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise ImageError(f"`{' '.join(command)}` fails:\n{done.stderr.strip()}")
    return done.stdout


def _logged(command: list[str], log: Path, env: dict[str, str]) -> None:
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise ImageError(f"`{' '.join(command)}` fails; the end of {log}:\n{tail}")
