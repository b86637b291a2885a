# Two commands on a fresh machine with Python 3.10 or newer and make:
#   make demo    breaks a small LLM service and a training job in turn, and judges each failure (3 minutes)
#   make test    passes the tests
# Each makes its own virtual environment in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
CORE := $(wildcard aiobs/recorder/native/*)
# Quiet: setuptools warns that folders in the working directory may stand in for packages, which is what is meant.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint types layers docs bench clean

demo: .venv/demo
	$(BIN)/aiobs demo $(ARGS)

test: .venv/dev
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy
	$(BIN)/mypy examples tests/typing
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: .venv/dev
	$(BIN)/lint-imports

docs: .venv/dev
	$(BIN)/mkdocs build --strict

bench: .venv/dev
	for bench in tests/bench/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench; done

clean:
	rm -rf .venv build dist site .*_cache *.egg-info

# pip 25.1 is the first to know dependency groups.
.venv/pip: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "aiobs needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	touch $@

.venv/demo: .venv/pip pyproject.toml $(CORE)
	$(PIP) --editable '.[demo,report]'
	touch $@

.venv/dev: .venv/pip pyproject.toml $(CORE)
	$(PIP) --editable '.[all]' --group dev
	touch $@ .venv/demo
