"""How the process starts, and what it leaves behind when it cannot."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import inference_server
from inference_server.__main__ import main
from inference_server.engine.protocol import Engine
from inference_server.serve import listen, serve_until_stopped
from inference_server.settings import Settings
from inference_server.termination import ExitCode, StartupError, report
from tests.unit.server.engines import BrokenEngine, HopelessEngine
from tests.unit.server.running import ServerProcess


def start_and_end(directory: Path, **environment: str) -> tuple[int, str]:
    """Exit code and termination log of a server that cannot start."""
    log = directory / "termination-log"
    log.write_text("from an earlier run, and longer than what follows" * 99)
    server = ServerProcess(directory, TERMINATION_LOG_PATH=str(log), **environment)
    try:
        code = server.wait_exit()
        failed = server.events[-1]
    finally:
        server.close()
    assert (failed["event"], failed["exit_code"]) == ("failed", code)
    return code, log.read_text()


@pytest.mark.parametrize(
    ("environment", "code", "reason"),
    [
        pytest.param({"LLM_MODE": "qwen"}, 78, "ModelMissing", id="a model that is not there"),
        pytest.param({"LLM_MODE": "none"}, 78, "InvalidSettings", id="an unknown mode"),
        pytest.param({"LISTEN_HOST": "256.0.0.1"}, 71, "AddressUnavailable", id="an address that is none"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, environment: dict[str, str], code: int, reason: str
) -> None:
    exit_code, log = start_and_end(tmp_path, **environment)
    record = json.loads(log)
    assert (exit_code, record["reason"]) == (code, reason)
    assert set(record) == {"reason", "message", "remedy"}
    assert all(record.values())


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, log = start_and_end(tmp_path, LISTEN_HOST="127.0.0.1", LISTEN_PORT=port)
    assert (code, json.loads(log)["reason"]) == (71, "AddressUnavailable")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        pytest.param(BrokenEngine, "EngineFailed", id="unforeseen"),
        pytest.param(HopelessEngine, "ModelCorrupt", id="with a reason of its own"),
    ],
)
def test_an_engine_that_cannot_load_ends_the_server(engine: type[Engine], reason: str) -> None:
    with pytest.raises(StartupError) as caught:
        serve_until_stopped(Settings(listen_host="127.0.0.1", listen_port=0), engine())
    assert (caught.value.reason, caught.value.exit_code) == (reason, ExitCode.ENGINE)
    assert "torn" not in caught.value.message or reason == "ModelCorrupt"


def test_an_address_of_the_sixth_version_is_listened_on(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    server = ServerProcess(tmp_path, LISTEN_HOST="::", LISTEN_PORT="0")
    try:
        server.wait_ready()
    finally:
        server.close()


def test_a_long_message_fits_into_the_termination_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    report(StartupError("R", "m" * 9000, "r" * 9000, ExitCode.CONFIG), termination_log_path=str(log))
    assert log.stat().st_size <= 4096
    assert json.loads(log.read_text())["reason"] == "R"


@pytest.mark.parametrize("path", ["missing/file", "."], ids=["no such file", "a folder"])
def test_without_a_termination_log_nothing_is_written(tmp_path: Path, path: str) -> None:
    report(StartupError("R", "m", "r", ExitCode.CONFIG), termination_log_path=str(tmp_path / path))
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", ["serve", "fetch", "prune"])
def test_a_clone_without_libraries_says_which_command_helps(command: str) -> None:
    clone = Path(inference_server.__file__).parents[1]
    # -S: no installed library is found, nor what was installed of this package.
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "inference_server", command],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 78
    assert "make setup" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serf"])
    assert caught.value.code == 2


def test_answers_do_not_wait_for_the_client_to_acknowledge_their_first_bytes() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
