"""`python -m inference_server fetch`: exit codes, reasons, the termination log, progress, and no token anywhere."""

import json
import os
import pty
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_server.__main__ import main
from inference_server.fetch import supervise
from inference_server.fetch.failures import EXIT_CODES, FetchReason
from inference_server.termination import ExitCode
from tests.hub.checkpoint import CONFIG
from tests.hub.server import Answer, Hub
from tests.unit.fetch.running import (
    GOOD_TOKEN,
    REPOSITORY,
    SECOND_SHARD,
    FetchProcess,
    a_fetch,
    fetched,
    leftovers,
    settings_of,
    variables_of,
    wait_for,
)

SECRET = "hf_SecretThatNobodyMaySee0123456789"


@pytest.fixture
def run(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command_line: None
) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """Runs the command; returns exit code, lines of output, and the termination log."""

    def run(**changed: Any) -> tuple[int, list[dict[str, Any]], str]:
        log = tmp_path / "termination-log"
        log.write_text("from an earlier run, and longer than what follows" * 99)
        changed = {"termination_log_path": str(log), "huggingface_token": GOOD_TOKEN, **changed}
        for name, value in variables_of(settings_of(hub, tmp_path / "cache", **changed)).items():
            monkeypatch.setenv(name, value)
        code = main(["fetch"])
        output = capfd.readouterr()
        everything = output.out + output.err + log.read_text()
        assert SECRET not in everything
        assert GOOD_TOKEN not in everything
        return code, [json.loads(line) for line in output.out.splitlines()], log.read_text()

    return run


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def gated(hub: Hub) -> dict[str, Any]:
    hub.add(REPOSITORY, hub.repositories[REPOSITORY].commits.popitem()[1], gated=True)
    hub.tokens = ("hf_another", GOOD_TOKEN)
    return {}


def scripted(path: str, *answers: Answer, **settings: Any) -> Callable[[Hub], dict[str, Any]]:
    def arrange(hub: Hub) -> dict[str, Any]:
        hub.script(path, *answers)
        return settings

    return arrange


def settings(**changed: Any) -> Callable[[Hub], dict[str, Any]]:
    return lambda _: changed


def of_architecture(name: str) -> Callable[[Hub], dict[str, Any]]:
    def arrange(hub: Hub) -> dict[str, Any]:
        _, files = hub.repositories[REPOSITORY].commits.popitem()
        hub.add(REPOSITORY, files | {"config.json": json.dumps(CONFIG | {"architectures": [name]}).encode()})
        return {}

    return arrange


def no_json(hub: Hub) -> dict[str, Any]:
    _, files = hub.repositories[REPOSITORY].commits.popitem()
    hub.add(REPOSITORY, files | {"config.json": b"{"})
    return {}


