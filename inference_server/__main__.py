"""Command line: `python -m inference_server [serve|fetch|prune]`."""

import argparse
import os
import signal
import sys

from inference_server import __version__
from inference_server.fetch.failures import EXIT_CODES, FetchReason
from inference_server.oom_note import OomNote
from inference_server.termination import DEFAULT_TERMINATION_LOG_PATH, ExitCode

_REMEDY = (
    "In a clone: make setup, then .venv/bin/python -m inference_server. Elsewhere: pip install 'llm-operator[server]'."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the subcommand and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m inference_server",
        description="Answers POST /triage; or fetches the model for it, or deletes those that nobody needs. Settings "
        "are environment variables: see docs/inference-server.md and docs/model-cache.md.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "command", nargs="?", choices=["serve", "fetch", "prune"], default="serve", help="default: serve"
    )
    command = parser.parse_args(arguments).command
    # As process 1 of a container a signal without a handler is ignored; the imports below take a second.
    # A server that was asked to stop has done so; a fetch or prune that was has not.
    stopped = EXIT_CODES[FetchReason.FETCH_INTERRUPTED] if command != "serve" else ExitCode.OK
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(stopped))
    note = OomNote(os.environ.get("TERMINATION_LOG_PATH") or DEFAULT_TERMINATION_LOG_PATH)
    try:
        note.start()
        if command == "fetch":
            from inference_server.fetch.command import run
        elif command == "prune":
            from inference_server.fetch.command import run_prune as run
        else:
            from inference_server.serve import run
        return run(note)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("inference_server"):
            raise
        sys.stderr.write(f"The Python library {error.name} is not installed. {_REMEDY}\n")
        return ExitCode.CONFIG
    finally:
        note.stop()


if __name__ == "__main__":
    sys.exit(main())
