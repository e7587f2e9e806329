"""What is in the images that were built; the archives are read without any engine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images import archive
from tests.images.inputs import ROOT

pytestmark = pytest.mark.e2e

LABELS = {"title", "description", "source", "version", "revision", "licenses"}


@pytest.fixture(scope="module")
def images(kubeconfig: Path) -> dict[str, archive.Archive]:
    """Both images of this working tree; nothing is built when they are there already."""
    subprocess.run([sys.executable, "-m", "tests.images", "build"], cwd=ROOT, check=True)
    index = json.loads((ROOT / ".local" / "images" / "images.json").read_text())
    read = {key: archive.read(ROOT / entry["archive"]) for key, entry in index.items()}
    for key, entry in index.items():
        assert read[key].names == (entry["image"],)
    return read


def distributions(image: archive.Archive) -> set[str]:
    """Names of the Python distributions in the virtual environment."""
    found = (
        re.match(r"opt/venv/lib/[^/]+/site-packages/([^/]+)-[^/-]+\.dist-info/METADATA$", path) for path in image.files
    )
    return {match[1].lower() for match in found if match}


def packages(image: archive.Archive) -> set[str]:
    """Our own packages in the image."""
    return {Path(path).parts[1] for path in image.files if path.startswith("app/") and path.endswith("/__init__.py")}


@pytest.mark.parametrize("key", ["operator", "server"])
def test_the_user_is_a_number_that_is_not_root(images: dict[str, archive.Archive], key: str) -> None:
    user, _, group = images[key].config["config"]["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("key", ["operator", "server"])
def test_the_labels_say_what_it_is_and_where_it_comes_from(images: dict[str, archive.Archive], key: str) -> None:
    labels = images[key].config["config"]["Labels"]
    assert all(labels.get(f"org.opencontainers.image.{label}") for label in LABELS)


@pytest.mark.parametrize(("key", "package"), [("operator", "llm_operator"), ("server", "inference_server")])
def test_it_starts_its_own_package_and_carries_no_other(
    images: dict[str, archive.Archive], key: str, package: str
) -> None:
    assert images[key].config["config"]["Entrypoint"] == ["python", "-m", package]
    assert packages(images[key]) == {package}
    assert f"app/{package}/__main__.py" in images[key].files
    assert any(path.startswith(f"app/{package}/__pycache__/__main__.") for path in images[key].files)


def test_each_image_carries_only_the_dependencies_of_its_part(images: dict[str, archive.Archive]) -> None:
    heavy = {"torch", "transformers"}
    development = {"pytest", "mypy", "ruff", "pip", "uv", "hatchling"}
    assert {"kopf", "aiohttp"} <= distributions(images["operator"])
    assert not distributions(images["operator"]) & (heavy | development | {"fastapi", "uvicorn", "huggingface_hub"})
    assert {"fastapi", "uvicorn", "huggingface_hub"} <= distributions(images["server"])
    assert not distributions(images["server"]) & (heavy | development | {"kopf", "kubernetes"})


@pytest.mark.parametrize("key", ["operator", "server"])
def test_no_model_and_no_folder_for_one_is_in_it_unless_asked_for(images: dict[str, archive.Archive], key: str) -> None:
    assert not [path for path in images[key].files if path.startswith("models") or "safetensors" in Path(path).suffix]
    assert "/models" not in json.dumps(images[key].config)


@pytest.mark.parametrize("key", ["operator", "server"])
def test_nothing_can_install_anything(images: dict[str, archive.Archive], key: str) -> None:
    programs = {Path(path).name for path in images[key].files if "/bin/" in f"/{path}"}
    assert not {name for name in programs if re.fullmatch(r"uvx?|pip[\d.]*|conda|gcc|cc", name)}


@pytest.mark.parametrize(("key", "megabytes"), [("operator", 190), ("server", 75)])
def test_it_adds_no_more_than_it_needs(images: dict[str, archive.Archive], key: str, megabytes: int) -> None:
    assert images[key].added_bytes < megabytes * 1_000_000
