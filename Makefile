# make demo | test | check | bench [ONLY=foundation|governance|mainjob|network|sealing] | soak | lock
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test check bench soak lock clean
demo: $(VENV)/installed
	@$(BIN)/wardround demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -q -n auto -m "not slow"

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n auto
	$(BIN)/python -m tests.wheel

bench: $(VENV)/dev
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

soak: $(VENV)/fuzz
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -n auto
	$(BIN)/python -W ignore -m tests.fuzz --seconds 10
	$(BIN)/python -W ignore -m tests.chaos --runs 100

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wardround needs Python 3.11 or newer; set PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[report]'
	@touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/fuzz: $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@touch $@

lock: $(VENV)/dev
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --no-header --no-annotate --no-emit-index-url pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