REVISION = "/revision/main"
FAILURES: list[Any] = [
    pytest.param(
        settings(huggingface_token="", model_repository="no/such"), "TokenMissing", id="no token, no such repository"
    ),
    pytest.param(settings(huggingface_token=SECRET), "TokenInvalid", id="a wrong token"),
    pytest.param(gated, "RepositoryGated", id="a gated repository"),
    pytest.param(scripted(REVISION, Answer(status=403)), "AccessDenied", id="access denied"),
    pytest.param(settings(model_repository="no/such"), "RepositoryNotFound", id="no such repository"),
    pytest.param(settings(model_revision="v9"), "RevisionNotFound", id="no such revision"),
    pytest.param(settings(model_revision="0" * 40), "RevisionNotFound", id="no such commit"),
    pytest.param(of_architecture("BertModel"), "ModelNotSupported", id="no language model"),
    pytest.param(of_architecture("LlamaForCausalLM"), "ModelNotSupported", id="another architecture"),
    pytest.param(no_json, "ModelNotSupported", id="a configuration that is no JSON"),
    pytest.param(scripted(SECOND_SHARD, Answer(), Answer(flip_at=9)), "ChecksumMismatch", id="a flipped bit"),
    pytest.param(scripted("vocab.json", Answer(flip_at=9)), "ChecksumMismatch", id="a flipped bit in a small file"),
    pytest.param(scripted(REVISION, Answer(garbage=b"<html>Sign in</html>")), "EndpointInvalid", id="a captive portal"),
    pytest.param(scripted(REVISION, Answer(garbage=b"{}")), "EndpointInvalid", id="no files"),
    pytest.param(
        scripted(REVISION, Answer(garbage=b'{"id": "a/b", "sha": "1", "siblings": [{"rfilename": "a"}]}')),
        "EndpointInvalid",
        id="no checksums",
    ),
    pytest.param(settings(model_cache_dir="/dev/null/models"), "CacheNotWritable", id="no folder"),
    pytest.param(scripted(REVISION, Answer(status=429, headers={"Retry-After": "1"})), "RateLimited", id="rate limit"),
    pytest.param(
        scripted(SECOND_SHARD, Answer(status=429, headers={"RateLimit": '"resolvers";r=0;t=9999'}), fetch_tries=9),
        "RateLimited",
        id="rate limit of a file, for longer than one waits",
    ),
    pytest.param(
        lambda _: {"hf_endpoint": f"http://127.0.0.1:{closed_port()}"}, "NetworkUnreachable", id="nobody there"
    ),
    pytest.param(
        lambda hub: {"hf_endpoint": hub.url.replace("http:", "https:")}, "TlsFailed", id="no TLS where there should be"
    ),
    pytest.param(settings(hf_endpoint="http://no-such-host.invalid"), "HostNotFound", id="a name without address"),
    pytest.param(scripted(REVISION, Answer(status=503)), "EndpointUnavailable", id="the Hub is down"),
    pytest.param(scripted(SECOND_SHARD, Answer(), Answer(status=502)), "EndpointUnavailable", id="the CDN is down"),
    pytest.param(
        scripted(REVISION, Answer(stall_at=0), fetch_stall_seconds=0.7), "DownloadStalled", id="no answer at all"
    ),
    pytest.param(
        scripted(SECOND_SHARD, Answer(), Answer(stall_at=900_000), fetch_stall_seconds=0.7),
        "DownloadStalled",
        id="a transfer that hangs",
    ),
    pytest.param(scripted(SECOND_SHARD, Answer(), Answer(cut_at=900_000)), "NetworkUnreachable", id="a cut transfer"),
    pytest.param(scripted(SECOND_SHARD, Answer(), Answer(short_by=9)), "ChecksumMismatch", id="a short transfer"),
]


@pytest.mark.parametrize(("arrange", "reason"), FAILURES)
def test_a_failure_has_its_reason_and_exit_code(
    hub: Hub, tmp_path: Path, run: Callable[..., Any], arrange: Callable[[Hub], dict[str, Any]], reason: str
) -> None:
    code, events, log = run(**arrange(hub))
    record = json.loads(log)
    assert (record["reason"], code) == (reason, EXIT_CODES[FetchReason(reason)])
    assert set(record) == {"reason", "message", "remedy"}
    last = events[-1]
    assert {name: last[name] for name in record} == record
    assert (last["event"], last["exit_code"], last["transient"]) == ("failed", code, code >= 40)
    assert list(tmp_path.glob("cache/*/*/READY.json")) == []


def test_weights_that_cannot_be_served_are_not_downloaded(hub: Hub, run: Callable[..., Any]) -> None:
    of_architecture("LlamaForCausalLM")(hub)
    code, events, _ = run()
    assert (code, hub.weights_served) == (EXIT_CODES[FetchReason.MODEL_NOT_SUPPORTED], 0)
    assert "LlamaForCausalLM" in events[-1]["message"]
    assert "Qwen3ForCausalLM" in events[-1]["remedy"]


