# Every target does its own set-up: Python 3.10 or newer and the package index are all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= quickstart
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install quickstart test style browser bench-model

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[test]'
	touch $@

install: $(BIN)/.installed ## Make .venv with the package and its test tools

quickstart: $(BIN)/.installed ## Train Net-0 and CSSFE on LT-Digits, compare them, predict and explain (minutes on 2 cores)
	$(BIN)/cssfe train --recipe lt_digits_net0 --output_dir $(OUT)/net0
	$(BIN)/cssfe train --recipe lt_digits_frozen --backbone_weights $(OUT)/net0/model.safetensors --output_dir $(OUT)/cssfe
	$(BIN)/python data_scripts/export_images.py lt_digits --split test --indices 0 --output_dir $(OUT)/images
	$(BIN)/cssfe predict $(OUT)/cssfe $(OUT)/images/0000.png
	$(BIN)/cssfe explain $(OUT)/cssfe $(OUT)/images/0000.png --output $(OUT)/explanation.png
	$(BIN)/cssfe evaluate $(OUT)/net0 $(OUT)/cssfe --data lt_digits --split test

style: $(BIN)/.installed ## Check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Debian's packages; elsewhere any Chromium and its driver on the path serve.
browser: ## Install Chromium for the tests of pages, where it is missing and this user may install it
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq \
			&& apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null; } \
		|| echo "no Chromium here and no right to install it: tests that need a browser will be skipped"

test: $(BIN)/.installed style browser ## Check style, then run all tests
	$(BIN)/python -m pytest --numprocesses 2

bench-model: $(BIN)/.installed ## Measure what CSSFE costs on top of its backbone (about ten minutes; leave the machine alone)
	$(BIN)/python benchmarks/model_cost.py --growth 1000 10000 --output benchmarks/results/model_cost.csv
