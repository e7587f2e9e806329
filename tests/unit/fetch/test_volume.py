"""What is on the volume already, and volumes that are full, read-only, or somebody's mess."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.fetch.layout import ModelFolder
from inference_server.fetch.lease import Lease, acquire
from inference_server.fetch.staging import read_ready
from inference_server.model_manager import find_model
from inference_server.settings import Settings
from inference_server.termination import StartupError
from tests.hub.checkpoint import a_checkpoint
from tests.hub.server import Answer, Hub
from tests.unit.fetch.running import (
    FIRST_SHARD,
    GOOD_TOKEN,
    REPOSITORY,
    SECOND_SHARD,
    a_fetch,
    assert_whole,
    failure,
    fetched,
    leftovers,
    wait_for,
)

Files = dict[str, bytes]
MEBIBYTE = 1024 * 1024


@pytest.fixture
def a_volume(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with these options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / f"volume-{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a volume, and not in every container")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def commit_of(hub: Hub) -> str:
    return hub.repositories[REPOSITORY].references["main"]


def folder(cache: Path, hub: Hub) -> Path:
    return ModelFolder(cache, REPOSITORY).commit(commit_of(hub))


def test_a_volume_that_is_too_small_is_told_before_the_first_byte(hub: Hub, a_volume: Callable[[str], Path]) -> None:
    error = failure(hub, a_volume("size=5m"))
    assert (error.reason, error.exit_code) == ("NoSpace", 31)
    assert "bytes are needed" in error.message
    assert hub.weights_served == 0


def test_a_volume_that_fills_up_meanwhile_keeps_what_came_and_it_goes_on_later(
    hub: Hub, checkpoint: Files, a_volume: Callable[[str], Path]
) -> None:
    volume = a_volume("size=8m")
    hub.script(SECOND_SHARD, Answer(), Answer(at=(500_000, lambda: fill(volume))))
    error = failure(hub, volume)
    assert error.reason == "NoSpace"
    assert "ENOSPC" in error.message
    served = hub.weights_served
    (volume / "filler").unlink()
    assert_whole(fetched(hub, volume).path, checkpoint)
    assert hub.weights_served - served < len(checkpoint[SECOND_SHARD])


def test_of_two_models_where_one_fits_one_comes_and_the_other_is_told_to_wait(
    hub: Hub, checkpoint: Files, tmp_path: Path, a_volume: Callable[[str], Path]
) -> None:
    volume = a_volume("size=7m")
    hub.add("tiny/second", a_checkpoint(seed=3, padding=2_000_000))
    released = threading.Event()
    hub.script(f"tiny--qwen3/{commit_of(hub)}/{SECOND_SHARD}", Answer(at=(1_000_000, released.wait)))
    first = a_fetch(hub, volume, tmp_path, fetch_stall_seconds=600)
    try:
        wait_for(lambda: hub.weights_served > 1_000_000)
        served = hub.weights_served
        error = failure(hub, volume, model_repository="tiny/second")
        assert (error.reason, error.exit_code) == ("NoSpaceYet", 47)
        assert hub.weights_served == served
    finally:
        released.set()
        assert first.wait() == 0
    assert_whole(folder(volume, hub), checkpoint)
    assert failure(hub, volume, model_repository="tiny/second").reason == "NoSpace"


def test_a_volume_that_others_fill_meanwhile_is_not_full_for_good(
    hub: Hub, tmp_path: Path, a_volume: Callable[[str], Path]
) -> None:
    volume = a_volume("size=8m")
    other = volume / "tiny--second" / f".staging-{'0' * 40}"
    leases: list[Lease] = []

    def another_begins() -> None:
        lease = acquire(other, timeout=600, finished=lambda: False, waiting=lambda _: None)
        assert lease is not None
        leases.append(lease)
        lease.tell(done=1, total=1_000_000)
        fill(volume)

    hub.script(SECOND_SHARD, Answer(), Answer(at=(500_000, another_begins)))
    error = failure(hub, volume)
    leases[0].close()
    assert (error.reason, error.exit_code) == ("NoSpaceYet", 47)
    assert "999,999" in error.message


def test_a_process_that_cannot_write_its_name_leaves_no_owner_behind(a_volume: Callable[[str], Path]) -> None:
    volume = a_volume("size=1m")
    staging = volume / f".staging-{'0' * 40}"
    staging.mkdir()
    fill(volume)
    with pytest.raises(OSError, match="No space"):
        acquire(staging, timeout=600, finished=lambda: False, waiting=lambda _: None)
    assert list(staging.iterdir()) == []


def fill(volume: Path) -> None:
    with (volume / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass


def test_an_abandoned_download_of_another_model_makes_room(
    hub: Hub, checkpoint: Files, a_volume: Callable[[str], Path]
) -> None:
    volume = a_volume("size=9m")
    abandoned = an_abandoned_download(volume, hours=1, size=4 * MEBIBYTE)
    assert_whole(fetched(hub, volume).path, checkpoint)
    assert not abandoned.exists()


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (25, False)])
def test_where_there_is_room_a_download_is_abandoned_after_a_day(
    hub: Hub, tmp_path: Path, hours: float, stays: bool
) -> None:
    abandoned = an_abandoned_download(tmp_path, hours=hours, size=1)
    trash = tmp_path / "other--model" / ".trash-0123456789ab"
    trash.mkdir()
    fetched(hub, tmp_path)
    assert (abandoned.exists(), trash.exists()) == (stays, False)


def an_abandoned_download(cache: Path, *, hours: float, size: int) -> Path:
    path = cache / "other--model" / f".staging-{'0' * 40}"
    (path / "parts").mkdir(parents=True)
    (path / "parts" / "model.safetensors").write_bytes(bytes(size))
    (path / "owner-3").write_bytes(b"")
    then = time.time() - hours * 3600
    for touched in (path / "owner-3", path):
        os.utime(touched, (then, then))
    return path


def test_a_read_only_volume_is_told(hub: Hub, a_volume: Callable[[str], Path]) -> None:
    error = failure(hub, a_volume("ro"))
    assert (error.reason, error.exit_code) == ("CacheNotWritable", 30)
    assert "EROFS" in error.message


def test_on_a_read_only_volume_a_model_that_is_there_is_found(
    hub: Hub, checkpoint: Files, a_volume: Callable[[str], Path]
) -> None:
    volume = a_volume("size=9m")
    first = fetched(hub, volume)
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    assert fetched(hub, volume) == first
    assert fetched(hub, volume, model_revision=first.ready.commit) == first


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_told(hub: Hub, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert failure(hub, tmp_path).reason == "CacheNotWritable"


def test_what_an_older_cache_holds_is_checked_used_and_completed(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    old = folder(tmp_path, hub)
    old.mkdir(parents=True)
    (old / SECOND_SHARD).write_bytes(checkpoint[SECOND_SHARD])
    (old / FIRST_SHARD).write_bytes(bytes(len(checkpoint[FIRST_SHARD])))
    (old / "vocab.json").write_bytes(checkpoint["vocab.json"][:-1] + b" ")
    (old / "config.json").symlink_to("/etc/hostname")
    (old / "merges.txt").write_bytes(checkpoint["merges.txt"][:3])
    (old / "pytorch_model.bin").write_bytes(b"x")
    (old / "READY.json.tmp").write_text("{}")
    assert_whole(fetched(hub, tmp_path).path, checkpoint)
    assert not any(SECOND_SHARD in path for path in hub.bytes_served)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: (path / SECOND_SHARD).write_bytes(b"short"), id="a file is cut"),
        pytest.param(lambda path: (path / "config.json").unlink(), id="a file is gone"),
        pytest.param(lambda path: (path / "READY.json").write_text('{"commit":'), id="the proof is cut"),
        pytest.param(lambda path: (path / "READY.json").unlink(), id="the proof is gone"),
    ],
)
def test_a_folder_that_does_not_fit_its_proof_is_not_trusted_and_repaired(
    hub: Hub, tmp_path: Path, checkpoint: Files, harm: Callable[[Path], None], cached: Fetched
) -> None:
    harm(cached.path)
    assert read_ready(ModelFolder(tmp_path, REPOSITORY), cached.ready.commit) is None
    hub.bytes_served.clear()
    again = fetched(hub, tmp_path, huggingface_token=GOOD_TOKEN)
    assert again == cached
    assert_whole(again.path, checkpoint)
    assert hub.weights_served in (0, len(checkpoint[SECOND_SHARD]))


def test_a_model_of_another_name_in_the_folder_is_not_trusted(
    hub: Hub, tmp_path: Path, checkpoint: Files, cached: Fetched
) -> None:
    proof = cached.path / "READY.json"
    proof.write_text(proof.read_text().replace(REPOSITORY, "evil/twin"))
    assert_whole(fetched(hub, tmp_path).path, checkpoint)
    assert REPOSITORY in proof.read_text()


@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.parametrize("lost", ["config.json", SECOND_SHARD])
def test_a_server_does_not_take_a_proof_beside_missing_files_for_a_model(
    tmp_path: Path, cached: Fetched, monkeypatch: pytest.MonkeyPatch, by_path: bool, lost: str
) -> None:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL_REPOSITORY", REPOSITORY)
    settings = Settings(model_path=str(cached.path) if by_path else "")
    assert find_model(settings).folder == cached.path
    (cached.path / lost).unlink()
    with pytest.raises(StartupError, match=f"ModelMissing: .*{lost} should have"):
        find_model(settings)
