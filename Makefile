# PYTHON=python3.12 chooses the interpreter, TORCH="torch==… torchvision==…" another PyTorch build.
SHELL := bash
BIN := .venv/bin
export PYTHON TORCH

.PHONY: setup setup-dev demo test test-slow lint tables
setup:
	@bash tools/setup.sh

setup-dev:
	@bash tools/setup.sh dev

demo: setup
	$(BIN)/python tools/train.py configs/retinanet_effvim_m4.py --mini

test: setup-dev
	$(BIN)/python -m pytest

test-slow: setup-dev
	$(BIN)/python -m pytest -m slow

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

tables: setup
	$(BIN)/python -m effvim.tables
