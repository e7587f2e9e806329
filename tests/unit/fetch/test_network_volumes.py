"""What NFS, SMB and volumes that fail do, and no file system of the machine itself. Mounted with FUSE."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from inference_server.fetch.fetcher import Fetched
from inference_server.model_manager import find_model
from inference_server.settings import Settings
from inference_server.termination import StartupError
from tests.hub.server import Hub
from tests.unit.fetch.running import (
    FIRST_SHARD,
    REPOSITORY,
    SECOND_SHARD,
    Silent,
    assert_whole,
    failure,
    fetched,
    leftovers,
)
from tests.unit.fetch.test_prune import a_commit, a_model, pruned
from tests.unit.fetch.volume import Fault, Manners, mounted

Files = dict[str, bytes]
Mount = Callable[..., Path]


@pytest.fixture
def a_volume(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a volume with these manners, over what is in the folder `backing`."""
    with ExitStack() as stack:

        def mount(*faults: Fault, **manners: Any) -> Path:
            told = Manners(faults=faults, **manners)
            return stack.enter_context(mounted(tmp_path / "backing", tmp_path / "volume", told))

        yield mount


@pytest.fixture
def on_a_volume(tmp_path: Path, cached: Fetched) -> Path:
    """The folder of a model that is whole, below what will be mounted."""
    (tmp_path / "backing").mkdir()
    cached.path.parent.rename(tmp_path / "backing" / cached.path.parent.name)
    return cached.path.relative_to(tmp_path)


def times_listed(hub: Hub) -> int:
    return len([path for _, path, _ in hub.requests if "/revision/" in path])


def test_where_deleted_files_stay_while_they_are_open_a_fetch_leaves_nothing(
    hub: Hub, checkpoint: Files, a_volume: Mount
) -> None:
    volume = a_volume(silly_rename=True)
    held = volume / "held"
    with held.open("w") as file:
        held.unlink()
        assert [path.name[:4] for path in volume.iterdir()] == [".nfs"], "it does not do what it is here for"
        assert file.writable()
    assert_whole(fetched(hub, volume).path, checkpoint)
    assert leftovers(volume) == []


def test_and_a_prune_deletes_all_that_it_may(a_volume: Mount) -> None:
    volume = a_volume(silly_rename=True)
    models = [a_model(volume, a_commit(number)) for number in (1, 2, 3)]
    # As a server has it that still serves the model.
    with (models[0] / "model.safetensors").open("rb"):
        assert len(pruned(volume).deleted) == 3
        assert not any(model.exists() for model in models)
        assert len(leftovers(volume)) == 1
    pruned(volume)
    assert leftovers(volume) == []


def test_one_model_that_cannot_be_deleted_does_not_keep_the_others(a_volume: Mount) -> None:
    volume = a_volume(Fault("rmdir", "/pruned", "EIO"))
    first, second = a_model(volume, repository="tiny/first"), a_model(volume, repository="tiny/second")
    with pytest.raises(StartupError):
        pruned(volume)
    assert not first.exists()
    assert not second.exists()


@pytest.mark.parametrize("twin", ["Config.json", "Model.json"])
def test_names_that_are_one_on_a_volume_that_ignores_case_are_told_before_the_weights(
    hub: Hub, checkpoint: Files, a_volume: Mount, twin: str
) -> None:
    other = {twin: b"{}", twin.lower(): b"[]"} if twin != "Config.json" else {twin: checkpoint["config.json"][::-1]}
    hub.add(REPOSITORY, checkpoint | other)
    error = failure(hub, a_volume(ignores_case=True), fetch_tries=9)
    assert (error.reason, error.exit_code) == ("CacheNotWritable", 30)
    assert twin in error.message
    assert (hub.weights_served, times_listed(hub)) == (0, 1)


def test_where_case_counts_both_come(hub: Hub, tmp_path: Path, checkpoint: Files) -> None:
    hub.add(REPOSITORY, checkpoint | {"Config.json": b"{}"})
    path = fetched(hub, tmp_path).path
    assert (path / "Config.json").read_bytes() == b"{}"
    assert (path / "config.json").read_bytes() == checkpoint["config.json"]


