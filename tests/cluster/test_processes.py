"""Finding and ending real processes."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import controlplane, processes


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that, by its name and its folder, is one of the cluster's."""
    program = tmp_path / "state" / "bin" / "kubelet"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "1000"]) as process:
        # For a moment after exec it has no command line yet.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        yield process
        process.kill()


@pytest.fixture
def ended_pid() -> int:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def test_our_programs_are_found_by_their_folder(tmp_path: Path, kubelet: subprocess.Popen[bytes]) -> None:
    assert [process.pid for process in processes.owned_by(tmp_path / "state")] == [kubelet.pid]


def test_a_folder_whose_name_begins_alike_is_another(tmp_path: Path, kubelet: subprocess.Popen[bytes]) -> None:
    assert processes.owned_by(tmp_path / "sta") == []


def test_an_ended_process_is_gone_even_before_it_is_reaped(tmp_path: Path, kubelet: subprocess.Popen[bytes]) -> None:
    found = processes.owned_by(tmp_path / "state")
    processes.end(found)
    assert not any(map(processes.is_alive, found))
    assert processes.owned_by(tmp_path / "state") == []


def test_a_reused_pid_is_not_the_process_it_was() -> None:
    started = processes.start_time(os.getpid())
    assert started is not None
    assert not processes.is_alive(processes.Process(pid=os.getpid(), started=started - 1, program="x"))


def test_a_process_that_ended_has_no_start_time(ended_pid: int) -> None:
    assert processes.start_time(ended_pid) is None


def test_gc_removes_what_a_dead_owner_left_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubelet: subprocess.Popen[bytes], ended_pid: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = {"orphaned": tmp_path / "orphaned", "owned": tmp_path / "owned", "ownerless": tmp_path / "kept"}
    owners = {
        "orphaned": (ended_pid, 1),
        "owned": (os.getpid(), processes.start_time(os.getpid())),
        "ownerless": (0, None),
    }
    controlplane.gc()
    for name, folder in folders.items():
        folder.mkdir()
        owner, started = owners[name]
        record = {"workdir": str(folder), "owner": owner, "owner_started": started}
        (tmp_path / f"llm-operator-{os.geteuid()}" / "controlplanes" / f"{name}.json").write_text(json.dumps(record))
    assert controlplane.gc() == [folders["orphaned"]]
    assert [name for name, folder in folders.items() if folder.exists()] == ["owned", "ownerless"]


def test_free_ports_are_different() -> None:
    assert len(set(controlplane.free_ports(6))) == 6
