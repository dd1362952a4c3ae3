# make quickstart | demo | test | test-runtimes | test-backends | test-parity | test-docs |
# test-long | coverage | docs | release-check | lint | types | clean: each sets up the
# environment it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs/quickstart
DEMO ?= runs/demo
PORT ?= 8000
# The environment is made anew when what is to be installed has changed.
LOCK := $(shell cat setup.cfg pyproject.toml requirements.lock | sha256sum | cut -c1-16)
USE := $(VENV)/.use-$(LOCK)
DEVELOP := $(VENV)/.develop-$(LOCK)
# PyTorch alone: the other side of the parity tests.
TORCH_VENV := .venv-torch
TORCH := $(TORCH_VENV)/.use-$(LOCK)
# PQuantML, a rival of the experiments, with packages that nothing else needs.
PQUANT_VENV := .venv-pquant
PQUANT := $(PQUANT_VENV)/.use-$(shell cat requirements.lock requirements-pquant.lock \
	| sha256sum | cut -c1-16)
# KerasHub for experiments/coverage.py. Its tensorflow-text is left out: what it makes of
# text would want it, its backbones do not.
HUB := .hub/.use-$(shell sha256sum requirements-hub.lock | cut -c1-16)
# What builds the site and checks a release.
TOOLS_VENV := .venv-tools
TOOLS := $(TOOLS_VENV)/.use-$(shell sha256sum requirements-tools.lock | cut -c1-16)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint requirements.lock

.PHONY: help quickstart demo test test-runtimes test-backends test-parity test-docs \
	test-long test-fast coverage docs release-check runtimes pquant hub lint types lock clean

help:
	@echo "make quickstart  train dense and sparse twins on real images, report, export,"
	@echo "                 verify; ends in a table (minutes on two CPU cores)"
	@echo "make demo        a page with a dense net beside its sparse twin, in a browser"
	@echo "make test        the test suite"
	@echo "make test-runtimes   .tflite files on emulated CPUs and in Chromium"
	@echo "make test-backends   the core on JAX and on PyTorch"
	@echo "make test-parity     trainings beside PyTorch, tfmot and PQuantML"
	@echo "make test-docs   the site is built without a warning, long snippets run"
	@echo "make test-long   what takes long, and coverage, before a release: not in CI"
	@echo "make test-fast   without the tests that train or start processes"
	@echo "make coverage    the test suite; fails where it runs less than 90 % of the package"
	@echo "make docs        the site of the documentation, in site/"
	@echo "make release-check   build, check and try what would be released"
	@echo "make runtimes    the emulators and the browser of test-runtimes"
	@echo "make pquant      the environment in which the experiments run PQuantML"
	@echo "make hub         KerasHub, of which experiments/coverage.py takes backbones"
	@echo "make lint types  ruff; pyright"
	@echo "make lock        write requirements.lock anew from setup.cfg"

$(USE):
	@echo "installing into $(VENV) (TensorFlow is large; once only)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[plot]'
	@touch $@

# The tests also need the other backends, PyTorch and JAX.
$(DEVELOP): $(USE)
	@echo "installing what the tests need into $(VENV) (once only)"
	$(PIP) --editable '.[dev,jax,onnx,openvino,plot,torch]'
	@touch $@

$(TORCH):
	@echo "installing PyTorch and NumPy alone into $(TORCH_VENV) (once only)"
	rm -rf $(TORCH_VENV)
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock numpy torch
	@touch $@

$(PQUANT):
	@echo "installing PQuantML into $(PQUANT_VENV) (once only)"
	rm -rf $(PQUANT_VENV)
	$(PYTHON) -m venv $(PQUANT_VENV)
	$(PQUANT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --requirement requirements-pquant.lock
	@touch $@

$(TOOLS):
	@echo "installing what builds the site and checks a release into $(TOOLS_VENV)"
	rm -rf $(TOOLS_VENV)
	$(PYTHON) -m venv $(TOOLS_VENV)
	$(TOOLS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--requirement requirements-tools.lock
	@touch $@

$(HUB): $(USE)
	@echo "installing KerasHub into .hub (once only)"
	rm -rf .hub
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target .hub --requirement requirements-hub.lock
	@touch $@

pquant: $(PQUANT)

hub: $(HUB)

# The theme tells of its successor at each build unless the variable is set.
docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(TOOLS_VENV)/bin/mkdocs build --strict

release-check: $(TOOLS)
	PYTHON=$(PYTHON) TOOLS=$(TOOLS_VENV)/bin/python tools/check_release.sh

quickstart: $(USE)
	$(BIN)/python -m experiments.quickstart --output=$(RUNS)

# Trains the twins if there are none in $(DEMO); then serves, without a network.
demo: $(USE)
	tools/setup_runtimes.sh web
	$(BIN)/python -m experiments.demo --output=$(DEMO) --port=$(PORT)

# Two processes: most of the time goes to tracing, which uses one core.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

TIERS := not runtimes and not backends and not parity and not docs and not long

test: $(DEVELOP)
	$(PYTEST) -m "$(TIERS)"

test-backends: $(DEVELOP)
	$(PYTEST) --dist load -m backends

test-parity: $(DEVELOP) $(TORCH) $(PQUANT)
	$(PYTEST) --dist load -m parity

test-docs: $(DEVELOP) $(TOOLS)
	$(PYTEST) --dist load -m docs

# What it says last is recorded in docs/releases.md, passed or not.
RECORD := $(BIN)/python tools/record_release_tests.py

test-long: $(DEVELOP) $(TOOLS)
	$(PYTEST) --dist load -m "docs or long" --junitxml=build/long.xml; \
	status=$$?; $(RECORD) --tests=build/long.xml && exit $$status
	$(MAKE) coverage

# The default suite alone: processes that tests start are measured too.
coverage: $(DEVELOP)
	$(PYTEST) -m "$(TIERS)" --cov --cov-report=term:skip-covered \
		--cov-report=json:build/coverage.json; \
	status=$$?; $(RECORD) --coverage=build/coverage.json && exit $$status

# Emulators, an arm64 Python, a browser: into .runtimes or $STR_KERAS_RUNTIMES.
runtimes: $(USE)
	PYTHON=$(BIN)/python tools/setup_runtimes.sh

test-runtimes: $(DEVELOP) runtimes
	$(PYTEST) --dist load -m runtimes

test-fast: $(DEVELOP)
	$(PYTEST) -m "not slow and $(TIERS)"

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOP)
	$(BIN)/pyright

lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,jax,onnx,openvino,plot,torch]'
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '@' > requirements.lock

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(PQUANT_VENV) $(TOOLS_VENV) .hub .runtimes build dist \
		*.egg-info .pytest_cache .ruff_cache .coverage* site runs
