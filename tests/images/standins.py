"""Stand-ins for the two public images that the Dockerfiles start from, for where no registry is reachable.

The base is a small Debian with its own Python (debootstrap, so only a Debian mirror is needed); uv's image is the
one binary of uv's wheel. Both are made once per machine and recipe, and kept in the cache folder.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import urllib.request
import zipfile
from pathlib import Path

from tests.images.engines import Engine, ensure_installed, find_program
from tests.images.progress import ImageError, step

SUITE = "bookworm"
PACKAGES = ("python3", "ca-certificates")
MIRROR = "http://deb.debian.org/debian"
INDEX = "https://pypi.org/simple/uv/"
# What debian:*-slim leaves out as well.
TRIMMED = (
    "dev/*",
    "proc/*",
    "sys/*",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)
BASE_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["python3"]
"""
UV_DOCKERFILE = "FROM scratch\nCOPY uv /uv\n"


def base_name() -> str:
    """Name of the Debian base, which changes with its recipe."""
    return f"localhost/llm-operator-base:{SUITE}-{_recipe_key()}"


def make_base(engine: Engine, cache: Path) -> None:
    folder = cache / f"base-{_recipe_key()}"
    if not (folder / "rootfs.tar").exists():
        with step(f"making a base image from Debian {SUITE} (once per machine)"):
            _bootstrap(folder)
    _pack(engine, base_name(), folder, BASE_DOCKERFILE)


def uv_name(version: str) -> str:
    """Name of the image that holds `/uv`."""
    return f"localhost/llm-operator-uv:{version}"


def make_uv(engine: Engine, cache: Path, version: str) -> None:
    folder = cache / f"uv-{version}"
    if not (folder / "uv").exists():
        with step(f"getting uv {version}"):
            folder.mkdir(parents=True, exist_ok=True)
            _write_program(folder / "uv", _local_uv(version) or _published_uv(version))
    _pack(engine, uv_name(version), folder, UV_DOCKERFILE)


def _recipe_key() -> str:
    recipe = "\n".join((SUITE, *PACKAGES, *TRIMMED, BASE_DOCKERFILE, platform.machine()))
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _bootstrap(folder: Path) -> None:
    ensure_installed("debootstrap")
    if os.geteuid() != 0:
        raise ImageError("no registry is reachable, and making a base image needs root: run this as root, or pull one")
    rootfs = folder / "rootfs"
    _remove_tree(rootfs)
    rootfs.mkdir(parents=True)
    log = folder / "debootstrap.log"
    mirror = os.environ.get("DEBIAN_MIRROR", MIRROR)
    command = [find_program("debootstrap") or "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    with log.open("w") as out:
        done = subprocess.run([*command, SUITE, str(rootfs), mirror], stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ImageError(f"debootstrap fails: see {log} (DEBIAN_MIRROR names another mirror than {mirror})")
    excluded = [f"--exclude=./{pattern}" for pattern in TRIMMED]
    partial = folder / "rootfs.tar.partial"
    subprocess.run(
        [
            "tar",
            "--create",
            "--numeric-owner",
            "--sort=name",
            "--wildcards",
            *excluded,
            f"--file={partial}",
            "-C",
            rootfs,
            ".",
        ],
        check=True,
    )
    partial.replace(folder / "rootfs.tar")
    _remove_tree(rootfs)


def _remove_tree(folder: Path) -> None:
    """Also where a killed debootstrap left /proc mounted: never descend into another file system."""
    for mounted in ("proc", "sys"):
        subprocess.run(["umount", str(folder / mounted)], capture_output=True, check=False)
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", str(folder)], check=True)


def _pack(engine: Engine, image: str, folder: Path, dockerfile: str) -> None:
    with step(f"packing {image}"):
        path = folder / "Dockerfile"
        path.write_text(dockerfile)
        engine.build(tag=image, context=folder, dockerfile=path, arguments={}, log=folder / "build.log")


def _local_uv(version: str) -> bytes | None:
    """The uv of this machine, if it is the very version and a Linux program rather than a wrapper script."""
    found = shutil.which("uv")
    if found is None or Path(found).read_bytes()[:4] != b"\x7fELF":
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    return Path(found).read_bytes() if said.split()[:2] == ["uv", version] else None


def _published_uv(version: str) -> bytes:
    """The binary inside the wheel on PyPI, checked against the hash that the index gives for it."""
    start, end = f"uv-{version}-py3-none-manylinux", f"_{platform.machine()}.whl"
    try:
        project = json.loads(_download(INDEX, accept="application/vnd.pypi.simple.v1+json"))
        names = {file["filename"]: file for file in project["files"]}
        wheel = next(names[name] for name in names if name.startswith(start) and name.endswith(end))
        content = _download(wheel["url"])
    except (OSError, StopIteration) as error:
        raise ImageError(f"no registry is reachable and uv {version} cannot be had from {INDEX}: {error!r}") from error
    if hashlib.sha256(content).hexdigest() != wheel["hashes"]["sha256"]:
        raise ImageError(f"{wheel['url']} does not have the hash that {INDEX} gives for it")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(f"uv-{version}.data/scripts/uv")


def _download(url: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def _write_program(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(path)
