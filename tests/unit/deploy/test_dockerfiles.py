"""What a Dockerfile says is checked where it is cheap; what an image holds is checked in tests/images."""

import json

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


def shipped(dockerfile: str, *, with_model: bool = True) -> list[list[str]]:
    """Instructions of the last stage and of those it starts from: what they add is in the image."""
    stages: dict[str, tuple[str, list[list[str]]]] = {}
    last = ""
    for name, *words in instructions(dockerfile):
        if name == "FROM":
            base = words[0].replace("${DOWNLOAD_MODEL:-false}", str(with_model).lower())
            last = words[2] if len(words) > 2 else ""
            stages[last] = (base, [])
        elif stages:
            stages[last][1].append([name, *words])
    found: list[list[str]] = []
    while last in stages:
        last, its = stages[last]
        found += its
    return found


def test_what_is_shipped_ran_nothing_that_downloads(dockerfile: str) -> None:
    runs = [" ".join(words) for name, *words in shipped(dockerfile) if name == "RUN"]
    assert runs
    programs = ("uv ", "apt", "pip install", "curl", "inference_server fetch")
    assert not any(program in run for run in runs for program in programs)


SERVER = (ROOT / "Dockerfile.server").read_text()


def test_a_model_is_in_the_image_only_when_it_is_asked_for() -> None:
    assert default_argument(SERVER, "DOWNLOAD_MODEL") == "false"
    with_model = [" ".join(words) for words in shipped(SERVER) if words not in shipped(SERVER, with_model=False)]
    assert "COPY --from=model /models /models" in with_model
    assert not [words for words in shipped(SERVER, with_model=False) if "model" in " ".join(words).lower()]


def test_the_token_is_only_ever_a_file_that_a_build_step_is_lent() -> None:
    declared = [" ".join(words) for words in instructions(SERVER) if words[0] in ("ARG", "ENV")]
    assert not [words for words in declared if "TOKEN" in words]
    (lent,) = (" ".join(words) for words in instructions(SERVER) if "huggingface-token" in " ".join(words))
    assert lent.startswith("RUN --mount=type=secret,id=huggingface-token,required=false ")
    assert not any("huggingface-token" in " ".join(words) for words in shipped(SERVER))
