"""The child process that does all transfers: `python -m inference_server.fetch.worker`, started by `supervise`.

A hung transfer can only be ended for sure by killing the process it runs in. In: one JSON object per line, a request
(`{"do": …}`) or a beat (`{}`), which says that this process still owns the folder. Out: one JSON object per line,
{"step": bytes}, then {"done": …} or {"failed": a Fault}. When the parent is gone, the input ends, and so does this.
"""

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from inference_server.fetch.faults import Fenced, describe
from inference_server.fetch.hub import Source, check, download, list_files, read
from inference_server.fetch.plan import RemoteFile

_SECONDS_BETWEEN_STEPS = 0.1


class Inbox:
    """Requests in order, and when the parent was heard last."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def silent_seconds(self) -> float:
        return time.monotonic() - self._heard

    def _read(self) -> None:
        for line in sys.stdin:
            self._heard = time.monotonic()
            if message := json.loads(line):
                self.requests.put(message)
        os._exit(0)


class Steps:
    """Tells the parent how far a file is, and stops the work when the folder may be somebody else's by now."""

    def __init__(self, inbox: Inbox, output: TextIO, *, fence_seconds: float) -> None:
        self._inbox = inbox
        self._output = output
        self._fence_seconds = fence_seconds
        self._told = (-1, 0.0)

    def __call__(self, count: int) -> None:
        if self._inbox.silent_seconds() > self._fence_seconds:
            raise Fenced
        now = time.monotonic()
        if count != self._told[0] and now - self._told[1] >= _SECONDS_BETWEEN_STEPS:
            self._told = (count, now)
            _say(self._output, {"step": count})


def main() -> None:
    # Whatever a library prints must not get between the answers.
    output, sys.stdout = sys.stdout, sys.stderr
    inbox = Inbox()
    while True:
        request = inbox.requests.get()
        try:
            answer = {"done": _do(request, inbox, output)}
        except Exception as error:
            fault = asdict(describe(error))
            fault["detail"] = fault["detail"] or request.get("file", {}).get("path", "")
            answer = {"failed": fault}
        _say(output, answer)


def _do(request: dict[str, Any], inbox: Inbox, output: TextIO) -> Any:
    match request["do"]:
        case "list":
            commit, files = list_files(
                endpoint=request["endpoint"],
                token=request["token"],
                repository=request["repository"],
                revision=request["revision"],
            )
            return {"commit": commit, "files": [asdict(file) for file in files]}
        case "download":
            return download(
                RemoteFile(**request["file"]),
                Source(request["endpoint"], request["token"], request["repository"], request["commit"]),
                part=Path(request["part"]),
                target=Path(request["target"]),
                step=Steps(inbox, output, fence_seconds=request["fence_seconds"]),
            )
        case "read":
            source = Source(request["endpoint"], request["token"], request["repository"], request["commit"])
            return read(RemoteFile(**request["file"]), source)
        case "check":
            steps = Steps(inbox, output, fence_seconds=request["fence_seconds"])
            return check(RemoteFile(**request["file"]), Path(request["path"]), steps)
        case other:
            raise ValueError(other)


def _say(output: TextIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message) + "\n")
    output.flush()


if __name__ == "__main__":
    main()
