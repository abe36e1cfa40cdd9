# Every target sets up what it needs in .venv; a fresh machine has Python 3.11, pip, make, gcc and git.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e
# more options of pytest
PYTEST_FLAGS ?=
PYTEST = $(BIN)/pytest --durations=20 $(PYTEST_FLAGS)
# who has no tests left takes some of another process's, so that none waits for a long file at the end; tests that are
# marked "alone" wait for each other nevertheless
PYTEST += -n auto --dist worksteal
# pytest's and the demo's processes are the parallelism
export OMP_NUM_THREADS ?= 1
# compiled once, not in each of thousands of processes
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow sweeps lint types bench docs gallery readme package pythons lowest gymnasium-suite clean

demo: $(VENV)/.core
	env -u OMP_NUM_THREADS $(BIN)/physgym demo --out demo

# CI asks for the slow ones too, at once: collecting takes each process a third of a minute
TESTS ?= not (slow or sweep)
test: $(VENV)/.dev
	$(PYTEST) -m "$(TESTS)"

slow:
	$(MAKE) test TESTS="slow and not sweep"

# processes that are killed at hundreds of places, and what they leave; each test uses all cores. Collecting all files
# would take half a minute
sweeps: $(VENV)/.dev
	$(PYTEST) -n 0 -m sweep $$(grep -rl --include='test_*.py' 'mark\.sweep' tests)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# figures against peers, some of them large (tianshou, torchrl, mujoco); takes an hour
bench: $(VENV)/.bench
	for name in beam generation prediction vector startup storage training running online search session batched machines scale clients; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/agents.py --speed
	$(BIN)/python benchmarks/wanted.py

# Gymnasium's own tests of vector environments, run on ours: GYMNASIUM_SRC is its source tree at the installed version
gymnasium-suite: $(VENV)/.suite
	@test -d "$(GYMNASIUM_SRC)/tests/vector" || { echo "set GYMNASIUM_SRC to Gymnasium's source tree"; exit 2; }
	cd $(GYMNASIUM_SRC) && SDL_VIDEODRIVER=dummy $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider --timeout=120 \
		-p physgym.testing.gymnasium_suite $(GYMNASIUM_OPTIONS) tests/vector tests/wrappers/vector tests/envs/registration/test_make_vec.py

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W docs site

# runs all examples, for hours, and draws the pictures of the gallery; NAMES=configurations/heat makes one of them
gallery: $(VENV)/.dev
	$(BIN)/python -m docs.pictures $(NAMES)

# the README's commands in a clone, and a tiny demo
readme: $(VENV)/.dev
	work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && \
	env -u OMP_NUM_THREADS $(BIN)/physgym demo --quick --out "$$work/demo" && test -s "$$work/demo/report.png" && \
	env -u OMP_NUM_THREADS $(BIN)/python .ci/readme.py "$$work"

# wheel and source distribution in dist/; a fresh environment installs the wheel with all it needs, and runs the demo
package: $(VENV)/.dev
	env -u OMP_NUM_THREADS $(BIN)/python .ci/package.py

# further versions of Python, where they are found
pythons: $(VENV)/.dev
	$(BIN)/python .ci/pythons.py

# the oldest versions of what everything needs; tests elsewhere also look for what newer ones say
LOWEST_TESTS ?= tests/envs tests/nn tests/simulation tests/samplers tests/data tests/generation tests/loading
lowest: $(VENV)/.lowest
	$(VENV)/lowest/bin/pytest -q -m "not (slow or sweep)" $(LOWEST_TESTS)

clean:
	rm -rf $(VENV) demo site jupyter_execute dist docs/gallery/examples docs/gallery/configurations

# Python 3.11's own pip takes thrice as long to find out which versions fit together; where there is no other it will do
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip || true
	touch $@

$(VENV)/.core: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) .
	touch $@

# one installation for tests, lint, types and docs: each run of pip takes a quarter of a minute
$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test,interop,lint,docs]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test,bench]'
	touch $@

$(VENV)/.lowest: pyproject.toml constraints-lowest.txt $(VENV)/.made
	$(PYTHON) -m venv $(VENV)/lowest
	$(VENV)/lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e . \
		'pytest>=8' 'pytest-timeout>=2.3' 'hypothesis>=6.100' 'psutil>=5.9' 'scikit-fem>=10' 'stable-baselines3>=2.9' 'cryptography>=42'
	touch $@

$(VENV)/.suite: pyproject.toml constraints.txt $(VENV)/.made
	$(INSTALL) '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		'gymnasium[classic-control,mujoco,toy-text,other]' dill array-api-compat array-api-extra 'jax[cpu]' flax
	touch $@
