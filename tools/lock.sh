#!/usr/bin/env bash
# Writes locks/ from .venv: all tested versions with the hashes of their files, for Python 3.11 on
# Linux x86-64. Called by make lock; docs/security.md says how to install from them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
sources='onedl-mmcv onedl-mmdetection onedl-mmsegmentation'  # published without wheels
tools='setuptools packaging'  # build tools for these

export PIP_DISABLE_PIP_VERSION_CHECK=1
$python -m pip install --quiet uv==0.13.9
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
$python -m pip freeze --all --exclude-editable >"$pins"
compile() {
    .venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --constraints "$pins" \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --custom-compile-command 'make lock' --only-binary :all: ${sources//onedl/--no-binary onedl} \
        "$@"
}
mkdir -p locks
tr ' ' '\n' <<<"$tools" | compile - --no-deps --output-file locks/build.txt
tr ' ' '\n' <<<"$sources" | compile - --no-deps --output-file locks/sources.txt
# Both OpenCV packages write the directory cv2; the headless one is enough and needs no libGL.
compile requirements.txt --no-emit-package opencv-python ${sources//onedl/--no-emit-package onedl} \
    --output-file locks/wheels.txt
