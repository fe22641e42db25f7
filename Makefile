# Every target makes its own environment in .venv first, if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check format benchmark ci clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Make the environment in .venv (about 6 GB with torch)

# The stamp is newer than what it was made from, so a changed dependency installs again.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)  ## Convert the shipped network through a service of its own, and show what came back
	$(BIN)/momentum demo

serve: $(INSTALLED)  ## Start the service on http://127.0.0.1:8000 (broker, worker and database included)
	$(BIN)/momentum serve

# Two processes with a thread each: most tests wait for others, or are too small for two threads.
test: $(INSTALLED)  ## Run every test this machine can run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Format the source and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(INSTALLED)  ## Measure against the rivals: what is quick, or PART=name, full, list
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[benchmark]'
	$(BIN)/python -m tests.benchmarks $(PART)

ci: check test  ## What .ci/run runs

clean:  ## Remove the environment and all caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
