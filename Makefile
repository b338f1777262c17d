# Everything sets itself up: `make demo` and `make test` work on a fresh clone with Python 3.10-3.12.

PYTHON ?= $(shell tools/find_python.sh 3.11 3.12 3.10)
PYTHON310 ?= $(shell tools/find_python.sh 3.10)
VENV ?= .venv
PINS ?= .venv-pins
FORGE_PAGE ?= .venv-forge-page
BROWSER ?= .venv-browser
OUT ?= demo
SHOTS ?= out/screenshots
HOSTS ?=

# One process uses both cores; spinning OpenMP barriers cost more than they save on shared machines.
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-only test-slow test-pins test-browser browser-ready lint bench structure gpu-check gpu-wheels screenshots clean

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.ready ## train and score the shipped example (6 minutes on 2 cores)
	$(VENV)/bin/python -m lora_eval demo --out $(OUT)

test: lint test-only ## style, types and the test suite under current releases (5 minutes)

test-only: $(VENV)/.ready
	$(VENV)/bin/python -m pytest

test-slow: $(VENV)/.ready ## the suite with the tests that take minutes (25 minutes)
	$(VENV)/bin/python -m pytest --slow

lint: $(VENV)/.ready ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The numpy and torch parts under the versions that AUTOMATIC1111 1.10.1 pins.
test-pins: $(PINS)/.ready ## the suite under the versions that AUTOMATIC1111 1.10.1 pins (3 minutes)
	$(PINS)/bin/python -m pytest

# Both tabs in Chromium: on gradio 3.41.2 (AUTOMATIC1111) and 4.40.0 (Forge) with scripted jobs, then on the current
# gradio with scripted jobs and, through `python -m lora_eval ui`, a real training and a real scorecard.
BROWSER_TESTS = LORA_EVAL_BROWSER_REQUIRED=1 $(BROWSER)/bin/python -m pytest --confcutdir=tests/browser tests/browser

browser-ready: $(VENV)/.ready $(PINS)/.ready $(FORGE_PAGE)/.ready $(BROWSER)/.ready
	tools/find_chromium.sh

test-browser: browser-ready ## both tabs in Chromium on gradio 3.41.2, 4.40.0 and the current one (5 minutes)
	LORA_EVAL_PAGE_PYTHON=$(PINS)/bin/python $(BROWSER_TESTS) --ignore=tests/browser/test_real.py
	LORA_EVAL_PAGE_PYTHON=$(FORGE_PAGE)/bin/python $(BROWSER_TESTS) --ignore=tests/browser/test_real.py
	LORA_EVAL_PAGE_PYTHON=$(VENV)/bin/python $(BROWSER_TESTS)

bench: $(VENV)/.ready ## list the benchmarks; each figure in the docs names its command
	$(VENV)/bin/python -m benchmarks

# The pictures in docs/images. HOSTS="a1111=http://127.0.0.1:7860 forge=http://127.0.0.1:7861" adds running WebUIs.
screenshots: $(VENV)/.ready $(BROWSER)/.ready ## the pictures in docs/images
	tools/find_chromium.sh
	tools/screenshots.sh $(VENV) $(BROWSER) $(SHOTS) docs/images $(HOSTS)

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed; install one or call make PYTHON=/path/to/python"; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[standalone,ui,dev]"
	touch $@

$(PINS)/.ready: pyproject.toml tools/pins-a1111.txt
	@test -n "$(PYTHON310)" || { echo "Python 3.10 is needed for the hosts' pins; install it or call make PYTHON310=/path/to/python3.10"; exit 2; }
	"$(PYTHON310)" -m venv $(PINS)
	$(PINS)/bin/python -m pip install --quiet --upgrade pip
	$(PINS)/bin/python -m pip install --quiet --requirement tools/pins-a1111.txt
	touch $@

$(FORGE_PAGE)/.ready: tools/pins-forge-page.txt
	@test -n "$(PYTHON310)" || { echo "Python 3.10 is needed for the hosts' pins; install it or call make PYTHON310=/path/to/python3.10"; exit 2; }
	"$(PYTHON310)" -m venv $(FORGE_PAGE)
	$(FORGE_PAGE)/bin/python -m pip install --quiet --upgrade pip
	$(FORGE_PAGE)/bin/python -m pip install --quiet --requirement tools/pins-forge-page.txt
	touch $@

# The browser's driver in an environment of its own: it must not change what the page runs on.
$(BROWSER)/.ready:
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed; install one or call make PYTHON=/path/to/python"; exit 2; }
	"$(PYTHON)" -m venv $(BROWSER)
	$(BROWSER)/bin/python -m pip install --quiet --upgrade pip
	$(BROWSER)/bin/python -m pip install --quiet playwright pytest
	touch $@

gpu-check: ## works and how fast on this machine's GPU, in the current Python (8 minutes; needs ".[standalone,dev]")
	python3 -m benchmarks gpu_check

gpu-wheels: ## collect in .whl what a machine with torch, transformers and peft but no network lacks
	tools/gpu_wheels.sh .whl

structure: $(VENV)/.ready ## how the package is built, in numbers
	$(VENV)/bin/python -m tools.structure

clean: ## remove the environments and build folders
	rm -rf $(VENV) $(PINS) $(FORGE_PAGE) $(BROWSER) build *.egg-info
