"""Command line: `python -m inference_server [serve]`."""

import argparse
import signal
import sys

from inference_server import __version__


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
    from inference_server.serve import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
