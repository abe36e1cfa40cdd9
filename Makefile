# Every target sets up what it needs in .venv; a fresh machine has Python 3.11, pip, make, gcc and git.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e
# pytest's and the demo's processes are the parallelism
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint types bench docs clean

demo: $(VENV)/.core
	env -u OMP_NUM_THREADS $(BIN)/physgym demo --out demo

test: $(VENV)/.test
	$(BIN)/pytest

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.lint
	$(BIN)/mypy

bench: $(VENV)/.test
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W docs site

clean:
	rm -rf $(VENV) demo site

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.core: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test]'
	touch $@

$(VENV)/.lint: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test,lint]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[docs]'
	touch $@
