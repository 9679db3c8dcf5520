# make demo       the whole SRUM loop on the shipped model, in runs/demo
# make test       linters, types and fast tests
# make test-slow  the tests that take more than a few seconds
# make test-wheel the wheel with each extra alone, installed by pip into environments of their own; takes long
# make lint       linters and types only
# make clean      caches and build products; runs/ and .venv/ stay
#
# Each creates .venv from constraints.txt first. Another interpreter: make PYTHON=/path/to/python3.12 ...

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test test-slow test-wheel lint clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/srum run configs/demo.yaml

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

# torchao lies beside the environment: wherever it is installed, diffusers imports it, which costs every run seconds.
test-slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --upgrade \
		--target .venv/gpu torchao
	OMP_NUM_THREADS=1 PYTHONPATH=.venv/gpu $(BIN)/pytest -n 2 -m "slow and not pip"

test-wheel: $(STAMP)
	$(BIN)/pytest -m pip tests/test_wheel.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "srum-plugins needs Python 3.11 or newer, and '$(PYTHON)' is not:" \
			"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
