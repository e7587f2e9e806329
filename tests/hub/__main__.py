"""`python -m tests.hub`: repositories that each have one fault, for tests in a cluster.

Prints one JSON line with the address once it listens. GET /_served tells the bytes that left, by address.
The weights of tiny/held stop halfway; SIGUSR1 lets those go on that are on their way.
"""

import argparse
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from tests.hub.checkpoint import a_checkpoint
from tests.hub.server import Answer, Hub, a_hub

WEIGHTS = ".safetensors"
TOKEN = "hf_test"


def add_repositories(hub: Hub, *, hold: Callable[[], object], large: int, line: float | None) -> None:
    """One model, under one name per fault; and one of so many bytes, if any."""
    files = a_checkpoint(padding=4_000_000)
    hub.add("tiny/held", files, answers={WEIGHTS: Answer(at=(2_000_000, hold))})
    hub.add("tiny/qwen3", files)
    hub.add("tiny/other", a_checkpoint(seed=1))
    hub.add("tiny/gated", files, gated=True)
    hub.add("tiny/private", files, private=True)
    hub.add("tiny/stalled", files, answers={WEIGHTS: Answer(stall_at=65_536)})
    hub.add("tiny/damaged", files, answers={WEIGHTS: Answer(flip_at=1000)})
    hub.add("tiny/limited", files, answers={"": Answer(status=429, headers={"Retry-After": "1"})})
    hub.add("tiny/down", files, answers={"": Answer(status=503)})
    hub.add("tiny/encoder", files | {"config.json": b'{"architectures": ["BertModel"]}'})
    if large:
        hub.add("tiny/large", a_checkpoint(padding=large), answers={WEIGHTS: Answer(bytes_per_second=line)})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hub")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-host", help="another name of this server, for large files")
    parser.add_argument("--tls", type=Path, help="PEM file with certificate and key")
    parser.add_argument("--large", type=int, default=0, metavar="BYTES", help="add tiny/large, of this size")
    parser.add_argument("--line", type=float, metavar="BYTES", help="send no more of tiny/large in a second")
    options = parser.parse_args()
    stopped, released = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: released.set())

    def hold() -> None:
        released.clear()
        released.wait()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with a_hub(
        host=options.host, port=options.port, cdn_host=options.cdn_host, tls=options.tls, tokens=(TOKEN,)
    ) as hub:
        add_repositories(hub, hold=hold, large=options.large, line=options.line)
        print(json.dumps({"event": "listening", "url": hub.url}), flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
