from pathlib import Path

import pytest

from inference_server.api.config import api_config
from inference_server.engine.protocol import Message
from inference_server.settings import Settings
from inference_server.system_prompt import system_prompt
from inference_server.termination import StartupError
from inference_server.triage.prompt import with_system_prompt
from tests.unit.server.engines import CountingEngine
from tests.unit.server.running import an_app

QUESTION = Message("user", "I feel dizzy.")


def test_the_built_in_prompt_puts_emergencies_first() -> None:
    text = system_prompt(Settings())
    assert "emergency number" in text
    assert "triage" in text
    assert api_config(Settings()).system_prompt == text


def test_the_prompt_comes_from_the_variable_or_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt"
    file.write_text("  Be safe. \u00fc\n", encoding="utf-8")
    assert system_prompt(Settings(system_prompt="Be brief.")) == "Be brief."
    assert system_prompt(Settings(system_prompt_file=str(file))) == "Be safe. \u00fc"
    file.write_text("")
    assert system_prompt(Settings(system_prompt_file=str(file))) == ""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"system_prompt": "a", "system_prompt_file": "/b"}, id="both"),
        pytest.param({"system_prompt_file": "/nowhere/prompt"}, id="no such file"),
        pytest.param({"system_prompt": "x" * 32_001}, id="too long"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(StartupError) as caught:
        system_prompt(Settings.model_validate(settings))
    assert caught.value.reason == "InvalidSettings"


def test_the_prompt_opens_a_conversation_that_has_none() -> None:
    own = (Message("system", "Mine."), QUESTION)
    assert with_system_prompt("Be safe.", (QUESTION,)) == (Message("system", "Be safe."), QUESTION)
    assert with_system_prompt("Be safe.", own) == own
    assert with_system_prompt("", (QUESTION,)) == (QUESTION,)


@pytest.mark.parametrize("include", [False, True])
async def test_the_patients_number_reaches_the_model_only_if_the_settings_say_so(include: bool) -> None:
    engine = CountingEngine()
    async with an_app(engine, include_patient_mrn=include, system_prompt="Be safe.") as app:
        await app.client.post("/triage", json={"patient_mrn": "MRN-7531", "query": "I feel dizzy."})
    first, question = engine.seen[-1].messages
    assert first == Message("system", "Be safe.")
    assert ("MRN-7531" in question.content) == include
    assert question.content.endswith("I feel dizzy.")
