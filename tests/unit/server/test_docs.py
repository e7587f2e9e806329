"""What users read must be true: settings, endpoints, errors, exit codes and metrics are all in the documents."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_server.fetch.settings import FetchSettings, load_fetch_settings
from inference_server.settings import Settings, load_settings
from inference_server.termination import ExitCode
from tests.unit.server.running import an_app

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs/inference-server.md").read_text()
# Settings, reasons and exit codes of `fetch` are held to it by tests/unit/fetch/test_docs.py.
CACHE_MANUAL = (ROOT / "docs/model-cache.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
SOURCES = sorted((ROOT / "inference_server").rglob("*.py"))

# In the code, a CamelCase string is a reason and nothing else.
OF_OTHERS = {"GatedRepo", "EntryNotFound", "ValidationError"}
REASON = re.compile(r"(?:[A-Z][a-z]+){2,}")


EXTRA = re.compile(r"\b(?:install|with|needs|without) the extra\b")


def texts() -> set[str]:
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def reasons() -> set[str]:
    ours = {text for text in texts() if REASON.fullmatch(text)} - {"RequestRefused", "ClientClosedRequest"}
    return ours - OF_OTHERS


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_in_the_manual_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
    assert f"| `{name.upper()}` | `{shown}` |".replace(" `` ", " ") in MANUAL


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_has_a_description(name: str) -> None:
    assert Settings.model_fields[name].description


def test_the_example_file_holds_every_setting_at_its_default() -> None:
    lines = re.findall(r"^# ([A-Z_]+=.*)$", EXAMPLE, re.MULTILINE)
    assert {line.split("=")[0].lower() for line in lines} == {*Settings.model_fields, *FetchSettings.model_fields}
    Path(".env").write_text("\n".join(lines))
    assert load_settings() == Settings(_env_file=None)
    assert load_fetch_settings() == FetchSettings(_env_file=None)


async def test_every_endpoint_is_in_the_manual() -> None:
    async with an_app() as app:
        endpoints = [f"{method.upper()} {path}" for path, methods in app.schema["paths"].items() for method in methods]
    assert [endpoint for endpoint in endpoints if f"`{endpoint}`" not in MANUAL] == []


async def test_every_metric_is_in_the_manual() -> None:
    async with an_app() as app:
        families = list(text_string_to_metric_families((await app.client.get("/metrics")).text))
    ours = {
        family.name
        for family in families
        if family.name.startswith(("llm_server_", "gen_ai_")) and family.type != "unknown"
    }
    names = {name.removesuffix("_created") for name in ours}
    assert [name for name in names if f"`{name}" not in MANUAL] == []


def test_every_reason_is_in_the_manual() -> None:
    assert {"InvalidSettings", "ShuttingDown"} <= reasons()
    assert [reason for reason in reasons() if f"`{reason}`" not in MANUAL + CACHE_MANUAL] == []


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_in_the_manual(code: ExitCode) -> None:
    assert f"| {code.value} | " in MANUAL


def test_no_message_names_an_extra_without_the_command() -> None:
    assert [text for text in texts() if EXTRA.search(text) and "pip install" not in text] == []
