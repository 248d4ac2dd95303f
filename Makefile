# Needs Python 3.11 or newer and a package index; makes everything else in .venv.
PYTHON ?= python3
LOCK_PYTHON ?= python3.11
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run work test check bench lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1	\2/' \
		| while IFS='	' read -r target does; do printf '  make %-7s %s\n' "$$target" "$$does"; done

run: .venv/.service ## install what the service needs (no torch) and serve on 127.0.0.1:8000
	@$(BIN)/headstart serve

work: .venv/.worker ## install torch as well, serve and run jobs
	@$(BIN)/headstart serve --worker

test: .venv/.dev ## run all tests, on SQLite and on a real PostgreSQL
	$(BIN)/python -m pytest -n 2

check: .venv/.dev ## check format, style, types and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev ## measure /recommend beside a route that answers a constant
	$(BIN)/python -m bench.recommend

lock: ## resolve constraints.txt anew (needs Python 3.11, the oldest supported)
	$(LOCK_PYTHON) deploy/lock.py

clean: ## remove .venv and all caches; the store in .headstart stays
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		"This is Python %d.%d; Headstart needs 3.11 or newer. Name one: make PYTHON=python3.13 ..." \
		% sys.version_info[:2])'
	@echo 'Making .venv ...'
	@$(PYTHON) -m venv --clear .venv

.venv/.service: .venv/bin/python pyproject.toml constraints.txt
	@echo 'Installing the service into .venv ...'
	@$(PIP_INSTALL) -e '.[service]'
	@touch $@

.venv/.worker: .venv/bin/python pyproject.toml constraints.txt
	@echo 'Installing the service and the worker (torch) into .venv ...'
	@$(PIP_INSTALL) -e '.[service,worker]'
	@touch .venv/.service $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	@echo 'Installing the service and the development tools into .venv ...'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch .venv/.service .venv/.worker $@
