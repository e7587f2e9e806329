"""JSON lines on stdout: one object per line with time, level, logger and message. Set up by __main__.py."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One JSON object per record; a traceback goes into `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Send everything to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kopf tells of every event it delivers, and at DEBUG level prints whole objects.
    least = logging.getLevelNamesMapping()[level]
    for name, floor in (("kopf", logging.INFO), ("kopf.objects", logging.WARNING), ("asyncio", logging.WARNING)):
        logging.getLogger(name).setLevel(max(floor, least))
    logging.captureWarnings(True)
