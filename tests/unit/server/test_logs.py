import json
import logging
from datetime import datetime
from io import StringIO

import pytest

from inference_server.telemetry.logs import configure_logging
from tests.unit.server.running import QUESTION, an_app

pytestmark = pytest.mark.usefixtures("restored_logging")


def lines(stream: StringIO) -> list[dict[str, object]]:
    """What was logged, without the test's own client."""
    parsed = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in parsed if not line["logger"].startswith("http")]


async def test_a_request_is_one_line_with_its_route_and_time() -> None:
    stream = StringIO()
    async with an_app() as app:
        configure_logging("INFO", stream)
        answer = await app.client.post("/triage?x=1", json=QUESTION)
        [line] = lines(stream)
    moment = datetime.fromisoformat(str(line.pop("time")))
    assert str(moment.tzinfo) == "UTC"
    duration = line.pop("duration_ms")
    assert isinstance(duration, float)
    assert line == {
        "level": "INFO",
        "logger": "inference_server.access",
        "event": "request",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "route": "/triage",
        "status": 200,
    }


async def test_probes_and_scrapes_are_logged_at_debug_only() -> None:
    quiet, chatty = StringIO(), StringIO()
    async with an_app() as app:
        configure_logging("INFO", quiet)
        await app.client.get("/livez")
        await app.client.get("/metrics")
        configure_logging("DEBUG", chatty)
        await app.client.get("/livez")
        await app.client.get("/metrics")
        assert lines(quiet) == []
        assert [line["route"] for line in lines(chatty)] == ["/livez", "/metrics"]


def test_a_line_break_stays_inside_its_line() -> None:
    stream = StringIO()
    configure_logging("INFO", stream)
    logging.getLogger("x").info("one\ntwo\u2028three")
    assert stream.getvalue().count("\n") == 1
    assert lines(stream)[0]["event"] == "one\ntwo\u2028three"


def test_other_loggers_write_the_same_form() -> None:
    stream = StringIO()
    configure_logging("INFO", stream)
    logging.getLogger("uvicorn.error").warning("about %s", "something")
    logging.getLogger("uvicorn.error").info("less than a warning")
    [line] = lines(stream)
    assert (line["logger"], line["level"], line["event"]) == ("uvicorn.error", "WARNING", "about something")


def test_a_long_chain_of_causes_is_cut() -> None:
    stream = StringIO()
    configure_logging("INFO", stream)
    error: Exception = ValueError()
    for _ in range(20):
        outer = RuntimeError()
        outer.__cause__ = error
        error = outer
    logging.getLogger("x").error("deep", exc_info=error)
    chain = lines(stream)[0]["exception"]
    assert isinstance(chain, list)
    assert len(chain) == 5
