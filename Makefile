# Needs Python 3.11 or newer and make; everything else goes into .venv.
#   make tune                                   search with the packaged model and data
#   make tune ARGS=tune_configs/smoke.yaml      search with another configuration
#   make setup PYTHON=python3.12                with another interpreter

PYTHON ?= python3
ARGS ?=
PIP = .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# a test that starts Ray leaves a third of two cores idle: three of those at a time
PYTEST = .venv/bin/python -m pytest -q --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev tune test check format clean

help:
	@echo "make setup      install into .venv"
	@echo "make setup-dev  install the tools for developers as well"
	@echo "make tune       search for the best model (ARGS=...)"
	@echo "make test       unit tests, then those that start Ray or a browser"
	@echo "make check      format, lint and types"
	@echo "make format     put the code into the standard format"
	@echo "make clean      remove .venv and caches; runs/ and models/ stay"

setup: .venv/.installed
setup-dev: .venv/.installed-dev

tune: setup
	.venv/bin/python -m nic_ray.tune $(ARGS)

test: setup-dev
	$(PYTEST) -n 2
	$(PYTEST) -n 3 -m "ray or slow or fault or browser"

check: setup-dev
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy --strict nic_ray

format: setup-dev
	.venv/bin/python -m ruff format .
	.venv/bin/python -m ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find nic_ray tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that a broken-off installation is taken up again.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d; nic_ray needs 3.11 or newer: make setup PYTHON=python3.11" % v[:2])'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing nic_ray into .venv (the first time takes about 3 minutes) ..."
	@$(PIP) -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing nic_ray and its developer tools into .venv (the first time takes about 3 minutes) ..."
	@$(PIP) -e '.[dev]'
	@touch .venv/.installed $@
