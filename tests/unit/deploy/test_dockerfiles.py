"""What a Dockerfile says is checked where it is cheap; what an image holds is checked in tests/images."""

import json
from pathlib import Path

import pytest

from tests.images.inputs import IMAGES, ROOT, Image, copied, default_argument, instructions

ALLOWED = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


@pytest.fixture(params=IMAGES, ids=lambda image: image.key)
def dockerfile(request: pytest.FixtureRequest) -> str:
    image: Image = request.param
    return (ROOT / image.dockerfile).read_text()


def test_only_what_is_copied_may_enter_the_build() -> None:
    needed = {path for image in IMAGES for path in copied((ROOT / image.dockerfile).read_text())}
    assert needed == ALLOWED
    assert all((ROOT / path).exists() for path in needed)


def test_the_user_is_a_number_so_that_the_kubelet_can_see_it_is_not_root(dockerfile: str) -> None:
    users = [words[0] for name, *words in instructions(dockerfile) if name == "USER"]
    assert users == ["10001:10001"]


def test_the_process_gets_the_signals_itself(dockerfile: str) -> None:
    (entrypoint,) = (" ".join(words) for name, *words in instructions(dockerfile) if name == "ENTRYPOINT")
    assert json.loads(entrypoint)[:2] == ["python", "-m"]


def test_both_images_start_from_the_same_public_images() -> None:
    for name in ("BASE_IMAGE", "UV_IMAGE"):
        assert len({default_argument((ROOT / image.dockerfile).read_text(), name) for image in IMAGES}) == 1


def test_a_plain_build_needs_no_secret(dockerfile: str) -> None:
    mounts = [
        word for _, *words in instructions(dockerfile) for word in words if word.startswith("--mount=type=secret")
    ]
    assert mounts
    assert all("required=false" in mount for mount in mounts)


def test_the_last_stage_runs_nothing_that_downloads() -> None:
    for image in IMAGES:
        last = Path(ROOT / image.dockerfile).read_text().rpartition("\nFROM ")[2]
        runs = [" ".join(words) for name, *words in instructions(last) if name == "RUN"]
        assert not any(program in run for run in runs for program in ("uv ", "apt", "pip install", "curl"))
