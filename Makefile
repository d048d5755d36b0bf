# Two commands: `make demo` aligns the shipped generator and shows the proof, `make test` runs every test.
# Both build .venv from constraints.txt and reuse it until constraints.txt or pyproject.toml change.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
HASH := $(shell cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)
# One thread per process: OpenMP's spinning makes tiny models up to a hundred times slower on a busy machine.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test check format chromium clean

demo: .venv/.run-$(HASH)
	$(BIN)/soralign demo --out runs/demo

test: .venv/.test-$(HASH) chromium
	$(PYTEST)

check: .venv/.test-$(HASH)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow" -n 2 --dist loadfile

format: .venv/.test-$(HASH)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "soralign: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -1); try make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "soralign: $(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.run-$(HASH): | $(BIN)/python
	rm -f .venv/.run-* .venv/.test-*
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.test-$(HASH): | $(BIN)/python
	rm -f .venv/.run-* .venv/.test-*
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ .venv/.run-$(HASH)

# The browser tests drive the system's Chromium. Installed where we may; where not, those tests are skipped.
chromium:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	become=; if [ "$$(id -u)" != 0 ]; then become="sudo -n"; fi; \
	if command -v apt-get >/dev/null && $$become true 2>/dev/null; then \
	  echo "installing chromium for the browser tests"; \
	  $$become apt-get update -qq && $$become env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends chromium >/dev/null && exit 0; fi; \
	echo "soralign: no chromium here and none could be installed; the browser tests will be skipped"
