# Everything a newcomer types. Each target does its own set-up; nothing has to be installed before but Python 3.11+ and make.
#   make demo PYTHON=python3.12     another Python
#   make demo OUT=runs/mine         another folder

PYTHON ?=
TORCH ?= torch==2.13.0
OUT ?= runs/demo
WORKERS ?= 2
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SET_UP := PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh scripts/set_up.sh

.PHONY: help demo test unit check format flags docs site examples lowest audit licences clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     set up, then train, measure and compare domain SAEs on a small real model; ends in a report"
	@echo "make test     set up, then all tests: the unit tests first, then the slow ones (real model, browser)"
	@echo "make unit     set up, then the unit tests alone"
	@echo "make check    set up, then lint, format and types"
	@echo "make format   rewrite the code in the house format"
	@echo "make flags    freeze the present flags and public interface in tests/golden/flags.json and api.json"
	@echo "make docs     write docs/metrics.md, docs/reference/ and the table of docs/formats.md from the code"
	@echo "make site     build the documentation site into build/site; a broken link stops it"
	@echo "make examples fovea's SAEs in the released sae-lens, SAEBench, sae-probes, SAEDashboard, delphi, nnsight, ... (5 GB)"
	@echo "make lowest   the unit tests with the oldest packages that pyproject.toml allows, in build/lowest"
	@echo "make audit    ask the vulnerability service about constraints.txt (needs the network; a package it cannot ask about is an error)"
	@echo "make licences list what fovea installs, with versions and licences"
	@echo "make clean    remove .venv, build outputs and caches (runs/ is kept)"
	@echo "Variables: PYTHON=python3.12  OUT=runs/demo  WORKERS=2 (processes that share the tests)"

demo:
	@$(SET_UP) report,app
	@echo "[demo] fovea demo --out $(OUT) --resume"
	@$(BIN)/fovea demo --out "$(OUT)" --resume

test:
	@$(SET_UP) report,app,dev
	@echo "[test] all tests: unit tests first, then the slow ones"
	@$(PYTEST)

unit:
	@$(SET_UP) report,app,dev
	@echo "[unit] the tests that need no model and no browser"
	@$(PYTEST) -m "not slow and not browser"

check:
	@$(SET_UP) report,app,dev
	@echo "[check 1/3] lint"
	@$(BIN)/ruff check --no-cache .
	@echo "[check 2/3] format"
	@$(BIN)/ruff format --no-cache --check .
	@echo "[check 3/3] types"
	@$(BIN)/pyright --pythonpath $(BIN)/python

format:
	@$(SET_UP) report,app,dev
	@$(BIN)/ruff check --no-cache --fix .
	@$(BIN)/ruff format --no-cache .

flags:
	@$(SET_UP) report,app,dev
	@$(BIN)/python scripts/freeze_flags.py

docs:
	@$(SET_UP) report,app,dev
	@$(BIN)/python scripts/write_metrics_page.py
	@$(BIN)/python scripts/write_scale_page.py
	@$(BIN)/python scripts/write_formats_page.py
	@$(BIN)/python scripts/write_reference_pages.py

site:
	@$(SET_UP) report,app,dev,docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

LOWEST := build/lowest
lowest:
	@$(SET_UP) report,app,dev
	@$(BIN)/python -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install -q -c constraints-lowest.txt -e ".[report,app]" \
		pytest pytest-timeout pytest-xdist hypothesis beartype playwright
	@$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not browser"

audit:
	@$(SET_UP) report,app,dev
	@$(BIN)/python -m venv build/audit && build/audit/bin/python -m pip install -q pip-audit
	@build/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

licences:
	@$(SET_UP) report,app,dev
	@$(BIN)/python scripts/licences.py

examples:
	@$(SET_UP) report
	@$(BIN)/python examples/run_all.py

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
