# Every target makes the environment by itself when it is missing or the lock has changed.
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && echo $$p && break; done)
PRESET ?= emoji

export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast ui lint docs

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 14

demo: $(STAMP) ## Train everything on emoji and show the results (interrupt and repeat as you like)
	@$(BIN)/corgi demo --preset $(PRESET)

# Three processes of one thread each: many tests wait for others, and two threads each on two cores are ten times slower.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## Run all tests (the browser test needs chromium and says so)
	@$(PYTEST) tests

test-fast: $(STAMP) ## Run the unit tests only
	@$(PYTEST) tests -m unit

ui: $(STAMP) ## Serve Dagster and MLflow on this machine
	@exec $(BIN)/corgi ui --preset $(PRESET)

lint: $(STAMP) ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy corgi_core assets orchestration

docs: $(STAMP) ## Build the documentation into site/
	@[ -x $(BIN)/mkdocs ] || if command -v uv >/dev/null; then \
	  VIRTUAL_ENV=$(VENV) uv pip install --quiet -c requirements.lock -e '.[docs]'; \
	else \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'; \
	fi
	@$(BIN)/mkdocs build --strict

# The stamp holds the lock's digest, so that a checkout that only touches the lock installs nothing.
$(STAMP): requirements.lock pyproject.toml
	@digest=$$(cat requirements.lock pyproject.toml | sha256sum); \
	if [ "$$(cat $@ 2>/dev/null)" != "$$digest" ]; then \
	  [ -n "$(PYTHON)" ] || { \
	    echo "Corgi needs Python 3.11, 3.12 or 3.13: install one, or say make PYTHON=..."; exit 2; }; \
	  echo "Installing into $(VENV) (about three minutes) ..."; \
	  if command -v uv >/dev/null; then \
	    { [ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) $(VENV); } \
	    && VIRTUAL_ENV=$(VENV) uv pip install --quiet -r requirements.lock \
	    && VIRTUAL_ENV=$(VENV) uv pip install --quiet --no-deps -e .; \
	  else \
	    { [ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV); } \
	    && $(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock \
	    && $(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .; \
	  fi || exit 1; \
	  echo "$$digest" > $@; \
	else touch $@; fi