def test_a_model_that_is_in_the_cache_is_not_looked_at_again(hub: Hub, tmp_path: Path, run: Callable[..., Any]) -> None:
    assert run()[0] == ExitCode.OK
    served = hub.weights_served
    (config,) = tmp_path.glob("cache/*/*/config.json")
    config.chmod(0o644)
    config.write_text(config.read_text().replace("Qwen3ForCausalLM", "OtherForCausalLM"))
    assert run()[0] == ExitCode.OK
    assert hub.weights_served == served > 0


def test_a_success_leaves_what_it_brought_in_the_termination_log(run: Callable[..., Any]) -> None:
    code, events, log = run()
    record, last = json.loads(log), events[-1]
    assert (code, last["event"]) == (ExitCode.OK, "ready")
    assert record == {name: last[name] for name in ("repository", "commit", "path", "weightsBytes", "model")}
    assert (Path(record["path"]) / "READY.json").exists()
    assert len(log) < 4096


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null/log", "/proc/version"])
def test_a_termination_log_that_takes_nothing_changes_nothing(hub: Hub, tmp_path: Path, path: str) -> None:
    assert a_fetch(hub, tmp_path / "cache", tmp_path, termination_log_path=path).wait() == ExitCode.OK


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"huggingface_token": "hf_a\nb"}, "the token holds a character"),
        ({"huggingface_token": "hf_\N{LATIN SMALL LETTER E WITH ACUTE}"}, "the token holds a character"),
        ({"huggingface_token": "", "hf_token_path": "/"}, "HF_TOKEN_PATH cannot be read"),
        ({"ssl_cert_file": "/no/such.pem"}, "SSL_CERT_FILE"),
        ({"ssl_cert_file": "/etc/hostname"}, "holds no certificates in PEM"),
        ({"requests_ca_bundle": "/"}, "no file that can be read"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(run: Callable[..., Any], changed: dict[str, str], says: str) -> None:
    code, events, log = run(**changed)
    assert (code, json.loads(log)["reason"]) == (ExitCode.CONFIG, "InvalidSettings")
    assert says in events[-1]["message"]
    assert events[-1]["transient"] is False


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_the_client_cannot_use_is_told_at_once(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "socks5h://127.0.0.1:1080")
    code, events, _ = run()
    assert code == ExitCode.CONFIG
    assert "SOCKS" in events[-1]["message"]


def test_a_broken_library_is_named_and_what_it_repeats_of_a_token_is_not(hub: Hub, tmp_path: Path) -> None:
    broken = tmp_path / "packages" / "huggingface_hub"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise ImportError('libssl.so.9: {SECRET} cannot open')")
    variables = variables_of(settings_of(hub, tmp_path / "cache")) | {"PYTHONPATH": str(broken.parent)}
    process = FetchProcess(tmp_path, variables)
    assert process.wait() == EXIT_CODES[FetchReason.FETCH_FAILED]
    assert "ImportError: libssl.so.9: *** cannot open" in process.events[-1]["message"]
    assert SECRET not in process.output


def test_home_is_understood_and_a_blank_token_hides_none(
    hub: Hub, tmp_path: Path, checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    hub.add("tiny/A_-_b", checkpoint, private=True, revision="v1+cu")
    found = fetched(
        hub, Path("~/cache"), huggingface_token="\n", hf_token=GOOD_TOKEN, model_repository="tiny/A_-_b",
        model_revision="v1+cu",
    )  # fmt: skip
    assert found.path.parent == tmp_path / "cache" / "tiny--A_-_b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_REPOSITORY", "gpt2"),
        ("MODEL_REPOSITORY", "a--b/c"),
        ("MODEL_REPOSITORY", "../x/y"),
        ("MODEL_REVISION", "../main"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("FETCH_STALL_SECONDS", "0"),
        ("FETCH_TRIES", SECRET),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["fetch"]) == ExitCode.CONFIG
    output = capfd.readouterr().out
    assert f"{name} must be " in output
    assert SECRET not in output


def test_a_missing_client_is_told(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(supervise.importlib.util, "find_spec", lambda _: None)
    assert run()[0] == EXIT_CODES[FetchReason.HUB_CLIENT_MISSING]


def test_progress_is_told_in_lines_that_never_go_back(hub: Hub, run: Callable[..., Any]) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(bytes_per_second=2e6, flip_at=9))
    code, events, log = run(fetch_tries=4)
    assert (code, json.loads(log)["commit"]) == (0, events[-1]["commit"])
    lines = [event for event in events if event["event"] == "progress"]
    done = [line["bytesDone"] for line in lines]
    assert len(set(done)) > 5
    assert done == sorted(done)
    assert [line["percent"] for line in lines] == [100 * line["bytesDone"] // line["bytesTotal"] for line in lines]
    assert (lines[0]["bytesDone"], lines[-1]["percent"], lines[-1]["etaSeconds"]) == (0, 100, 0)
    assert [event["reason"] for event in events if event["event"] == "retrying"] == ["ChecksumMismatch"]
    last = events[-1]
    assert last["event"] == "ready"
    assert Path(last["path"], "READY.json").is_file()
    assert (last["weightsBytes"], last["model"]["keyValueHeads"]) == (hub_weights(hub), 2)


def hub_weights(hub: Hub) -> int:
    files = next(iter(hub.repositories[REPOSITORY].commits.values()))
    return sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))


