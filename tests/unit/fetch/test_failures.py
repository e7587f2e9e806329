"""Each fault gets one reason, one exit code, and words that help."""

import errno
from collections import Counter

import pytest

from inference_server.fetch.failures import (
    EXIT_CODES,
    Context,
    Fault,
    FaultKind,
    FetchError,
    FetchReason,
    classify,
    hub_client_missing,
    interrupted,
    no_space,
    no_space_yet,
    not_kept,
    not_supported,
    taken_over,
)

R = FetchReason


def a_context(*, token: bool = False, endpoint: str = "https://huggingface.co") -> Context:
    return Context("org/name", "v1", endpoint, "/app/models", has_token=token)


def http(status: int, code: str = "", *, token: bool = False) -> FetchError:
    return classify(Fault(FaultKind.HTTP, status=status, code=code), a_context(token=token))


@pytest.mark.parametrize(
    ("status", "code", "token", "reason"),
    [
        (401, "", False, R.TOKEN_MISSING),
        (401, "RepoNotFound", False, R.TOKEN_MISSING),
        (401, "", True, R.TOKEN_INVALID),
        (401, "GatedRepo", False, R.REPOSITORY_GATED),
        (403, "GatedRepo", True, R.REPOSITORY_GATED),
        (403, "", True, R.ACCESS_DENIED),
        (403, "", False, R.ACCESS_DENIED),
        (404, "RepoNotFound", True, R.REPOSITORY_NOT_FOUND),
        (404, "", False, R.REPOSITORY_NOT_FOUND),
        (404, "RevisionNotFound", False, R.REVISION_NOT_FOUND),
        (404, "EntryNotFound", False, R.ENDPOINT_INVALID),
        (429, "", False, R.RATE_LIMITED),
        (408, "", False, R.ENDPOINT_UNAVAILABLE),
        (500, "", False, R.ENDPOINT_UNAVAILABLE),
        (503, "", False, R.ENDPOINT_UNAVAILABLE),
        (451, "", False, R.ENDPOINT_INVALID),
        (304, "", False, R.ENDPOINT_INVALID),
    ],
)
def test_a_refusal_of_the_hub(status: int, code: str, token: bool, reason: FetchReason) -> None:
    assert http(status, code, token=token).fetch_reason is reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, R.NO_SPACE),
        (errno.EDQUOT, R.NO_SPACE),
        (errno.EROFS, R.CACHE_NOT_WRITABLE),
        (errno.EACCES, R.CACHE_NOT_WRITABLE),
        (errno.EPERM, R.CACHE_NOT_WRITABLE),
        (errno.ENOTDIR, R.CACHE_NOT_WRITABLE),
        (errno.EIO, R.STORAGE_FAILED),
        (errno.ESTALE, R.STORAGE_FAILED),
        (123456, R.STORAGE_FAILED),
    ],
)
def test_a_refusal_of_the_volume(number: int, reason: FetchReason) -> None:
    assert classify(Fault(FaultKind.STORAGE, errno=number), a_context()).fetch_reason is reason


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (FaultKind.NAME, R.HOST_NOT_FOUND),
        (FaultKind.TLS, R.TLS_FAILED),
        (FaultKind.NETWORK, R.NETWORK_UNREACHABLE),
        (FaultKind.MEMORY, R.OUT_OF_MEMORY),
        (FaultKind.CHECKSUM, R.CHECKSUM_MISMATCH),
        (FaultKind.STALLED, R.DOWNLOAD_STALLED),
        (FaultKind.SLOW_VOLUME, R.STORAGE_FAILED),
        (FaultKind.FENCED, R.STORAGE_FAILED),
        (FaultKind.OFFLINE, R.OFFLINE_MODE),
        (FaultKind.NOT_A_HUB, R.ENDPOINT_INVALID),
        (FaultKind.CRASHED, R.FETCH_FAILED),
    ],
)
def test_other_faults(kind: FaultKind, reason: FetchReason) -> None:
    assert classify(Fault(kind, detail="x"), a_context()).fetch_reason is reason


