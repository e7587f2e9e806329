"""`python3 -m tests.images build | kustomize | clean`; the Makefile's targets call it."""

import argparse
import sys
from pathlib import Path

from tests.images.build import INDEX, build, clean
from tests.images.inputs import IMAGES, MODEL_SERVER, ROOT
from tests.images.kustomize import write
from tests.images.progress import ImageError, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.images", description="Builds the container images.")
    parser.add_argument("command", choices=("build", "kustomize", "clean"))
    parser.add_argument("--archive-dir", type=Path, default=ROOT / ".local" / "images", help="default: %(default)s")
    parser.add_argument("--deploy-dir", type=Path, default=ROOT / ".local" / "deploy", help="default: %(default)s")
    parser.add_argument("--model-server", action="store_true", help="build the server with torch, too: 6 GB")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            build(arguments.archive_dir, (*IMAGES, MODEL_SERVER) if arguments.model_server else IMAGES)
        elif arguments.command == "kustomize":
            say(f"wrote {write(arguments.archive_dir / INDEX, arguments.deploy_dir)}")
        else:
            clean(arguments.archive_dir)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
