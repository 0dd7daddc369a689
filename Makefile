# Every target sets up what it needs, once: .venv, the packages of requirements.lock, Paribus itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# Bytecode is worth 2.2 times the imports, and some machines switch it off.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache
unexport PYTHONDONTWRITEBYTECODE
# Threads that outnumber the free cores spin: 5 to 35 times slower. Runs set their own (trainer.threads).
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help setup demo test test-all test-oldest lint format report ablations pretrained results reproduce bench bench-gpu lock clean

help: ## This list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /\1\t/; s/%/<name>/' | expand -t 18

setup: $(READY) ## The environment, which every other target makes by itself

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Paribus needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: ablation-normalization ## Does normalization help? 25 runs on the embedded digits, the report (2 minutes)

test: $(READY) ## The tests, under 10 minutes on 2 cores
	$(TESTS) -m "not slow" -n 2 --dist worksteal

test-all: $(READY) ## The tests and the slow ones
	$(TESTS) -n 2 --dist worksteal

bench: $(READY) ## What is measured against what, on a quiet machine: results/benchmarks.md
	$(BIN)/python scripts/benchmarks/run_all.py

bench-gpu: $(READY) ## What is claimed of a GPU, about 12 minutes on one: results/benchmarks_gpu.md; elsewhere a dry pass
	$(BIN)/python scripts/benchmarks/gpu.py $(if $(CIFAR),--cifar $(CIFAR))

test-oldest: requirements.lock ## The tests on the oldest packages that pyproject.toml admits
	test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest --resolution lowest-direct -e . --group test
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "not slow" -n 2 --dist worksteal

lint: $(READY) ## ruff on everything, mypy on src/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A question, ready to be asked again: what is done is found, and only the rest is made.
ablation-%: $(READY) ## A question of conf/ablation, its runs and its report: make ablation-depth [ARGS="seed=0,1"]
	$(BIN)/python scripts/train.py ablation=$* $(ARGS)
	$(BIN)/python scripts/report.py ablation=$*

ablation-pretraining: pretrained

pretrained: $(READY)
	$(BIN)/python scripts/train.py experiment=digit_scenes_convnet

ablations: $(addprefix ablation-,$(basename $(notdir $(wildcard conf/ablation/*.yaml)))) ## All questions, small; hours on 2 cores

report: $(READY) ## The report of an ablation again, or with no ABLATION= the index of all runs
	$(BIN)/python scripts/report.py $(if $(ABLATION),ablation=$(ABLATION))

TABLES := $(notdir $(patsubst %/,%,$(wildcard results/*/)))

reproduce: $(addprefix ablation-,$(TABLES)) ## What results/ claims, made again and held against it
	$(BIN)/python scripts/report.py against=results

results: $(READY) ## The tables of results/ anew, from the runs that are there
	set -e; for name in $(TABLES); do $(BIN)/python scripts/report.py ablation=$$name output=results/$$name; done

lock: ## requirements.lock anew: the newest packages that pyproject.toml admits, with hashes
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-annotate --group dev pyproject.toml -o requirements.lock

clean: ## The environment and the caches; runs/ stays
	rm -rf .venv .venv-oldest .cache .pytest_cache .ruff_cache .mypy_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