def test_and_a_model_without_such_names_comes_also_where_case_is_ignored(
    hub: Hub, checkpoint: Files, a_volume: Mount
) -> None:
    assert_whole(fetched(hub, a_volume(ignores_case=True)).path, checkpoint)


@pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        pytest.param(Fault("rename", "/READY.json", "EIO"), "StorageFailed", "EIO", id="cannot be written"),
        pytest.param(Fault("rename", "/READY.json", lost=True), "CacheNotWritable", "READY.json is missing", id="lost"),
    ],
)
def test_a_proof_that_does_not_stay_is_one_error_and_no_loop(
    hub: Hub, a_volume: Mount, fault: Fault, reason: str, says: str
) -> None:
    error = failure(hub, a_volume(fault), fetch_tries=9)
    assert error.reason == reason
    assert says in error.message
    assert times_listed(hub) == 1


def test_when_a_damaged_model_is_taken_apart_its_proof_goes_first(
    hub: Hub, tmp_path: Path, checkpoint: Files, on_a_volume: Path, a_volume: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it in between, what is left is not taken for a model."""
    (tmp_path / "backing" / on_a_volume / FIRST_SHARD).unlink()
    volume = a_volume(Fault("rename", f"/{SECOND_SHARD}", "EIO", times=1))
    assert failure(hub, volume).reason == "StorageFailed"
    model = volume / on_a_volume
    assert not (model / "config.json").exists()
    assert (model / SECOND_SHARD).exists()
    assert not (model / "READY.json").exists()
    monkeypatch.setenv("MODEL_CACHE_DIR", str(volume))
    monkeypatch.setenv("MODEL_REPOSITORY", REPOSITORY)
    with pytest.raises(StartupError, match="ModelMissing"):
        find_model(Settings(model_path=str(model)))
    hub.bytes_served.clear()
    assert_whole(fetched(hub, volume).path, checkpoint)
    assert hub.weights_served == len(checkpoint[FIRST_SHARD])


def test_a_proof_that_cannot_be_read_is_not_taken_for_missing(
    hub: Hub, tmp_path: Path, checkpoint: Files, on_a_volume: Path, a_volume: Mount
) -> None:
    volume = a_volume(Fault("open", "/READY.json", "EIO"))
    before = sorted(path.name for path in (volume / on_a_volume).iterdir())
    failed = failure(hub, volume)
    assert "EIO" in failed.message
    assert "READY.json" in failed.message
    assert sorted(path.name for path in (volume / on_a_volume).iterdir()) == before


def test_handles_that_are_stale_are_opened_anew(hub: Hub, on_a_volume: Path, a_volume: Mount) -> None:
    # The kernel itself tries each one twice.
    volume = a_volume(Fault("open", "/READY.json", "ESTALE", times=4))
    hub.bytes_served.clear()
    assert fetched(hub, volume).path == volume / on_a_volume
    assert hub.bytes_served.total() == 0


def test_but_not_for_ever(hub: Hub, on_a_volume: Path, a_volume: Mount) -> None:
    error = failure(hub, a_volume(Fault("open", "/READY.json", "ESTALE")))
    assert (error.reason, "ESTALE" in error.message) == ("StorageFailed", True)


@pytest.mark.parametrize("folder", [f"/{REPOSITORY.replace('/', '--')}", "/files"])
def test_the_folder_that_may_not_be_written_is_named(hub: Hub, a_volume: Mount, folder: str) -> None:
    error = failure(hub, a_volume(Fault("mkdir", folder, "EACCES")))
    assert error.reason == "CacheNotWritable"
    assert f"{folder} cannot be read or written" in error.message


def test_a_slow_volume_is_not_taken_for_a_silent_host(hub: Hub, checkpoint: Files, a_volume: Mount) -> None:
    volume = a_volume(Fault("write", SECOND_SHARD, seconds=5, times=1))
    display = Silent()
    assert_whole(fetched(hub, volume, display, fetch_tries=9, fetch_stall_seconds=2).path, checkpoint)
    assert {reason for reason, *_ in display.retries} == {"StorageFailed"}
    assert str(volume) in display.messages[0]
    assert "for 2 seconds" in display.messages[0]
    assert hub.url.removeprefix("http://") not in display.messages[0]
