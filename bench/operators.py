"""The operator as a process with the rights of deploy/, measured and, if asked for, profiled."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import usage
from tests.cluster.steps import Failure, tail
from tests.integration.conftest import answers, free_port

READY_SECONDS = 60
STOP_SECONDS = 40
PROFILE_RATE = 200


@dataclass(frozen=True)
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    health_port: int
    metrics_port: int
    log: Path

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def cpu_seconds(self) -> float:
        """CPU seconds since it was started."""
        return usage.cpu_seconds(self.pid)

    def peak_memory_mib(self) -> float:
        """Its peak resident memory."""
        return usage.peak_memory_mib(self.pid)

    def watch_events(self) -> dict[str, int]:
        """Events its watches delivered, by resource, as its own metrics tell."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        prefix = 'llmop_watch_events_total{resource="'
        lines = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
        return {line.split('"')[0]: round(float(line.split()[-1])) for line in lines}

    def fail_if_ended(self) -> None:
        """Raise with the end of its log if it does not run any more."""
        if self.process.poll() is not None:
            raise Failure(f"the operator ended by itself ({self.process.returncode}):\n{tail(self.log)}")


@contextmanager
def running(kubeconfig: Path, log: Path, *, profile: Path | None = None, **settings: str) -> Iterator[Operator]:
    """The operator, ready; ended by SIGTERM. With `profile` its profile is written there."""
    operator = _start(kubeconfig, log, profile, settings)
    try:
        _wait_until_ready(operator)
        with _sampled(operator, profile):
            yield operator
            operator.fail_if_ended()
    finally:
        operator.process.send_signal(signal.SIGTERM)
        try:
            code = operator.process.wait(timeout=STOP_SECONDS)
        finally:
            operator.process.kill()
    if code:
        raise Failure(f"the operator ended with exit code {code}:\n{tail(log)}")


def sampler() -> str | None:
    """py-spy, if it is on the PATH: it slows the operator far less than cProfile does."""
    return shutil.which("py-spy")


def _start(kubeconfig: Path, log: Path, profile: Path | None, settings: dict[str, str]) -> Operator:
    tracing = ["-m", "cProfile", "-o", str(profile)] if profile is not None and sampler() is None else []
    health_port, metrics_port = free_port(), free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *tracing, "-m", "llm_operator"],
            env={
                **os.environ,
                "KUBECONFIG": str(kubeconfig),
                "LLMOP_SERVER_IMAGE": "registry.example.com/server:1",
                "LLMOP_HEALTH_PORT": str(health_port),
                "LLMOP_METRICS_PORT": str(metrics_port),
                **settings,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Operator(process, health_port, metrics_port, log)


def _wait_until_ready(operator: Operator) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not answers(f"http://127.0.0.1:{operator.health_port}/readyz"):
        operator.fail_if_ended()
        if time.monotonic() > deadline:
            raise Failure(f"the operator is not ready after {READY_SECONDS} s:\n{tail(operator.log)}")
        time.sleep(0.2)


@contextmanager
def _sampled(operator: Operator, profile: Path | None) -> Iterator[None]:
    program = sampler()
    if profile is None or program is None:
        yield
        return
    command = [program, "record", "--pid", str(operator.pid), "--rate", str(PROFILE_RATE), "--format", "raw"]
    with subprocess.Popen([*command, "--output", str(profile)], stdout=subprocess.DEVNULL) as sampling:
        try:
            yield
        finally:
            sampling.send_signal(signal.SIGINT)