def test_on_a_terminal_there_is_a_bar_and_no_json(hub: Hub, tmp_path: Path) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(bytes_per_second=4e6, cut_at=1_000_000))
    variables = variables_of(settings_of(hub, tmp_path, fetch_tries=2))
    text = in_a_terminal(variables)
    assert "[" + "#" * 30 + "] 100 %" in text
    assert "ETA" in text
    assert "next try in" in text
    assert "Ready: " in text
    assert '{"' not in text
    text = in_a_terminal(variables | {"MODEL_REPOSITORY": "no/such"})
    assert "TokenMissing: " in text


def in_a_terminal(variables: dict[str, str]) -> str:
    program, terminal = pty.fork()
    if program == 0:
        os.environ.update(variables, COLUMNS="200")
        os.execv(sys.executable, [sys.executable, "-m", "inference_server", "fetch"])
    text = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        text += piece
    os.waitpid(program, 0)
    os.close(terminal)
    return text.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_the_next_one_goes_on(hub: Hub, tmp_path: Path, number: signal.Signals) -> None:
    hub.script(SECOND_SHARD, Answer(), Answer(stall_at=1_000_000))
    log = tmp_path / "log"
    log.touch()
    process = a_fetch(hub, tmp_path / "cache", tmp_path, termination_log_path=str(log))
    part = wait_for(lambda: next((tmp_path / "cache").glob(f"*/.staging-*/parts/{SECOND_SHARD}"), None))
    wait_for(lambda: part.stat().st_size == 1_000_000)
    process.signal(number)
    assert process.wait() == EXIT_CODES[FetchReason.FETCH_INTERRUPTED]
    assert json.loads(log.read_text())["reason"] == "FetchInterrupted"
    assert leftovers(tmp_path / "cache")
    served = hub.weights_served
    assert fetched(hub, tmp_path / "cache").path.is_dir()
    assert leftovers(tmp_path / "cache") == []
    assert hub.weights_served - served == hub_weights(hub) - served


def test_a_signal_before_anything_has_begun_is_no_success(hub: Hub, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = a_fetch(hub, tmp_path / "cache", tmp_path, termination_log_path=str(log))
    wait_for(lambda: log.stat().st_size)
    process.signal(signal.SIGTERM)
    assert process.wait() == EXIT_CODES[FetchReason.FETCH_INTERRUPTED]


@pytest.fixture(autouse=True)
def no_children() -> Iterator[None]:
    """No worker outlives a fetch."""
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert children.read_text() == ""
