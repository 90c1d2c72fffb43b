# Two commands for a newcomer: `make serve` and `make test`. Both set up all they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install serve check test test-all bench clean

install: .venv/dev

.venv/runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0 -e .
	touch $@

.venv/dev: .venv/runtime
	$(PIP) -e '.[dev]'
	touch $@

.venv/bench: .venv/dev
	$(PIP) -e ".[bench]"
	touch $@

serve: .venv/runtime
	exec $(BIN)/headrace serve $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: .venv/dev
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test-all: .venv/dev
	$(BIN)/python -m pytest $(ARGS)

bench: .venv/bench
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
