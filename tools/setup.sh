#!/usr/bin/env bash
# Makes .venv: `tools/setup.sh` for running, `tools/setup.sh dev` also for tests and lint. Or
# .venv-upstream, `tools/setup.sh upstream`: upstream's OpenMMLab packages and pytest.
# Does nothing if .venv is as requirements.txt says. Called by make, see the Makefile for
# PYTHON and TORCH.
set -euo pipefail
cd "$(dirname "$0")/.."
dev=${1:-}
venv=.venv
[ "$dev" != upstream ] || venv=.venv-upstream
ready=$venv/.ready  # written last: a .venv without it was left half-made

stamp() { # of what a finished .venv was made from: inputs, PyTorch choice, interpreter
    cat requirements.txt requirements-upstream.txt pyproject.toml tools/setup.sh | cksum
    echo "in $PWD"
    echo "torch ${TORCH:-}"
    "$1" -c 'import sys; print(sys.version)'
}

packages() { # what to install; mmcv has a way of its own
    if [ "$dev" = upstream ]; then
        grep -v '^onedl-' requirements.txt
        cat requirements-upstream.txt
        grep -e '^pytest==' -e '^hypothesis==' requirements-dev.txt
    else
        grep -v '^onedl-mmcv==' requirements.txt
    fi
}

had=$([ -x "$venv/bin/python" ] && cat "$ready" 2>/dev/null || true)
if [ -n "$had" ]; then
    # not asked for again, the choices of last time stay
    [ -n "${TORCH:-}" ] || TORCH=$(sed -n 's/^torch //p' <<<"$had")
    [ -n "${PYTHON:-}" ] || PYTHON=$venv/bin/python
fi
PYTHON=${PYTHON:-python3}
if ! command -v "$PYTHON" >/dev/null; then
    echo "error: no interpreter $PYTHON; name one of version 3.10 or newer: make setup PYTHON=…" >&2
    exit 2
fi
"$PYTHON" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 10):
    sys.exit(f'error: Python 3.10 or newer is needed, {sys.executable} is '
             f'{sys.version.split()[0]}: make setup PYTHON=python3.11')
PY

export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$venv/bin/python" -m pip --quiet "$@"; }
want=$(stamp "$PYTHON")
if [ "$had" != "$want" ]; then
    rm -f "$ready" "$venv/.ready-dev"
    if [ -z "$had" ] || [ "$(tail -n +2 <<<"$had")" != "$(tail -n +2 <<<"$want")" ]; then
        [ "$PYTHON" != "$venv/bin/python" ] || PYTHON=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
        echo "making $venv with $("$PYTHON" --version) …"
        "$PYTHON" -m venv --clear "$venv"
    fi
    echo 'installing from the package registry, about three minutes …'
    if [ -n "${TORCH:-}" ]; then
        pip install $TORCH
        pip install -r <(packages | grep -v -e '^torch==' -e '^torchvision==')
    else
        pip install -r <(packages)
    fi
    if [ "$dev" != upstream ]; then
        # From the source package, never a cached wheel: that may hold operators compiled for
        # another PyTorch. Without a compiler and in seconds.
        MMCV_WITH_OPS=0 pip install --no-cache-dir --no-binary onedl-mmcv --no-deps --force-reinstall \
            "$(grep '^onedl-mmcv==' requirements.txt)"
    fi
    # Both OpenCV packages write the folder cv2; the one installed last wins, and only the headless
    # one works without libGL.
    pip install --no-deps --force-reinstall "$(grep '^opencv-python-headless==' requirements.txt)"
    pip install --no-deps -e .
    "$venv/bin/python" -c 'import cv2, torch, mmcv'
    echo "$want" >"$ready"
    echo "ready: $venv"
fi
if [ "$dev" = dev ] && ! cmp -s requirements-dev.txt "$venv/.ready-dev"; then
    pip install -r requirements-dev.txt
    # gradio 6.31 declares pillow below 13, and runs on what is tested.
    pip install --no-deps -r <(grep '^pillow==' requirements.txt)
    cp requirements-dev.txt "$venv/.ready-dev"
fi
