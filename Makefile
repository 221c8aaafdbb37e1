# Every target makes the virtual environment when it is missing or pyproject.toml has changed, and only then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GPU := build/gpu
IN_GPU = $(if $(wildcard $(BIN)/python),PYTHONPATH="$$PWD" $(BIN)/python,PYTHONPATH="$$PWD:$(GPU)/packages" $(PYTHON))
# A study and its tests start many processes: each would compile torch and transformers again, for longer than it works.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint format bench gpu gpu-pack clean

demo: $(READY)
	$(BIN)/hpo run studies/quickstart.toml

# Files side by side, in their order, which has the long ones first; each process has a PostgreSQL of its own.
test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/encoding.py --quick
	$(BIN)/python benchmarks/evaluation.py --quick
	$(BIN)/python benchmarks/data_loading.py --quick
	$(BIN)/python benchmarks/meta_training.py --quick
	$(BIN)/python benchmarks/trial_cost.py --quick
	$(BIN)/python benchmarks/learners.py --quick
	$(BIN)/python benchmarks/record_curves.py --quick --study studies/quickstart.toml
	$(BIN)/python benchmarks/pruning.py --quick
	$(BIN)/python benchmarks/pruner_speed.py --quick
	$(BIN)/python benchmarks/chaos.py --quick
	$(BIN)/python benchmarks/many_workers.py --quick
	$(BIN)/python benchmarks/student.py --quick
	$(BIN)/python benchmarks/adapt_and_rank.py --quick
	$(BIN)/python benchmarks/serving.py --quick
	$(BIN)/python benchmarks/dashboard.py --quick
	$(BIN)/python benchmarks/classification.py --quick
	$(BIN)/python benchmarks/distillation.py --quick

# What `make gpu` needs, for a machine with a GPU that may have neither a network nor this project's packages.
gpu-pack: $(READY)
	$(BIN)/python benchmarks/gpu.py --pack $(GPU)/pack.zip --packages $(GPU)/packages

# Needs a CUDA device and the pack. Where there is no virtual environment, Python's own packages are used.
gpu:
	$(IN_GPU) -m pytest --noconftest -o filterwarnings= tests/gpu; tests=$$?; \
	$(IN_GPU) benchmarks/gpu.py $(GPU)/pack.zip --json $(GPU)/figures.json && exit $$tests

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Not compiled: most of what torch, ray and the others bring is never imported.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scenetune needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[demo,dev]'
	touch $(READY)
