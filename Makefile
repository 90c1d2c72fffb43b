# Two commands for a newcomer: `make serve` and `make test`. Both set up all they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

MODELS := tests/k8s/models/node_modules
PYTHON_IMAGE := $(shell sed -n 's/^ARG PYTHON_IMAGE=\([^@]*\).*/\1/p' Dockerfile.cuda)

.PHONY: install serve check test test-all loadtest k8s bench bench-peers audit proto lock pin clean

install: .venv/dev

.venv/runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0 -e .
	touch $@

.venv/dev: .venv/runtime
	$(PIP) -e '.[dev]'
	touch $@

.venv/loadtest: .venv/runtime
	$(PIP) -e ".[loadtest]"
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

# The models of Kubernetes' operators; without npm the tests that need them skip.
$(MODELS): tests/k8s/models/package-lock.json
	npm ci --prefix tests/k8s/models --silent --no-audit --no-fund --ignore-scripts
	touch $@

# In an environment of its own, since it holds many packages back.
.venv-checkov: requirements/checkov.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check -r requirements/checkov.txt
	touch $@

test: .venv/dev $(if $(shell command -v npm),$(MODELS))
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test-all: .venv/dev .venv-checkov $(if $(shell command -v npm),$(MODELS))
	$(BIN)/python -m pytest $(ARGS)

# The default model, 20 s of load, and whether it kept loadtests/short.toml.
loadtest: .venv/loadtest
	loadtests/local.sh $(ARGS)

k8s: .venv/dev .venv-checkov $(if $(shell command -v npm),$(MODELS))
	$(BIN)/python -m pytest tests/k8s $(ARGS)

# What reads and writes the messages of V2 over gRPC, from their text.
proto: .venv/dev
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. gateway/open_inference.proto

# What is known of the versions in the locks, each where it is alone: asks PyPI and OSV. In an environment of its own.
AUDITED := constraints.txt requirements/torch-cuda.lock requirements/build.lock
.venv-audit:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1

audit: .venv-audit
	for lock in $(AUDITED); do for service in pypi osv; do \
	$</bin/pip-audit --strict --no-deps --disable-pip --vulnerability-service $$service --requirement $$lock || exit 1; \
	done; done

# The locks of the image, from pyproject.toml and constraints.txt.
lock: .venv/dev
	$(PIP) uv==0.13.9
	UV=$(BIN)/uv requirements/lock.sh

# The digest of the images' base, from its registry.
pin:
	digest=$$(docker buildx imagetools inspect $(PYTHON_IMAGE) --format '{{.Manifest.Digest}}') && test -n "$$digest" && \
	sed -i "s|^ARG PYTHON_IMAGE=.*|ARG PYTHON_IMAGE=$(PYTHON_IMAGE)@$$digest|" Dockerfile.cuda loadtests/Dockerfile

bench: .venv/bench
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: .venv/bench
	$(BIN)/python -m benchmarks peers $(ARGS)

clean:
	rm -rf .venv .venv-audit .venv-checkov $(MODELS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
