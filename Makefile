# Two commands serve a newcomer: `make run` and `make test`.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/tools/bin/uv
LOCK := docker/requirements/dev.txt
STAMP := $(VENV)/.ready-$(shell sha256sum $(LOCK) pyproject.toml Makefile 2>/dev/null | sha256sum | cut -c1-12)
GOLDEN := manifests/golden/touch_block.yaml
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run test lint types arch bench expert-replay learnability image-twice check check-requirements clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(STAMP) ## Create .venv, install the locked requirements, get a rendering device
	@$(BIN)/python -m appliance.simulator.mesa

$(STAMP): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not there. On Debian 12: apt-get install python3 python3-venv; or name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: Python 3.11 is needed. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: Python's venv is missing. On Debian 12: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV) (about 4.5 GB to download, some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@rm -f $(VENV)/.ready-* && touch $@

run: setup ## Run the default golden manifest to a signed bundle (about 10 minutes on two cores)
	@$(BIN)/appliance run $(GOLDEN)

test: setup ## Run all tests, two at a time
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

lint: $(STAMP) ## Check style (ruff)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## Check types (mypy --strict)
	@$(BIN)/mypy

arch: $(STAMP) ## Check that rooms depend downwards only (import-linter)
	@$(BIN)/lint-imports --no-cache

bench: setup ## Run the benchmarks; prints ratios measured in one run
	@$(BIN)/python -m tests.benchmarks

learnability: setup ## Train on 5, 10, 20 and 50 demonstrations, evaluate, write the table (1 hour)
	@$(BIN)/python -m tests.benchmarks.learnability

expert-replay: setup ## Play the expert back through the driver, all tasks, write the table (10 minutes)
	@$(BIN)/python -m tests.benchmarks.expert_replay

image-twice: setup ## Build the cpu image twice from these sources and compare every file; IMAGE_OPTIONS="--base-image ... --network host"
	@$(BIN)/appliance image build --no-cache --name plan-star-appliance:first $(IMAGE_OPTIONS)
	@$(BIN)/appliance image build --no-cache --name plan-star-appliance:second $(IMAGE_OPTIONS)
	@$(BIN)/appliance image compare plan-star-appliance:first plan-star-appliance:second

check: lint types arch test ## Everything CI checks

$(UV): docker/requirements/build.txt
	@$(PYTHON) -m venv $(VENV)/tools
	@$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

check-requirements: $(UV) ## Ask the package index whether every locked set can still be had (minutes)
	@PATH="$(CURDIR)/$(dir $(UV)):$$PATH" docker/requirements/check.sh

clean: ## Remove the environment and tool caches; runs/ is kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
