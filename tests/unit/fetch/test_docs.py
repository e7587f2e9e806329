"""docs/model-cache.md is true: exit codes, reasons, settings, events."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from inference_server.fetch.failures import EXIT_CODES, FetchReason
from inference_server.fetch.settings import FetchSettings, PruneSettings
from inference_server.termination import ExitCode
from llm_operator.api.conditions import FETCH_REASONS
from llm_operator.core.diagnosis.fetch_messages import FINAL_CODES

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs/model-cache.md").read_text()
FIELDS = {**PruneSettings.model_fields, **FetchSettings.model_fields}


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .+ \|$", MANUAL, re.MULTILINE)
    ours = {(str(code), str(reason)) for reason, code in EXIT_CODES.items()}
    assert sorted(rows) == sorted({*ours, ("78", "InvalidSettings"), ("78", "ModeNotSupported")})


def test_the_operator_knows_every_reason_and_no_other() -> None:
    assert {str(reason) for reason in FETCH_REASONS} == {*map(str, FetchReason), "InvalidSettings", "ModeNotSupported"}


def test_the_operator_takes_the_same_codes_for_final() -> None:
    transient = {code for code in EXIT_CODES.values() if code >= 40}
    assert not transient & set(FINAL_CODES)
    assert {*EXIT_CODES.values(), int(ExitCode.CONFIG)} - transient <= set(FINAL_CODES)


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_in_the_manual_with_its_default(name: str) -> None:
    default = FIELDS[name].default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    shown = f"`{default:g}` |" if isinstance(default, float) else f"`{default}` |" if default else "|"
    assert f"| `{name.upper()}` | {shown} " in MANUAL


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_has_a_description(name: str) -> None:
    assert FIELDS[name].description


def test_every_event_is_in_the_manual() -> None:
    source = (ROOT / "inference_server/fetch/display.py").read_text()
    events = set(re.findall(r'(?:_log|logger\.\w+)\(\s*"(\w+)"', source))
    table = MANUAL.partition("| `event` | Fields |")[2].partition("\n\n")[0]
    assert events == set(re.findall(r"^\| `(\w+)` \| `", table, re.MULTILINE))
