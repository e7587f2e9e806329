"""The parent's side of `worker`: starts it, passes requests, kills it when nothing comes any more.

Called by `fetcher`. All waiting of a fetch happens in `ask`, which calls back several times a second, so that the
owner's beat and the display go on meanwhile.
"""

import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from inference_server.fetch.failures import Fault, FaultKind, hub_client_missing
from inference_server.fetch.whereabouts import HOST, VOLUME

_TICK_SECONDS = 0.1
# For a worker to tell what it waits for. It does so at once, unless it is only just being started.
_ANSWER_SECONDS = 5.0
# The Hub's client reads these when it is imported. Its cache of tokens, its telemetry and its bars are not wanted.
_CLIENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "PYTHONUNBUFFERED": "1",
}
# The token travels through a pipe: an environment can be read by others of the same user.
_SECRETS = ("HUGGINGFACE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_DEBUG")
_COMPLAINT_BYTES = 8192
_COMPLAINT_CHARACTERS = 300
# What a client might repeat of a request.
_TOKENS = re.compile(r"hf_\w+|(?<=Bearer )\S+")


class WorkerFailed(Exception):
    """The request was not carried out; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


class Worker:
    """A child process that is started when it is needed and killed when it hangs."""

    def __init__(self, environment: Mapping[str, str], *, stall_seconds: float) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        self._environment = {**kept, **_CLIENT, **environment}
        self._stall_seconds = stall_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._complaints = b""

    def ask(self, request: Mapping[str, Any], *, tick: Callable[[int], None]) -> Any:
        """The worker's answer. `tick` gets the bytes of the file so far, ten times a second.

        Raises WorkerFailed; and whatever `tick` raises, with the worker killed.
        """
        try:
            return self._ask(request, tick)
        except BaseException as error:
            if not (isinstance(error, WorkerFailed) and self._process is not None):
                self.close()
            raise

    def beat(self) -> None:
        """Tell the worker that it may go on writing."""
        self._send({})

    def close(self) -> None:
        """Kill it. A new one is started by the next request."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        self._buffer = self._complaints = b""
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _ask(self, request: Mapping[str, Any], tick: Callable[[int], None]) -> Any:
        if self._process is None:
            self._process = self._start()
        self._send(request)
        count = 0
        heard = time.monotonic()
        asked = False
        while True:
            for message in self._messages():
                if message.get("waits_for") and asked:
                    self.close()
                    raise WorkerFailed(_stalled(message["waits_for"], message["host"], self._stall_seconds))
                heard, asked = time.monotonic(), False
                if "waits_for" in message:
                    continue
                if "step" in message:
                    count = message["step"]
                elif "done" in message:
                    return message["done"]
                else:
                    raise WorkerFailed(Fault(**{**message["failed"], "kind": FaultKind(message["failed"]["kind"])}))
            # Before `tick`, which a slow volume holds up, too: meanwhile the worker may have been heard.
            silent = time.monotonic() - heard - self._stall_seconds
            if silent > 0 and not asked:
                asked = True
                self._send({"where": True})
            elif silent > _ANSWER_SECONDS:
                self.close()
                raise WorkerFailed(_stalled(HOST, "", self._stall_seconds))
            tick(count)

    def _start(self) -> subprocess.Popen[bytes]:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise hub_client_missing()
        return subprocess.Popen(
            [sys.executable, "-m", "inference_server.fetch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            # A Ctrl+C at the terminal is for the parent, which ends the worker in its own way.
            process_group=0,
        )

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        # A worker that is gone shows when it is read from.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _messages(self) -> Iterator[dict[str, Any]]:
        """What came within one tick."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = [self._process.stdout, self._process.stderr]
        readable, _, _ = select.select(pipes, [], [], _TICK_SECONDS)
        if self._process.stderr in readable:
            self._listen(self._process.stderr)
        if self._process.stdout not in readable:
            return
        data = os.read(self._process.stdout.fileno(), 65536)
        if not data:
            code = self._process.wait()
            while self._listen(self._process.stderr):
                pass
            last = self._last_complaint()
            self.close()
            raise WorkerFailed(_death(code, last))
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _listen(self, stderr: IO[bytes]) -> bool:
        """Keep the end of what a library complains about; whether there was anything."""
        said = os.read(stderr.fileno(), 65536)
        self._complaints = (self._complaints + said)[-_COMPLAINT_BYTES:]
        return bool(said)

    def _last_complaint(self) -> str:
        lines = [line for line in self._complaints.decode(errors="replace").splitlines() if line.strip()]
        return _TOKENS.sub("***", lines[-1])[:_COMPLAINT_CHARACTERS] if lines else ""


def _stalled(waits_for: str, host: str, seconds: float) -> Fault:
    kind = FaultKind.SLOW_VOLUME if waits_for == VOLUME else FaultKind.STALLED
    return Fault(kind, detail=f"{seconds:g}", host=host)


def _death(code: int, complaint: str) -> Fault:
    """Nobody but the kernel sends it SIGKILL without having asked first."""
    if code == -signal.SIGKILL:
        return Fault(FaultKind.MEMORY)
    return Fault(FaultKind.CRASHED, detail=f"exit code {code}{complaint and ': '}{complaint}")
