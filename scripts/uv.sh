#!/usr/bin/env bash
# Prints the path of uv: the one on PATH, else one installed for this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.13.9
if command -v uv >/dev/null; then
    command -v uv
    exit
fi
if [ ! -x .local/tools/bin/uv ]; then
    echo "installing uv $version into .local/tools" >&2
    python3 -m pip install --quiet --disable-pip-version-check --target .local/tools "uv==$version" >&2
fi
echo "$PWD/.local/tools/bin/uv"
