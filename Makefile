# Each command sets up what it needs in .venv by itself, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
  $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.NOTPARALLEL:
.PHONY: run test test-core test-tensorflow test-torch test-jax lint bench bench-torch clean \
  test-keras-tensorflow test-keras-torch test-keras-jax

run: .venv/run
	$(BIN)/novograd compare --framework tensorflow

# One process per framework, and one per backend of Keras: they do not share one well.
test: test-core test-tensorflow test-torch test-jax \
  test-keras-tensorflow test-keras-torch test-keras-jax

# The wheel of nilearn is what the shipped brain was made from; a test makes it again.
test-core: .venv/test
	NOVOGRAD_NILEARN_WHEEL=$$(ls .venv/wheels/nilearn-*.whl) $(PYTEST) tests/*.py

test-tensorflow test-torch test-jax: test-%: .venv/test
	$(PYTEST) tests/$*

test-keras-tensorflow test-keras-torch test-keras-jax: test-keras-%: .venv/test
	KERAS_BACKEND=$* $(PYTEST) tests/keras

lint: .venv/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/run
	$(BIN)/python benchmarks/tensorflow_step.py

bench-torch: .venv/bench
	$(BIN)/python benchmarks/torch_step.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis dist novograd-compare

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[tensorflow,compare]'
	@touch $@

.venv/bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[torch,compare,bench]'
	@touch $@

.venv/test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[test]'
	$(PIP) download --quiet --no-deps --dest .venv/wheels nilearn
	@touch $@

.venv/lint: .venv/test
	$(PIP) install --quiet --editable '.[lint]'
	@touch $@
