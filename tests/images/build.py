"""From a working tree to two archives: find out what is missing, make only that, say how long it took."""

import fcntl
import json
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.images import archive, standins
from tests.images.engines import Engine, cache_folder, installed, pick
from tests.images.inputs import IMAGES, MODEL_SERVER, ROOT, Image, default_argument, input_files, tagged
from tests.images.progress import say, step

KEPT_BUILDS = 2
INDEX = "images.json"


@dataclass(frozen=True, slots=True)
class Build:
    """An image of ours at one content: its full name and where its archive is or will be."""

    image: Image
    name: str
    archive: Path


def build(archives: Path, images: Sequence[Image] = IMAGES) -> None:
    """Leave an archive of each image in the folder, with an index of them."""
    archives.mkdir(parents=True, exist_ok=True)
    builds, missing = _plan(images, archives, ROOT)
    if missing:
        with _alone(), _snapshot() as tree:
            builds, missing = _plan(images, archives, tree)
            _make(missing, tree)
    _write_index(builds, archives / INDEX)
    for planned in builds:
        say(f"{planned.name}: {'built' if planned in missing else 'up to date'} ({_sizes(planned.archive)})")


def build_variant(name: str, to: Path, *, arguments: dict[str, str], options: Sequence[str]) -> Engine:
    """Leave an archive of the server's image, built with further arguments. The caller removes the image."""
    server = next(image for image in IMAGES if image.key == "server")
    with _alone(), _snapshot() as tree:
        engine = pick()
        engine.build(
            tag=name,
            context=tree,
            dockerfile=tree / server.dockerfile,
            arguments={**_arguments(engine, tree), **dict(server.arguments), **arguments},
            log=to.with_suffix(".log"),
            options=options,
        )
        engine.save(name, to)
    return engine


def clean(archives: Path) -> None:
    """Remove the archives and our images; the cached bases stay, for they take longest to make."""
    engine = installed()
    if engine:
        with _alone():
            for image in (*IMAGES, MODEL_SERVER):
                engine.remove(engine.tags(image.repository))
    for pattern in ("*.tar", "*.partial", "*.log", INDEX):
        for file in archives.glob(pattern):
            file.unlink()


def _plan(images: Sequence[Image], archives: Path, tree: Path) -> tuple[list[Build], list[Build]]:
    """The builds that this tree asks for, and those among them that have no archive yet."""
    names = [(image, tagged(image, tree)) for image in images]
    builds = [Build(image, name, archives / f"{_stem(name).replace(':', '-')}.tar") for image, name in names]
    return builds, [planned for planned in builds if not planned.archive.exists()]


def _stem(name: str) -> str:
    return name.rpartition("/")[2]


@contextmanager
def _snapshot() -> Iterator[Path]:
    """A copy of all inputs: a file that is edited during the build cannot end in an image whose tag denies it."""
    with tempfile.TemporaryDirectory(prefix="llm-operator-") as folder:
        for source in {file for image in IMAGES for file in input_files(image)}:
            target = Path(folder) / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        yield Path(folder)


def _make(missing: list[Build], tree: Path) -> None:
    engine = pick()
    unbuilt = [planned for planned in missing if not engine.has(planned.name)]
    arguments = _arguments(engine, tree) if unbuilt else {}
    for planned in unbuilt:
        with step(f"building {planned.name} with {engine.name}"):
            engine.build(
                tag=planned.name,
                context=tree,
                dockerfile=tree / planned.image.dockerfile,
                arguments={**arguments, **dict(planned.image.arguments)},
                log=planned.archive.with_name(f"{planned.image.key}.log"),
            )
    for planned in missing:
        with step(f"saving {planned.archive.name}"):
            partial = planned.archive.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            engine.save(planned.name, partial)
            partial.replace(planned.archive)
        _prune(engine, planned)


def _arguments(engine: Engine, tree: Path) -> dict[str, str]:
    """Build arguments: the labels, and stand-ins for those public images that are out of reach."""
    dockerfile = (tree / IMAGES[0].dockerfile).read_text()
    arguments = {"VERSION": _version(tree), "REVISION": _revision()}
    base, uv = (default_argument(dockerfile, name) for name in ("BASE_IMAGE", "UV_IMAGE"))
    uv_version = uv.rpartition(":")[2]
    if not _reachable(engine, base, standins.base_name()):
        arguments["BASE_IMAGE"] = standins.base_name()
        if not engine.has(standins.base_name()):
            standins.make_base(engine, cache_folder())
    if not _reachable(engine, uv, standins.uv_name(uv_version)):
        arguments["UV_IMAGE"] = standins.uv_name(uv_version)
        if not engine.has(standins.uv_name(uv_version)):
            standins.make_uv(engine, cache_folder(), uv_version)
    return arguments


def _reachable(engine: Engine, public: str, standin: str) -> bool:
    """Whether to use the public image. A machine that once made the stand-in keeps to it, and never waits again."""
    if engine.has(public):
        return True
    if engine.has(standin):
        return False
    with step(f"pulling {public}"):
        pulled = engine.pull(public)
    if not pulled:
        say("  not reachable: using a stand-in")
    return pulled


def _version(tree: Path) -> str:
    version: str = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]
    return version


def _revision() -> str:
    """The commit, marked when the tree differs from it; an unpacked source archive has none."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"


def _prune(engine: Engine, current: Build) -> None:
    """Keep the newest builds of an image, here and in the engine, so that a day's work does not fill the disk."""
    old = [name for name in engine.tags(current.image.repository) if name != current.name]
    engine.remove(old[KEPT_BUILDS - 1 :])
    others = current.archive.parent.glob(f"{_stem(current.image.repository)}-dev-*.tar")
    archives = [path for path in others if path != current.archive]
    for path in sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_BUILDS - 1 :]:
        path.unlink()


def _write_index(builds: list[Build], path: Path) -> None:
    index = {planned.image.key: {"image": planned.name, "archive": _shown(planned.archive)} for planned in builds}
    path.write_text(json.dumps(index, indent=2) + "\n")


def _shown(path: Path) -> str:
    """Relative to the repository where that is possible, so that the index survives a move."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _sizes(path: Path) -> str:
    image = archive.read(path)
    return f"{image.added_bytes / 1e6:.0f} MB on a base of {image.base_bytes / 1e6:.0f} MB"


@contextmanager
def _alone() -> Iterator[None]:
    """One builder at a time on a machine: two would make the same base twice."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
