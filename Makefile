# Each command sets up what it needs in .venv by itself, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check
# Editable, with the build tools of .venv, so that the native part is built once for all targets.
INSTALL := PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-build-isolation --editable
PROJECT := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.*)
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal $(FULL)
# Packages of which tests need a file: nilearn, from which the shipped brain was made, and published
# NovoGrads. Of one they need an older version too, and of one the last, for whatever Python it was.
WHEELS := .venv/wheels
export NOVOGRAD_WHEELS := $(CURDIR)/$(WHEELS)
DOWNLOAD = download --quiet --no-deps --only-binary :all: --dest $(WHEELS)

.NOTPARALLEL:
.PHONY: run test test-all test-core test-tensorflow test-torch test-jax \
  test-keras-tensorflow test-keras-torch test-keras-jax test-triton test-gpu \
  sanitize sanitize-address sanitize-thread lint bench bench-tensorflow clean

run: .venv/run
	$(BIN)/novograd compare brain --framework tensorflow --quick --optimizers novograd,adamw,adam,sgd

# One process per framework, and one per backend of Keras: they do not share one well.
test: test-core test-tensorflow test-torch test-jax \
  test-keras-tensorflow test-keras-torch test-keras-jax test-triton

# Also the tests that are marked full: every case of the conformance table by every adapter.
test-all: FULL := --full
test-all: test

test-core: .venv/test
	$(PYTEST) tests/*.py tests/compare tests/checkpoint

test-tensorflow test-torch test-jax: test-%: .venv/test
	$(PYTEST) tests/$*

test-keras-tensorflow test-keras-torch test-keras-jax: test-keras-%: .venv/test
	KERAS_BACKEND=$* $(PYTEST) tests/keras

# The kernels for GPUs by Triton's interpreter, on the CPU. Triton is a folder of its own: torch
# would use it elsewhere, and other tests are of a torch without it.
test-triton: .venv/test .venv/triton
	TRITON_INTERPRET=1 PYTHONPATH=.venv/triton $(PYTEST) tests/gpu tests/torch/test_amp.py \
	  "tests/torch/test_sharding.py::test_fsdp[FSDP 2]"

# The same by a GPU, with whatever torch and Triton are there.
test-gpu:
	$(PYTHON) -m pytest tests/gpu

# The native part under the sanitizers, without Python.
sanitize: sanitize-address sanitize-thread

sanitize-address: build/address/test_step
	$<

sanitize-thread: build/thread/test_step
	$< threads

build/address/test_step: SANITIZER := address,undefined
build/thread/test_step: SANITIZER := thread
build/%/test_step: .venv/build CMakeLists.txt $(wildcard csrc/*.* csrc/tests/*)
	$(BIN)/cmake -S . -B $(@D) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_CXX_FLAGS="-fsanitize=$(SANITIZER) -fno-sanitize-recover=all" > /dev/null
	$(BIN)/cmake --build $(@D)

lint: .venv/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/tests/*.cpp
	$(BIN)/pyright

bench: .venv/bench
	$(BIN)/novograd bench --framework torch,jax --shapes resnet-50,gpt-2,u-net,tiny \
	  --output benchmarks/results/bench-$$(date +%Y-%m-%d-%H%M%S).json
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/first_call.py
	$(BIN)/python benchmarks/sharded_step.py

bench-tensorflow: .venv/run
	$(BIN)/python benchmarks/tensorflow_step.py

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis dist novograd-compare

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/build: constraints.txt | $(BIN)/python
	$(PIP) install --quiet scikit-build-core nanobind cmake ninja
	@touch $@

.venv/run: .venv/build $(PROJECT)
	$(INSTALL) '.[tensorflow,compare]'
	@touch $@

.venv/bench: .venv/build $(PROJECT)
	$(INSTALL) '.[torch,jax,compare,bench]'
	$(PIP) install --quiet --no-deps timm  # whose own dependencies its optimizer does not need
	@touch $@

.venv/test: .venv/build $(PROJECT)
	$(INSTALL) '.[test]'
	$(PIP) install --quiet --no-deps timm  # whose own dependencies its optimizer does not need
	rm -rf $(WHEELS)
	$(PIP) $(DOWNLOAD) nilearn nemo_toolkit pytorch_optimizer timm torch_optimizer
	$(PIP) $(DOWNLOAD) --python-version 3.11 --platform manylinux2014_x86_64 tensorflow_addons
	PIP_CONSTRAINT= $(BIN)/python -m pip $(DOWNLOAD) pytorch_optimizer==3.10.0
	@touch $@

.venv/triton: constraints.txt | $(BIN)/python
	rm -rf $@
	$(PIP) install --quiet --no-deps --target $@ triton

.venv/lint: .venv/test
	$(INSTALL) '.[lint]'
	@touch $@
