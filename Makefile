# make setup PYTHON=python3.12 uses another interpreter,
# make setup TORCH="torch==… torchvision==…" another PyTorch build.
SHELL := bash
BIN := .venv/bin
export PYTHON TORCH

.PHONY: setup setup-dev demo docs test test-slow test-browser test-gpu test-upstream export-env test-export lint lock tables benchmarks benchmarks-gpu benchmarks-page real-data
setup:
	@bash tools/setup.sh

setup-dev:
	@bash tools/setup.sh dev

demo: setup
	$(BIN)/python tools/train.py configs/retinanet_effvim_m4.py --mini

test: setup-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile -rs

test-slow: setup-dev
	$(BIN)/python -m pytest -m slow

test-browser: setup-dev
	$(BIN)/python -m pytest -m browser

# Under ten minutes on one GPU; what needs two, or onnxruntime-gpu, is skipped without.
test-gpu: setup-dev
	$(BIN)/python -m pytest -m gpu -rs

# Training, resuming and testing with upstream's OpenMMLab packages, see requirements-upstream.txt.
# Skipped: upstream's own tools and functions, which cannot read checkpoints with torch 2.6 and later,
# and the test that a resumed segmentor skips images without reading them, which only the default
# packages do.
test-upstream:
	@bash tools/setup.sh upstream
	.venv-upstream/bin/python -m pytest \
		-k 'not mmdets_own_inference and not mmsegs_own and not without_reading' \
		$(addprefix tests/engine/test_,detection.py segmentation.py mask_rcnn.py resume.py)

# The converters to LiteRT and ExecuTorch in .venv-export (8 GB), see docs/deployment.md.
export-env:
	@bash tools/setup.sh export

test-export: export-env
	.venv-export/bin/python -m pytest tests/export/test_fixed_size.py

# Rules, layout, types, the layers of the packages, spelling.
lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site, in build/site.
docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: setup
	@bash tools/lock.sh

tables: setup
	$(BIN)/python -m maintenance.tables

# Each command takes up to six minutes on two cores; run nothing else at the same time.
BENCHMARK = $(BIN)/python tools/benchmark.py
BEST = fused+channels-last
BEST_COMPILED = channels-last+compiled fused+channels-last+compiled
benchmarks: setup
	$(BENCHMARK) backbone efficientvim_m4 m4 shvit_s4 --sizes 800x1344 256 --seconds 150 \
		--forms plain channels-last fused $(BEST) --json docs/benchmarks/inference.json
	$(BENCHMARK) backbone efficientvim_m4 m4 --forms compiled $(BEST_COMPILED) $(BEST) \
		--sizes 800x1344 --seconds 60 --json docs/benchmarks/compiled-800x1344.json
	$(BENCHMARK) backbone efficientvim_m4 m4 --forms compiled $(BEST_COMPILED) $(BEST) \
		--sizes 256 --seconds 60 --json docs/benchmarks/compiled-256x256.json
	$(BENCHMARK) backbone efficientvim_m4:plain m4:$(BEST) efficientvim_m4:dynamic \
		--sizes 512 768 1024 1536 2048 --seconds 120 --json docs/benchmarks/sizes.json
	$(BENCHMARK) backbone efficientvim_m4 m4 --forms plain $(BEST) --sizes 800x1344 256 \
		--dtypes float32 bfloat16 --seconds 150 --json docs/benchmarks/precision.json
	$(BENCHMARK) backbone efficientvim_m4 m4 --modes train --batch 2 --sizes 512 --seconds 100 \
		--forms plain channels-last compiled channels-last+compiled \
		--json docs/benchmarks/training.json
	$(BENCHMARK) backbone m4 --peers --forms channels-last $(BEST) --sizes 256 800x1344 \
		--seconds 250 --json docs/benchmarks/peers.json
	$(BENCHMARK) backbone m1 m2 m3 --peers --classifier --forms channels-last $(BEST) \
		--sizes 224 --batch 16 --seconds 250 --json docs/benchmarks/classifiers.json
	$(BENCHMARK) model configs/retinanet_effvim_m4.py --seconds 200 --cases efficientvim_m4 \
		own:channels-last own:$(BEST) --json docs/benchmarks/retinanet.json
	$(BENCHMARK) model configs/mask_rcnn_effvim_m4.py --seconds 200 --cases efficientvim_m4 \
		own:channels-last own:$(BEST) --json docs/benchmarks/mask-rcnn.json
	$(BENCHMARK) model configs/retinanet_effvim_m4.py --sizes 640 --seconds 150 --cfg-options \
		model.test_cfg.nms_pre=1000 model.test_cfg.max_per_img=100 --cases own:$(BEST) \
		rtmdet_effvim_m{1,2,3,4}:$(BEST) rtmdet_ins_effvim_m4:$(BEST) \
		--json docs/benchmarks/rtmdet.json
	$(BENCHMARK) model configs/semfpn_effvim_m4.py --sizes 512x2048 --seconds 100 \
		--cases efficientvim_m4 own:channels-last own:$(BEST) --json docs/benchmarks/semfpn.json
	$(BENCHMARK) model configs/retinanet_effvim_m4.py --modes train --batch 2 --sizes 512 \
		--seconds 100 --cases efficientvim_m4 own:channels-last \
		--json docs/benchmarks/retinanet-training.json
	for runtime in onnxruntime openvino; do for arch in m1 m4; do \
		$(BENCHMARK) backbone efficientvim_$$arch:$$runtime $$arch:$$runtime --seconds 150 \
		--sizes 256 512 800x1344 --dtypes float32 bfloat16 int8 \
		--json docs/benchmarks/$$runtime-$$arch.json || exit; done; done
	$(BENCHMARK) evaluation --json docs/benchmarks/evaluation.json
	$(MAKE) benchmarks-page

# At most ten minutes on one GPU.
GRAPHS = fused+channels-last+graphs
benchmarks-gpu: setup
	for batch in 1 256; do \
		$(BENCHMARK) backbone m1 m2 m3 m4 --peers --classifier --forms channels-last $(BEST) \
		--sizes 224 --batch $$batch --dtypes float16 --device cuda --seconds 120 \
		--json docs/benchmarks/gpu-classifiers-$$batch.json || exit; done
	$(BENCHMARK) backbone efficientvim_m4 m4 --forms plain $(BEST) $(GRAPHS) \
		--dtypes float32 bfloat16 float16 --sizes 800x1344 --device cuda --seconds 90 \
		--json docs/benchmarks/gpu-precision.json
	$(BENCHMARK) backbone efficientvim_m4 m4 --modes train --forms channels-last compiled \
		--dtypes float32 bfloat16 --batch 16 --sizes 512 --device cuda --seconds 60 \
		--json docs/benchmarks/gpu-training.json
	$(BENCHMARK) model configs/retinanet_effvim_m4.py --cases efficientvim_m4 own:channels-last \
		own:$(BEST) --device cuda --seconds 60 --json docs/benchmarks/gpu-retinanet.json
	$(BENCHMARK) model configs/rtmdet_effvim_m4.py --cases own:channels-last own:$(BEST) \
		--device cuda --seconds 60 --json docs/benchmarks/gpu-rtmdet.json
	$(MAKE) benchmarks-page

# DATA holds bccd, raccoon and nuclei, see docs/real_data.md. About six hours on two cores.
real-data: setup
	$(BIN)/python -m maintenance.real_data $(DATA)
	$(MAKE) tables

benchmarks-page: setup
	$(BIN)/python -m maintenance.benchmark_page
