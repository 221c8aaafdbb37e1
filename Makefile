# Every target makes the virtual environment when it is missing or pyproject.toml has changed, and only then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A study and its tests start many processes: each would compile torch and transformers again, for longer than it works.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint format bench clean

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
	$(BIN)/python benchmarks/record_curves.py --quick
	$(BIN)/python benchmarks/pruning.py --quick
	$(BIN)/python benchmarks/pruner_speed.py --quick
	$(BIN)/python benchmarks/chaos.py --quick
	$(BIN)/python benchmarks/many_workers.py --quick
	$(BIN)/python benchmarks/student.py --quick
	$(BIN)/python benchmarks/adapt_and_rank.py --quick
	$(BIN)/python benchmarks/dashboard.py --quick

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# Not compiled: most of what torch, ray and the others bring is never imported.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scenetune needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[demo,dev]'
	touch $(READY)
