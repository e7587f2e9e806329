from pathlib import Path

import pytest

from inference_server.settings import Settings, load_settings, termination_log_path
from inference_server.termination import ExitCode, StartupError


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert (settings.llm_mode, settings.listen_port) == ("mock", 8002)


def test_a_dotenv_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("LISTEN_PORT=9001\nDRAIN_GRACE_SECONDS=7\nUNRELATED=1\n")
    monkeypatch.setenv("LISTEN_PORT", "9002")
    settings = load_settings()
    assert (settings.listen_port, settings.drain_grace_seconds) == (9002, 7.0)


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODE", "")
    monkeypatch.setenv("LISTEN_PORT", "")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        pytest.param("LLM_MODE", "gpt", "one of: mock, qwen, Qwen3-4B-Thinking-2507", id="unknown mode"),
        pytest.param("LLM_MODE", "Mock", "one of: mock, qwen, Qwen3-4B-Thinking-2507", id="wrong case"),
        pytest.param("LISTEN_PORT", "http", "a whole number from 0 to 65535", id="port is a word"),
        pytest.param("MAX_NEW_TOKENS", "32769", "a whole number from 1 to 32768", id="more than a request may ask"),
        pytest.param("TEMPERATURE", "2.1", "a number from 0 to 2", id="too hot"),
        pytest.param("TOP_P", "0", "a number above 0 to 1", id="nothing to draw from"),
        pytest.param("TOP_K", "-1", "a whole number from 0 to 32768", id="fewer than none"),
        pytest.param("DO_SAMPLE", "often", "true or false", id="neither yes nor no"),
        pytest.param("LISTEN_PORT", "65536", "a whole number from 0 to 65535", id="port is too high"),
        pytest.param("LISTEN_PORT", "tcp://10.0.0.1:80", "a whole number from 0 to 65535", id="service link"),
        pytest.param("LOG_LEVEL", "loud", "one of: DEBUG, INFO, WARNING, ERROR", id="unknown level"),
        pytest.param("MAX_BODY_BYTES", "10", "a whole number from 1024 to 16777216", id="tiny body"),
        pytest.param("KEEP_ALIVE_SECONDS", "1.5", "a whole number from 1 to 3600", id="half a second"),
        pytest.param("HEARTBEAT_TIMEOUT_SECONDS", "0", "a number above 0 to 3600", id="no patience"),
        pytest.param("DRAIN_GRACE_SECONDS", "-1", "a number from 0 to 3600", id="negative grace"),
        pytest.param("DRAIN_TIMEOUT_SECONDS", "inf", "a number from 0 to 3600", id="endless drain"),
        pytest.param("REQUEST_TIMEOUT_SECONDS", "0", "a number above 0 to 3600", id="no time for an answer"),
        pytest.param("READY_QUEUE_PERCENT", "101", "a whole number from 0 to 100", id="more than full"),
        pytest.param("STREAM_PING_SECONDS", "0", "a number from 0.1 to 3600", id="endless comments"),
        pytest.param("INCLUDE_PATIENT_MRN", "maybe", "true or false", id="neither true nor false"),
        pytest.param("MOCK_DELAY_SECONDS", "nan", "a number from 0 to 3600", id="not a number"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert (caught.value.reason, caught.value.exit_code) == ("InvalidSettings", ExitCode.CONFIG)
    assert f"{name} must be {allowed}" in caught.value.message
    assert len(value) < 4 or value not in caught.value.message


@pytest.mark.parametrize(("draws", "temperature"), [("false", "0.7"), ("true", "0"), ("true", "0.0")])
def test_a_temperature_that_says_the_opposite_is_refused(
    monkeypatch: pytest.MonkeyPatch, draws: str, temperature: str
) -> None:
    monkeypatch.setenv("DO_SAMPLE", draws)
    monkeypatch.setenv("TEMPERATURE", temperature)
    with pytest.raises(StartupError, match="DO_SAMPLE and TEMPERATURE must not say the opposite") as caught:
        load_settings()
    assert (caught.value.reason, caught.value.exit_code) == ("InvalidSettings", ExitCode.CONFIG)


@pytest.mark.parametrize(("draws", "temperature"), [("false", "0"), ("true", "0.7"), ("false", ""), ("", "0")])
def test_a_temperature_that_says_the_same_or_nothing_is_accepted(
    monkeypatch: pytest.MonkeyPatch, draws: str, temperature: str
) -> None:
    monkeypatch.setenv("DO_SAMPLE", draws)
    monkeypatch.setenv("TEMPERATURE", temperature)
    settings = load_settings()
    assert settings.do_sample == {"true": True, "false": False, "": None}[draws]
    assert settings.temperature == (float(temperature) if temperature else None)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "x")
    with pytest.raises(StartupError, match=r"LISTEN_PORT .*; LOG_LEVEL "):
        load_settings()


def test_a_folder_that_is_no_whole_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_MODE", "qwen")
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert (caught.value.reason, caught.value.exit_code) == ("ModelMissing", ExitCode.CONFIG)
    (tmp_path / "READY.json").write_text("{}")
    assert load_settings().model_path == str(tmp_path)


def test_a_mock_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_PATH", "/no/such/folder")
    assert load_settings().llm_mode == "mock"


def test_an_unreadable_dotenv_file_is_refused_and_does_not_hide_the_termination_log() -> None:
    Path(".env").write_bytes(b"LISTEN_PORT=\xff\xfe\n")
    with pytest.raises(StartupError, match=r"\.env"):
        load_settings()
    assert termination_log_path() == "/dev/termination-log"
