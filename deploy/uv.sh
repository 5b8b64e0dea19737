#!/bin/sh
# Runs uv, and installs it into .cache/uv first where the machine has none.
set -eu

if command -v uv >/dev/null 2>&1; then
    exec uv "$@"
fi

root=$(cd "$(dirname "$0")/.." && pwd)
own=$root/.cache/uv
if [ ! -x "$own/bin/uv" ]; then
    if ! command -v python3 >/dev/null 2>&1 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        "$root/deploy/apt-install.sh" 'Python with venv' python3 python3-venv
    fi
    echo 'installing uv into .cache/uv' >&2
    python3 -m venv --clear "$own"
    "$own/bin/python" -m pip install --quiet --disable-pip-version-check uv
fi
exec "$own/bin/uv" "$@"
