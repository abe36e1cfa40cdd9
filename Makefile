# Every target sets up what it needs in .venv; a fresh machine has Python 3.11, pip, make, gcc and git.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e
# more options of pytest
PYTEST_FLAGS ?=
# pytest's and the demo's processes are the parallelism
export OMP_NUM_THREADS ?= 1

.PHONY: demo test slow lint types bench docs gymnasium-suite clean

demo: $(VENV)/.core
	env -u OMP_NUM_THREADS $(BIN)/physgym demo --out demo

test: $(VENV)/.test
	$(BIN)/pytest $(PYTEST_FLAGS) -n auto --dist loadfile -m "not slow and not alone"
	$(BIN)/pytest $(PYTEST_FLAGS) -m "alone and not slow"

# the tests that "make test" leaves out, for half an hour
slow: $(VENV)/.test
	$(BIN)/pytest $(PYTEST_FLAGS) -n auto --dist loadfile -m "slow and not alone"
	$(BIN)/pytest $(PYTEST_FLAGS) -m "slow and alone"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.lint
	$(BIN)/mypy

# figures against peers, some of them large (tianshou, torchrl, mujoco); takes an hour
bench: $(VENV)/.bench
	for name in beam generation prediction vector startup storage training running online search session; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Gymnasium's own tests of vector environments, run on ours: GYMNASIUM_SRC is its source tree at the installed version
gymnasium-suite: $(VENV)/.suite
	@test -d "$(GYMNASIUM_SRC)/tests/vector" || { echo "set GYMNASIUM_SRC to Gymnasium's source tree"; exit 2; }
	cd $(GYMNASIUM_SRC) && SDL_VIDEODRIVER=dummy $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider --timeout=120 \
		-p physgym.testing.gymnasium_suite tests/vector tests/wrappers/vector tests/envs/registration/test_make_vec.py

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
	$(INSTALL) '.[test,interop]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test,bench]'
	touch $@

$(VENV)/.suite: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		'gymnasium[classic-control,mujoco,toy-text,other]' dill array-api-compat array-api-extra 'jax[cpu]' flax
	touch $@

$(VENV)/.lint: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test,lint,interop]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[docs]'
	touch $@
