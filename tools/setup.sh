#!/usr/bin/env bash
# Creates .venv: `tools/setup.sh` for running, `tools/setup.sh dev` also for tests and lint;
# `tools/setup.sh upstream` creates .venv-upstream with upstream's OpenMMLab packages and pytest,
# `tools/setup.sh export` .venv-export with the converters to LiteRT and ExecuTorch, and pytest.
# Does nothing if .venv is up to date with requirements.txt. Called by make; the Makefile describes
# PYTHON and TORCH.
set -euo pipefail
cd "$(dirname "$0")/.."
dev=${1:-}
venv=.venv
case $dev in upstream | export) venv=.venv-$dev ;; esac
ready=$venv/.ready  # written last: a .venv without it is incomplete

stamp() { # what a complete .venv was created from: inputs, PyTorch choice, interpreter
    cat requirements.txt requirements-{upstream,export}.txt pyproject.toml tools/setup.sh | cksum
    echo "in $PWD"
    echo "torch ${TORCH:-}"
    "$1" -c 'import sys; print(sys.version)'
}

packages() { # what to install; mmcv is installed separately
    if [ "$dev" = upstream ]; then
        grep -v '^onedl-' requirements.txt
        cat requirements-upstream.txt
    else
        grep -v '^onedl-mmcv==' requirements.txt
    fi
    [ "$dev" != export ] || cat requirements-export.txt
    case $dev in upstream | export) grep -e '^pytest==' -e '^hypothesis==' requirements-dev.txt ;; esac
}

previous=$([ -x "$venv/bin/python" ] && cat "$ready" 2>/dev/null || true)
if [ -n "$previous" ]; then
    # choices that are not given again stay as they were
    [ -n "${TORCH:-}" ] || TORCH=$(sed -n 's/^torch //p' <<<"$previous")
    [ -n "${PYTHON:-}" ] || PYTHON=$venv/bin/python
fi
PYTHON=${PYTHON:-python3}
if ! command -v "$PYTHON" >/dev/null; then
    echo "error: no interpreter $PYTHON: pass one of version 3.10 or newer: make setup PYTHON=…" >&2
    exit 2
fi
"$PYTHON" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 10):
    sys.exit(f'error: Python 3.10 or newer is required, {sys.executable} is '
             f'{sys.version.split()[0]}: make setup PYTHON=python3.11')
PY

export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$venv/bin/python" -m pip --quiet "$@"; }
wanted=$(stamp "$PYTHON")
if [ "$previous" != "$wanted" ]; then
    rm -f "$ready" "$venv/.ready-dev"
    if [ -z "$previous" ] || [ "$(tail -n +2 <<<"$previous")" != "$(tail -n +2 <<<"$wanted")" ]; then
        [ "$PYTHON" != "$venv/bin/python" ] || PYTHON=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
        echo "creating $venv with $("$PYTHON" --version) …"
        "$PYTHON" -m venv --clear "$venv"
    fi
    echo 'installing packages, about three minutes …'
    if [ -n "${TORCH:-}" ]; then
        pip install $TORCH
        pip install -r <(packages | grep -v -e '^torch==' -e '^torchvision==')
    else
        pip install -r <(packages)
    fi
    if [ "$dev" != upstream ]; then
        # From the source package, never a cached wheel, which may hold operators compiled for
        # another PyTorch. Takes seconds and needs no compiler.
        MMCV_WITH_OPS=0 pip install --no-cache-dir --no-binary onedl-mmcv --no-deps --force-reinstall \
            "$(grep '^onedl-mmcv==' requirements.txt)"
    fi
    # Both OpenCV packages write the directory cv2; the one installed last wins, and only the
    # headless one works without libGL.
    pip install --no-deps --force-reinstall "$(grep '^opencv-python-headless==' requirements.txt)"
    pip install --no-deps -e .
    "$venv/bin/python" -c 'import cv2, torch, mmcv'
    echo "$wanted" >"$ready"
    echo "ready: $venv"
fi
if [ "$dev" = dev ] && ! cmp -s requirements-dev.txt "$venv/.ready-dev"; then
    pip install -r requirements-dev.txt
    # gradio 6.31 requires pillow below 13, but works with the tested version.
    pip install --no-deps -r <(grep '^pillow==' requirements.txt)
    cp requirements-dev.txt "$venv/.ready-dev"
fi
