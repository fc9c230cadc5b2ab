# make setup   the environment .venv, from the hash-locked set
# make demo    trains, evaluates, promotes, predicts a folder, says where everything is
# make test    the tests, with branch coverage;  make check  lint, types, import layers and these tests
# make test-rest  what `make test` leaves out: browser, PostgreSQL, campaigns of faults and concurrency;  make test-all  both
# make wheel   dist/digits-VERSION-py3-none-any.whl, with the files of `digits init`
# make bench   the measurements behind the numbers in the README
# make lock    resolves what pyproject.toml asks for, and keeps the versions that still fit; make upgrade takes the newest
# make audit   known vulnerabilities of what is locked;  make licences  writes docs/licences.md

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -W ignore::SyntaxWarning -m
READY := .venv/.ready
LOCK := requirements.lock
RESOLVE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras --python-version 3.11 --no-header pyproject.toml

.PHONY: setup demo test test-rest test-all lint check wheel bench lock upgrade audit licences clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and f"Digits needs Python 3.11 or newer, found {sys.version.split()[0]}; name another one with make PYTHON=...")'
	@echo "Setting up .venv from requirements.lock (some 2 GB, a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(BIN)/python -m compileall -q digits flows tasks
	@touch $(READY)

demo: setup
	@$(BIN)/digits demo

REST := browser or postgres or campaign or slow

test: setup
	@$(RUN) pytest -n 2 --no-loadscope-reorder -m "not ($(REST))" --cov --cov-report=term

test-rest: setup
	@$(RUN) pytest -m "$(REST)"

test-all: test test-rest

lint: setup
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(BIN)/lint-imports

check: lint test

wheel: setup
	@rm -rf build
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

bench: setup
	@$(RUN) benchmarks

lock upgrade: setup
	@$(RESOLVE) $(if $(filter upgrade,$@),--upgrade) --extra train --extra flows --extra parquet --extra pdf --extra dev -o $(LOCK)
	@$(RESOLVE) --no-annotate -c $(LOCK) --extra flows --extra parquet -o $(dir $(LOCK))requirements-predict.lock
	@$(RESOLVE) --no-annotate -c $(LOCK) --extra flows --extra parquet --extra train -o $(dir $(LOCK))requirements-train.lock
	@$(RESOLVE) --no-annotate -c $(LOCK) --extra flows --extra parquet --extra heif --extra pdf -o $(dir $(LOCK))requirements-formats.lock

# What does not concern Digits is passed over by --ignore-vuln ID, with the reason and the date here.
audit: setup
	@$(RUN) tools.audit

licences: setup
	@$(RUN) tools.licences

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
