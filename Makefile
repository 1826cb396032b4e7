# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OPS_INSTALLED := $(VENV)/.installed-ops

.DEFAULT_GOAL := help
.PHONY: help demo test test-ops soak serve bench bench-quick lint types contracts check clean

help:  ## what can be made here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "cordboard needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

demo: $(INSTALLED)  ## start an engine, allocate, place simulated calls, show every hop
	$(BIN)/cordboard demo

# A file is one process's, for the engine that its tests share; more than four servers help nobody.
test: $(INSTALLED)  ## the whole test suite, on the real embedded PostgreSQL
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TEST_ARGS)

$(OPS_INSTALLED): $(INSTALLED) $(wildcard tests/ops/install_*.sh)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,ops]'
	@for script in tests/ops/install_*.sh; do $$script || exit 1; done
	@touch $@

test-ops: $(OPS_INSTALLED)  ## the tests that need a browser and other programs; as root it installs them
	$(BIN)/python -m pytest -m ops tests/ops $(TEST_ARGS)

soak: $(INSTALLED)  ## kill the engine a thousand times, and its database 500 times; an hour
	CORDBOARD_SOAK_KILLS=$${CORDBOARD_SOAK_KILLS:-1000} $(BIN)/python -m pytest -s tests/journeys/test_kill.py $(TEST_ARGS)

serve: $(INSTALLED)  ## run the engine on 127.0.0.1:8080 with its data in ./data
	$(BIN)/cordboard serve --host 127.0.0.1 --port 8080 --data-dir ./data

bench: $(INSTALLED)  ## measure everything: benchmarks/report.html and report.json; hours, and 60 GB of disk
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(INSTALLED)  ## the same at small sizes, in under 3 minutes: benchmarks/report-quick.html
	$(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

contracts: $(INSTALLED)
	$(BIN)/lint-imports

check: lint types contracts test  ## everything that CI checks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
