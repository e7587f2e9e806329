"""A fetch that succeeds: what is on the volume, and what was asked of the Hub."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.ready import parse_ready
from inference_server.model_manager import download_model_if_needed, get_model_cache_dir
from tests.hub.checkpoint import a_checkpoint
from tests.hub.server import Answer, Hub, a_hub
from tests.unit.fetch.running import (
    GOOD_TOKEN,
    REPOSITORY,
    SECOND_SHARD,
    Silent,
    assert_whole,
    failure,
    fetched,
    leftovers,
    settings_of,
    variables_of,
)

Files = dict[str, bytes]


def test_the_model_is_whole_checked_and_described(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    found = fetched(hub, tmp_path)
    commit = hub.repositories[REPOSITORY].references["main"]
    assert found.path == tmp_path / "tiny--qwen3" / commit
    assert_whole(found.path, checkpoint)
    ready = parse_ready((found.path / "READY.json").read_text())
    assert ready == found.ready
    assert (ready.repository, ready.commit) == (REPOSITORY, commit)
    assert ready.weights_bytes == sum(len(checkpoint[name]) for name in checkpoint if name.endswith(".safetensors"))
    assert (ready.model["dtype"], ready.model["layers"]) == ("bfloat16", 2)
    assert leftovers(tmp_path) == []


def test_the_proof_comes_last_and_by_rename(hub: Hub, tmp_path: Path) -> None:
    """Who looks meanwhile finds all of READY.json or none of it, and never one without its model."""
    with audited() as (written, renamed):
        model = fetched(hub, tmp_path).path
    proof = model / "READY.json"
    assert written
    assert proof not in written
    (source,) = (source for source, target in renamed if target == proof)
    assert source.parent == model
    targets = [target for _, target in renamed]
    assert targets.index(model) < targets.index(proof)


@contextmanager
def audited() -> Iterator[tuple[list[Path], list[tuple[Path, Path]]]]:
    """What this process opens for writing and what it renames within the block, as the interpreter tells."""
    written: list[Path] = []
    renamed: list[tuple[Path, Path]] = []
    within = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if within and event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_ACCMODE:
            written.append(Path(arguments[0]))
        elif within and event == "os.rename":
            renamed.append((Path(arguments[0]), Path(arguments[1])))

    sys.addaudithook(hook)
    try:
        yield written, renamed
    finally:
        within = False


def test_a_large_file_is_written_out_on_the_way(hub: Hub, tmp_path: Path) -> None:
    files = a_checkpoint(padding=70_000_000)
    hub.add(REPOSITORY, files)
    assert_whole(fetched(hub, tmp_path).path, files)


def test_a_model_that_is_there_is_not_downloaded_again(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    hub.bytes_served.clear()
    assert fetched(hub, tmp_path) == cached
    assert hub.bytes_served.total() == 0


def test_a_commit_that_is_there_needs_no_network_and_no_token(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    hub.requests.clear()
    assert fetched(hub, tmp_path, model_revision=cached.ready.commit) == cached
    assert hub.requests == []


def test_a_branch_that_moves_is_followed_and_the_old_commit_stays(
    hub: Hub, tmp_path: Path, checkpoint: Files, cached: Fetched
) -> None:
    moved = a_checkpoint(seed=7)
    hub.add(REPOSITORY, moved)
    new = fetched(hub, tmp_path)
    assert new.path != cached.path
    assert_whole(new.path, moved)
    assert_whole(cached.path, checkpoint)


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(status=429, headers={"Retry-After": "9999"})])
def test_while_the_hub_is_away_a_branch_means_what_it_meant_last(
    hub: Hub, tmp_path: Path, answer: Answer, cached: Fetched
) -> None:
    hub.script("/revision/main", answer)
    display = Silent()
    assert fetched(hub, tmp_path, display) == cached
    assert len(display.cached) == 1


def test_a_refusal_is_not_hidden_by_the_cache(hub: Hub, tmp_path: Path, cached: Fetched) -> None:
    assert cached.path.is_dir()
    del hub.repositories[REPOSITORY]
    assert failure(hub, tmp_path).reason == "TokenMissing"


def test_offline_what_is_cached_is_used_and_the_hub_is_not_asked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: Fetched
) -> None:
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    display = Silent()
    assert fetched(hub, tmp_path, display) == cached
    assert (display.cached, "not in" in display.messages[0]) == (["OfflineMode"], False)
    error = failure(hub, tmp_path, model_revision="other")
    assert (error.reason, "for other of tiny/qwen3" in error.message) == ("OfflineMode", True)
    assert str(tmp_path) in error.remedy
    assert hub.requests == []


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_the_large_files(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, huggingface_token=GOOD_TOKEN)
    sent = {path.startswith("/_cdn/"): headers.get("authorization") for _, path, headers in hub.requests}
    assert sent == {False: f"Bearer {GOOD_TOKEN}", True: None}


def test_a_private_model_comes_with_the_token_of_a_mounted_file(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    hub.add(REPOSITORY, checkpoint, private=True)
    secret = tmp_path / "token"
    secret.write_text(f"{GOOD_TOKEN}\n")
    assert_whole(fetched(hub, tmp_path, hf_token_path=str(secret)).path, checkpoint)


def test_the_first_name_of_the_token_wins(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, huggingface_token=GOOD_TOKEN, hf_token="hf_other", hf_token_path="/nowhere")
    assert fetched(hub, tmp_path, hf_token=GOOD_TOKEN, hf_token_path="/nowhere")


def test_a_mirror_that_ignores_ranges_and_one_with_a_path_will_do(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(cut_at=500_000), Answer(), Answer(ignore_range=True))
    assert_whole(fetched(hub, tmp_path, fetch_tries=3, hf_endpoint=hub.url + "/").path, checkpoint)


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """A certificate that nobody trusts, with its key."""
    certificate = tmp_path / "tls.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {certificate} "
        f"-out {tmp_path}/ca.pem -days 2 -subj /CN=hub.test -addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    with certificate.open("a") as file:
        file.write((tmp_path / "ca.pem").read_text())
    return certificate


@pytest.fixture
def tls_hub(tls: Path, checkpoint: Files) -> Iterator[Hub]:
    with a_hub(tls=tls) as hub:
        hub.add(REPOSITORY, checkpoint)
        yield hub


@pytest.mark.parametrize("name", ["ssl_cert_file", "requests_ca_bundle"])
def test_a_private_authority_is_trusted_when_it_is_named(
    tls_hub: Hub, tmp_path: Path, checkpoint: Files, name: str
) -> None:
    assert_whole(fetched(tls_hub, tmp_path, **{name: str(tmp_path / "ca.pem")}).path, checkpoint)


def test_and_not_otherwise(tls_hub: Hub, tmp_path: Path) -> None:
    error = failure(tls_hub, tmp_path)
    assert (error.reason, error.exit_code) == ("TlsFailed", 28)
    assert "SSL_CERT_FILE" in error.remedy


def test_the_functions_for_python_do_the_same(
    hub: Hub, tmp_path: Path, checkpoint: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables_of(settings_of(hub, tmp_path)).items():
        monkeypatch.setenv(name, value)
    assert get_model_cache_dir() == tmp_path
    assert_whole(download_model_if_needed(), checkpoint)


def test_the_hubs_own_client_gets_the_same_from_this_hub(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    """So the stand-in is a Hub, and not only what this fetch takes for one."""
    script = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script, REPOSITORY, str(tmp_path / "copy")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir() if path.is_file()}
    assert copied == checkpoint


def test_the_stand_in_runs_as_a_program_with_a_repository_for_each_fault(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-m", "tests.hub"], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            hub = Hub()
            hub.url = json.loads(process.stdout.readline())["url"]

            def reason(name: str) -> str:
                policy = {"fetch_stall_seconds": 3} if name == "stalled" else {}
                return failure(hub, tmp_path, model_repository=f"tiny/{name}", **policy).reason

            with ThreadPoolExecutor() as pool:
                whole = pool.submit(fetched, hub, tmp_path)
                names = ("gated", "stalled", "limited", "encoder")
                reasons = dict(zip(names, pool.map(reason, names), strict=True))
            assert whole.result().path.is_dir()
        finally:
            process.terminate()
    assert reasons == {
        "gated": "RepositoryGated",
        "stalled": "DownloadStalled",
        "limited": "RateLimited",
        "encoder": "ModelNotSupported",
    }
