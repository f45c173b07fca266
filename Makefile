# Set-up happens by itself before whatever needs it, and again only when the pinned versions change.
# uv does it where there is one; otherwise python3 (3.11 or newer, with venv) and pip do.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TENSORFLOW ?= tensorflow-cpu
BIN := .venv/bin
INSTALLED := .venv/installed
UV := $(shell command -v uv)

.DEFAULT_GOAL := help
.PHONY: help demo test proof lint serve backends requirements

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Train real Keras models through a service on this machine (under a minute)
	$(BIN)/remotelr demo

test: $(INSTALLED) ## Run every test, on SQLite and on a PostgreSQL that the tests start themselves
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

proof: $(INSTALLED) ## Kill, race and cut off real services for half an hour, and print what was seen
	REMOTELR_PROOF=1 $(BIN)/python -m pytest tests/reliability

lint: $(INSTALLED) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Never into .venv: a resolver takes torch's and tensorflow's CUDA builds where it can.
backends: $(INSTALLED) ## Run the real fits on torch and on TensorFlow, each in an environment of its own
	for backend in torch tensorflow; do \
		$(PYTHON) -m venv .venv-$$backend && \
		.venv-$$backend/bin/python -m pip install --quiet --upgrade pip && \
		.venv-$$backend/bin/python -m pip install --quiet --editable clients --editable . --group test \
			$$(test $$backend = torch && echo '$(TORCH)' || echo '$(TENSORFLOW)') && \
		KERAS_BACKEND=$$backend .venv-$$backend/bin/python -m pytest -W ignore::DeprecationWarning tests/keras || exit 1; \
	done

serve: $(INSTALLED) ## Start the service on a file, remotelr.db
	$(BIN)/remotelr serve

bench: $(INSTALLED) ## Measure speed and growth beside an echo, pgbench and an empty database (some 15 minutes)
	$(BIN)/python -m benchmarks

requirements: $(INSTALLED) ## Take the newest version of every dependency (needs uv)
	$(BIN)/python requirements/compile.py

# Two steps: pip refuses folders of this repository beside requirements with hashes.
$(INSTALLED): requirements/dev.txt pyproject.toml clients/pyproject.toml
ifdef UV
	uv venv --quiet --allow-existing --python '>=3.11' .venv
	uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable clients --editable .
else
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable clients --editable .
endif
	@touch $@
