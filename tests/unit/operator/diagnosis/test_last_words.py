"""What the programs say last, told by the operator: whatever they advise, it can be set in an LLMDeployment."""

import json
import re
from itertools import product

import pytest

from inference_server import modes
from inference_server.fetch import failures
from inference_server.fetch.failures import Context, Fault, FaultKind, FetchReason
from inference_server.fetch.settings import FetchSettings, PruneSettings
from inference_server.settings import Settings, invalid_settings
from inference_server.termination import StartupError
from llm_operator.api.conditions import FETCH_REASONS
from llm_operator.core.diagnosis.fetch_messages import fetch_reason
from llm_operator.core.diagnosis.messages import last_words
from llm_operator.core.diagnosis.remedies import BY_THE_IMAGE, REMEDIES
from tests.unit.server.test_docs import reasons

SETTINGS = {
    name.upper() for one in (Settings, FetchSettings, PruneSettings) for name in one.model_fields
} | {"HF_HUB_OFFLINE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}  # fmt: skip
# The environment of a machine, pip's extras, commands: nothing of it is in an LLMDeployment.
FOREIGN = re.compile(rf"(?<!{BY_THE_IMAGE} )\b({'|'.join(SETTINGS)})\b|\bextra\b|\bpython\b|\bmake \w+|\.env\b|\bpip\b")


def all_failures() -> list[StartupError]:
    """Whatever a fetch can end with, and what the server says of its settings."""
    contexts = [
        Context("org/model", "main", "https://hub.example.com", "/models", has_token=one) for one in (True, False)
    ]
    codes = ("", "GatedRepo", "RevisionNotFound", "EntryNotFound", "RepoNotFound")
    answers = [Fault(FaultKind.HTTP, status, code) for status in (400, 401, 403, 404, 429, 500) for code in codes]
    storage = [Fault(FaultKind.STORAGE, errno=number) for number in (5, 13, 20, 28, 116)]
    others = [Fault(kind, detail="60") for kind in FaultKind if kind not in (FaultKind.HTTP, FaultKind.STORAGE)]
    return [
        *(failures.classify(fault, context) for fault, context in product([*answers, *storage, *others], contexts)),
        failures.no_space("/models", needed=2, free=1),
        failures.no_space_yet("/models", needed=2, free=3, reserved=2),
        failures.not_kept("/models/x", "another size"),
        failures.taken_over("/models/x"),
        failures.not_supported("org/model", "its architecture is X"),
        failures.interrupted(),
        failures.hub_client_missing(),
        *(invalid_settings(f"{name} must be something else", "docs/x.md") for name in sorted(SETTINGS)),
    ]


def test_every_remedy_is_for_a_reason_that_a_program_gives() -> None:
    assert set(REMEDIES) <= {str(reason) for reason in FetchReason} | reasons()


def as_last_words(error: StartupError) -> str:
    return json.dumps({"reason": error.reason, "message": error.message, "remedy": error.remedy})


def test_nothing_that_a_fetch_ends_with_is_unknown() -> None:
    found = {one.reason for one in all_failures()}
    assert found >= {str(reason) for reason in FetchReason}
    assert {fetch_reason(as_last_words(one)) is None for one in all_failures()} == {False}
    assert {str(reason) for reason in FETCH_REASONS} - found == {"ModeNotSupported"}


@pytest.mark.parametrize("error", all_failures(), ids=lambda error: error.reason)
def test_no_message_names_what_an_llmdeployment_lacks(error: StartupError) -> None:
    of_fetch = fetch_reason(as_last_words(error))
    assert of_fetch is not None
    for text in (of_fetch[1], last_words(as_last_words(error))):
        assert FOREIGN.search(text) is None, text


OF_THE_SERVER = {
    "ModelMissing": ("MODEL_PATH=/models/x holds no READY.json.", "Fetch it (python -m inference_server fetch)."),
    "ModeNotSupported": ("LLM_MODE=qwen needs torch.", 'Use an installation with the extra "llm".'),
    "SystemPromptTooLong": ("The system prompt has 9 tokens.", "Shorten SYSTEM_PROMPT, raise MAX_CONTEXT_TOKENS."),
    "AddressUnavailable": ("Cannot listen on :: port 8002.", "Set LISTEN_HOST and LISTEN_PORT."),
    "SomethingNew": ("MODEL_PATH is odd.", "Correct MODEL_PATH, or LISTEN_PORT."),
}


@pytest.mark.parametrize("reason", OF_THE_SERVER)
def test_nor_does_one_of_the_server(reason: str) -> None:
    message, remedy = OF_THE_SERVER[reason]
    told = last_words(json.dumps({"reason": reason, "message": message, "remedy": remedy}))
    assert told.startswith(f"{reason}: ")
    assert FOREIGN.search(told) is None, told


def test_a_setting_is_told_as_the_field_that_sets_it_or_as_the_images() -> None:
    wrong = invalid_settings("MAX_NEW_TOKENS must be a number; LISTEN_PORT must be less than 65536", "docs/x.md")
    told = last_words(as_last_words(wrong))
    assert "spec.generation.maxNewTokens must be a number" in told
    assert f"{BY_THE_IMAGE} LISTEN_PORT must be" in told


def test_an_image_without_the_libraries_says_so_in_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "find_spec", lambda _: None)
    with pytest.raises(StartupError) as raised:
        modes.require_supported("qwen")
    found = fetch_reason(as_last_words(raised.value))
    assert found is not None
    assert found[0] == "ModeNotSupported"
    assert "spec.mode=qwen needs torch" in found[1]
    assert "spec.image" in found[1]
    assert FOREIGN.search(found[1]) is None