def every_error() -> list[FetchError]:
    faults = [Fault(kind, status=status) for kind in FaultKind for status in (0, 401, 403, 404, 408, 429, 500)]
    faults += [Fault(FaultKind.HTTP, status=404, code="RevisionNotFound"), Fault(FaultKind.HTTP, 401, "GatedRepo")]
    faults += [Fault(FaultKind.STORAGE, errno=number) for number in (errno.ENOSPC, errno.EROFS, errno.EIO)]
    made = [classify(fault, a_context(token=token)) for fault in faults for token in (False, True)]
    made += [no_space("/m", needed=9, free=2), no_space_yet("/m", needed=9, free=10, reserved=2)]
    made += [not_kept("/m", "x"), taken_over("/m"), not_supported("a/b", "x"), interrupted(), hub_client_missing()]
    return made


def test_every_reason_can_come_about_and_has_words() -> None:
    errors = every_error()
    assert {error.fetch_reason for error in errors} == set(FetchReason)
    assert all(error.message.endswith(".") and error.remedy for error in errors)


def test_exit_codes_are_one_per_reason_and_tell_whether_waiting_helps() -> None:
    assert set(EXIT_CODES) == set(FetchReason)
    assert Counter(EXIT_CODES.values()).most_common(1)[0][1] == 1
    for error in every_error():
        assert error.exit_code in (range(40, 60) if error.transient else range(20, 40))


def test_a_failure_that_lasts_is_not_tried_again_but_for_damage_in_transit() -> None:
    for error in every_error():
        bad_luck = error.fetch_reason in (R.CHECKSUM_MISMATCH, R.OUT_OF_MEMORY)
        assert error.worth_another_try == (error.transient or bad_luck)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500])
def test_a_storage_host_that_the_hub_redirects_to_says_nothing_of_the_token(status: int) -> None:
    fault = Fault(FaultKind.HTTP, status=status, detail="model.safetensors", host="cdn.example", retry_after=7)
    error = classify(fault, a_context(token=True))
    assert (error.fetch_reason, error.transient, error.retry_after) == (R.ENDPOINT_UNAVAILABLE, True, 7)
    assert "cdn.example" in error.message
    assert "asks to wait for 7 seconds" in error.message
    assert "token" not in error.message + error.remedy


@pytest.mark.parametrize(
    "kind", [FaultKind.NAME, FaultKind.TLS, FaultKind.NETWORK, FaultKind.STALLED, FaultKind.NOT_A_HUB]
)
def test_the_host_at_fault_is_named_and_not_the_hub(kind: FaultKind) -> None:
    error = classify(Fault(kind, detail="x", host="proxy.example"), a_context())
    assert "proxy.example" in error.message
    assert "huggingface.co" not in error.message


def test_a_slow_volume_is_named_and_no_host() -> None:
    error = classify(Fault(FaultKind.SLOW_VOLUME, detail="60"), a_context())
    assert "/app/models" in error.message
    assert "huggingface.co" not in error.message


def test_only_what_has_happened_often_is_said_to_happen_again_and_again() -> None:
    often = {error.message for error in every_error() if "again and again" in error.message}
    assert often == {taken_over("/m").message}


def test_the_wait_that_is_asked_for_is_told() -> None:
    assert "wait for 90 seconds" in classify(Fault(FaultKind.HTTP, status=429, retry_after=90.0), a_context()).message


def test_what_a_mirror_names_is_shown_without_control_characters_and_shortened() -> None:
    message = not_supported("a/b", "it lacks \x1b[2J\n" + "x" * 5000).message
    assert message.isprintable()
    assert len(message) <= 1000


def test_a_password_in_the_endpoint_is_not_repeated() -> None:
    error = classify(Fault(FaultKind.NAME), a_context(endpoint="https://user:secret@mirror.example:8443/hf"))
    assert "secret" not in error.message
    assert "mirror.example:8443" in error.message


def test_no_space_tells_how_much_is_missing() -> None:
    error = no_space("/m", needed=8_000_000_000, free=1_000)
    assert "8,000,000,000" in error.message
    assert "7,999,999,000" in error.remedy


def test_who_lacks_a_package_is_told_the_command() -> None:
    remedy = hub_client_missing().remedy
    assert "pip install 'llm-operator[server,fetch]'" in remedy
    assert "make setup" in remedy
