# make quickstart | test | nightly | lint | venv | lock | clean
#
# Every target sets up .venv first (once; again when the lock or setup.py changes).
# PYTHON=/path/to/python3 chooses the interpreter that .venv is made with.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m

# One thread a worker: the tests' networks are tiny and two workers share the machine.
TEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(RUN) pytest

.PHONY: help venv quickstart test nightly lint lock clean

help:
	@sed -n '1s/^# //p' Makefile

$(STAMP): envs/requirements.lock.txt envs/install.sh setup.py
	@PYTHON="$(PYTHON)" bash envs/install.sh $(VENV)

venv: $(STAMP)

quickstart: $(STAMP)
	$(RUN) malmm quickstart

test: $(STAMP)
	$(TEST) -n 2 -m "not slow"

nightly: $(STAMP)
	$(TEST) -m slow

lint: $(STAMP)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/python -c "from importlinter.cli import lint_imports_command as main; main()"

# Writes the lock from what is installed: install or upgrade in .venv by hand, try, then `make lock`.
lock: $(STAMP)
	@bash envs/lock.sh $(VENV)

# Leaves .venv, data and outputs alone: they hold work.
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find extraction malmm lavis tests -name __pycache__ -type d -prune -exec rm -rf {} +
