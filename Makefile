# A fresh clone needs Python 3.11 or newer and a network, nothing else: every target makes .venv when it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin/python
RUNTIME := $(VENV)/installed-runtime
DEV := $(VENV)/installed-dev
DOCS := $(VENV)/installed-docs

RUNS ?= runs/quickstart
FIGURES ?= $(RUNS)-figures
TRAIN := $(VENV)/bin/gradhorizon
REPORT := $(VENV)/bin/gradhorizon-report
PYTEST_ARGS ?= -n 2 --dist loadfile
COVERED ?= src
ISA ?=
# The lowest versions are tried with files, tables, figures and launches; most other rooms compute with torch alone, whose
# lowest version is the pinned one. (Left out one by one: jaxtyping must see the package before a folder's conftest.py does.)
NOT_LOWEST := $(addprefix --ignore=tests/,cells composition doctor external kernels late_measurement machine \
	measurements mirrors tasks terminal theory training user_modules) \
	$(foreach name,absent_tables contrast decay_law forget_bias_spectrum gaussian_products growth precision_horizon quantities \
	random_tanh_spectrum report_groups ring_initialization saving scales solving spectra tables theory_lines two_ends, \
	--ignore=tests/analysis/test_$(name).py) --ignore=src --ignore-glob='tests/test_*.py'

INSTALL := $(RUN) -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS)
PYTHON_CHECK := import sys; sys.version_info >= (3, 11) or sys.exit(1)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## "; print "make <target>, one of:" } \
		/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: quickstart
quickstart: $(RUNTIME) ## train a small sweep, draw its figures, table and report (minutes; again: only what is missing)
	@echo "==> Training the sweep of conf/experiment/quickstart.yaml; records go to $(RUNS)"
	@$(TRAIN) -m experiment=quickstart hydra/launcher=local
	@$(MAKE) --no-print-directory figures

.PHONY: figures
figures: $(RUNTIME) ## draw figures, table and report of RUNS=<folder of runs> (default: the quickstart's)
	@echo "==> Drawing figures, table and report of $(RUNS) into $(FIGURES)"
	@$(REPORT) $(RUNS) --out $(FIGURES)

.PHONY: test
test: $(DEV) ## run the tests that take seconds
	@$(RUN) -m pytest -q -m "not slow" $(PYTEST_ARGS)

.PHONY: test-all
test-all: $(DEV) ## run all tests, those that take minutes too
	@$(RUN) -m pytest -q $(PYTEST_ARGS)

.PHONY: test-isa
test-isa: $(DEV) ## run the numerical tests again under lesser instruction sets (ISA=DEFAULT: under SSE alone)
	@$(RUN) -m tests.instruction_sets $(ISA) $(PYTEST_ARGS)

.PHONY: test-lowest
test-lowest: ## run tests of files, tables, figures and launches with the lowest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory test VENV=$(LOWEST) CONSTRAINTS=$(LOWEST)/constraints.txt \
		PYTEST_ARGS="$(PYTEST_ARGS) $(NOT_LOWEST)"

.PHONY: coverage
coverage: $(DEV) ## run the doctests (or COVERED=<tests>) and print which share of the package's lines they ran
	@rm -rf build/coverage
	@$(RUN) -m coverage run -m pytest -q -m "not slow" $(PYTEST_ARGS) $(COVERED)
	@$(RUN) -m coverage combine --quiet && $(RUN) -m coverage report

.PHONY: lint
lint: $(DEV) ## check style, formatting and types
	@echo "==> ruff check" && $(RUN) -m ruff check --quiet .
	@echo "==> ruff format" && $(RUN) -m ruff format --check --quiet .
	@echo "==> mypy" && $(RUN) -m mypy

.PHONY: docs
docs: $(DOCS) ## build the site into site/, whose pages need no network; a warning is an error
	@$(RUN) -m docs.website.build

.PHONY: release
release: $(DEV) ## build wheel and sdist of a clean checkout, try them in an environment of their own; uploads nothing
	@$(RUN) -m tests.release

.PHONY: additions
additions: $(DEV) ## add one cell, task, measurement, figure, optimizer and study to a copy, and show what finds them
	@$(RUN) -m tests.additions

.PHONY: bench
bench: $(RUNTIME) ## measure what the program itself costs, as ratios
	@$(RUN) -m benchmarks.all

.PHONY: torture
torture: $(DEV) ## kill, flip, tear, exchange and hand over runs, as CI does a little of it, and write docs/torture.md (two hours)
	@$(RUN) -m tests.torture --kills 200 --flips 10000 --relaunches 200 --samples 20 --share 1 --hole-launches 300 --rounds 20 \
		--out docs/torture.md
	@$(RUN) -m tests.fuzz --examples 2000

.PHONY: survival
survival: $(DEV) ## disturb whole sweeps ROUNDS times (default: 10) and compare every bit with undisturbed ones
	@$(RUN) -m tests.survival --rounds $(or $(ROUNDS),10)

.PHONY: clean
clean: ## remove both environments and caches; recorded runs are kept
	@rm -rf $(VENV) $(LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -type d -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

$(RUN):
	@command -v "$(PYTHON)" > /dev/null || { echo "gradhorizon needs Python 3.11 or newer, \
	and '$(PYTHON)' was not found: name one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@"$(PYTHON)" -c "$(PYTHON_CHECK)" || { echo "gradhorizon needs Python 3.11 or newer, \
	but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1): name another, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@echo "==> Creating $(VENV) with $$("$(PYTHON)" --version 2>&1)"
	@"$(PYTHON)" -m venv $(VENV)

$(LOWEST)/constraints.txt: pyproject.toml tests/lowest.py | $(RUN)
	@$(RUN) tests/lowest.py > $@

$(RUNTIME): pyproject.toml $(CONSTRAINTS) | $(RUN)
	@echo "==> Installing gradhorizon and its pinned dependencies into $(VENV) (a minute or two)"
	@$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml $(CONSTRAINTS) | $(RUN)
	@echo "==> Installing gradhorizon, its pinned dependencies and the development tools into $(VENV) (a minute or two)"
	@$(INSTALL) -e '.[dev]'
	@touch $(RUNTIME) $@

$(DOCS): pyproject.toml $(CONSTRAINTS) | $(RUN)
	@echo "==> Installing gradhorizon and the tools of the documentation into $(VENV) (a minute or two)"
	@$(INSTALL) -e '.[docs]'
	@touch $(RUNTIME) $@
