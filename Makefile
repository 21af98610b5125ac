# Each target makes what it needs; `make serve` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install serve test check bench docs

help:
	@echo "make serve    start the server on http://localhost:8000 (settings: docs/settings.md)"
	@echo "make test     run the tests"
	@echo "make check    ruff (lint and format) and mypy --strict"
	@echo "make bench    measure, each figure as a ratio"
	@echo "make docs     write the generated parts of docs/ anew"

install: $(STAMP)

# tinybig is only there to be compared with; its own requirements (torchvision and more) are not needed for that.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps tinybig
	@touch $@

serve: $(STAMP)
	$(BIN)/weightloom serve

test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	$(BIN)/python docs/generate.py
