"""Command line: `python -m inference_server [serve]`."""

import argparse
import os
import signal
import sys

from inference_server import __version__
from inference_server.failure import DEFAULT_TERMINATION_LOG_PATH
from inference_server.memory_note import MemoryNote


def main(arguments: list[str] | None = None) -> int:
    """Run the subcommand and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m inference_server",
        description="Answers POST /triage. Settings are environment variables: see docs/inference-server.md.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", nargs="?", choices=["serve"], default="serve", help="default: serve")
    parser.parse_args(arguments)
    # As process 1 of a container a signal without a handler is ignored; the imports below take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    note = MemoryNote(os.environ.get("TERMINATION_LOG_PATH") or DEFAULT_TERMINATION_LOG_PATH)
    try:
        note.start()
        from inference_server.serve import run

        return run(note)
    finally:
        note.stop()


if __name__ == "__main__":
    sys.exit(main())
