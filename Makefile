# make run    sets everything up, then raw IDX files → a published MNIST model and its report
# make test   sets everything up, then checks and tests it; make test-all adds the slow rounds
# Both can be run again at no cost.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test test-all lint format clean

run: setup
	$(BIN)/idxflow run $(ARGS)

# Two processes, a file of tests each at a time; `pytest` alone takes one, for looking closely.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

test: setup lint
	$(PYTEST)

test-all: setup lint
	$(PYTEST) -m ""

setup: .venv/ready

# The lock pins every version; the project itself is installed as it stands in this folder.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
