# `make demo` and `make test` need Python 3.11 or newer with its venv module, make and a C library; all else comes from the lock.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
ARGS ?=

BIN := $(VENV)/bin
LOCK := requirements/ci.txt
INSTALLED := $(VENV)/.installed
FAST := not integration and not acceptance and not granules

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast lint format env lock clean distclean

help: ## list the targets
	@echo 'make TARGET [ARGS="..."] [PYTHON=python3.12] [VENV=.venv]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## granules into a bucket, the daemon at work, a collection to look at (about a minute)
	@$(BIN)/zcollectiond demo $(ARGS)

test: $(INSTALLED) ## the whole test suite
	@$(BIN)/pytest $(ARGS)

test-fast: $(INSTALLED) ## the tests that start no server and no program
	@$(BIN)/pytest -m '$(FAST)' $(ARGS)

.PHONY: explore
explore: N ?= 5000
explore: SEED ?= 0
explore: $(INSTALLED) ## the engine under N random schedules from SEED on, on all cores (minutes)
	@$(BIN)/python -m tests.exploration $(N) --seed $(SEED) $(ARGS)

.PHONY: test-long
test-long: $(INSTALLED) ## the tests of merging with many more examples (an hour and more)
	@HYPOTHESIS_PROFILE=long $(BIN)/pytest tests/unit/test_merging*.py tests/unit/test_strategies_engine.py \
		tests/unit/test_planning.py tests/unit/test_collection_machine.py $(ARGS)

.PHONY: fuzz
fuzz: N ?= 20000
fuzz: SEED ?= 0
fuzz: $(INSTALLED) ## N damaged granules through the reader, in processes of their own (minutes)
	@$(BIN)/python -m tests.fuzz $(N) --seed $(SEED) $(ARGS)

lint: $(INSTALLED) ## style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## let ruff fix what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

env: $(INSTALLED) ## create or refresh the environment

lock: $(INSTALLED) ## resolve pyproject.toml again, to the newest versions, for all supported Pythons
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-emit-index-url \
		--no-emit-find-links --custom-compile-command 'make lock' pyproject.toml --output-file $(LOCK)
	$(BIN)/python -m tests.environments

clean: ## remove caches, build products and the demo's folder
	rm -rf build dist *.egg-info demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find daemon zcollection_engine tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the same, and the environments
	rm -rf .venv .venv-*

$(INSTALLED): pyproject.toml $(LOCK)
	@if [ -z "$(PYTHON)" ]; then \
		echo 'zcollectiond needs Python 3.11 or newer, and none is on the PATH ($(shell python3 --version 2>&1)).' >&2; \
		echo 'Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'zcollectiond needs Python 3.11 or newer; $(PYTHON) is not (make PYTHON=/path/to/python3.11 ...).' >&2; exit 1; }
	@echo 'Setting up $(VENV) with the locked packages (the first time takes a minute or two) ...'
	@$(PYTHON) -m venv $(VENV) || { \
		echo 'No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --requirement $(LOCK)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
