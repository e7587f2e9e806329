"""The child process that does all transfers: `python -m inference_server.fetch.worker`, started by `supervise`.

A hung transfer can only be ended for sure by killing the process it runs in. In: one JSON object per line, a request
(`{"do": …}`), a question (`{"where": true}`), or a beat (`{}`), which says that this process still owns the folder.
Out: one JSON object per line, {"step": bytes}, then {"done": …} or {"failed": a Fault}; and at any time the answer to
the question, {"waits_for": …, "host": …}. When the parent is gone, the input ends, and so does this.
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
from inference_server.fetch.hub import Memory, Source, check, download, list_files, read
from inference_server.fetch.plan import RemoteFile
from inference_server.fetch.whereabouts import HERE, VOLUME

_SECONDS_BETWEEN_STEPS = 0.1


class Inbox:
    """Requests in order, and when the parent was heard last. Answers itself where the work hangs."""

    def __init__(self, output: "Output") -> None:
        self._output = output
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def silent_seconds(self) -> float:
        return time.monotonic() - self._heard

    def _read(self) -> None:
        for line in sys.stdin:
            self._heard = time.monotonic()
            message = json.loads(line)
            if "where" in message:
                self._output.say({"waits_for": HERE.waits_for, "host": HERE.host})
            elif message:
                self.requests.put(message)
        os._exit(0)


class Output:
    """The lines to the parent, from more than one thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()


class Steps:
    """Tells the parent how far a file is, and stops the work when the folder may be somebody else's by now."""

    def __init__(self, inbox: Inbox, output: Output, *, fence_seconds: float) -> None:
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
            self._output.say({"step": count})


def main() -> None:
    # Whatever a library prints must not get between the answers.
    output, sys.stdout = Output(sys.stdout), sys.stderr
    inbox, memory = Inbox(output), Memory()
    while True:
        request = inbox.requests.get()
        try:
            with HERE.at(VOLUME):
                answer = {"done": _do(request, inbox, output, memory)}
        except Exception as error:
            fault = asdict(describe(error))
            fault["detail"] = fault["detail"] or request.get("file", {}).get("path", "")
            answer = {"failed": fault}
        output.say(answer)


def _do(request: dict[str, Any], inbox: Inbox, output: Output, memory: Memory) -> Any:
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
                memory=memory,
            )
        case "read":
            source = Source(request["endpoint"], request["token"], request["repository"], request["commit"])
            return read(RemoteFile(**request["file"]), source)
        case "check":
            steps = Steps(inbox, output, fence_seconds=request["fence_seconds"])
            return check(RemoteFile(**request["file"]), Path(request["path"]), steps)
        case other:
            raise ValueError(other)


if __name__ == "__main__":
    main()
