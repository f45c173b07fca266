# Targets set up .venv first if it is missing or the pinned versions have changed. The set-up uses uv if it is installed,
# else python3 (3.11 or newer, with venv) and pip.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TENSORFLOW ?= tensorflow-cpu
ADAPTERS ?= accelerate==1.15.0 lightning==2.6.6 pytorch-lightning==2.6.6 optax==0.2.8 transformers==5.24.0
BIN := .venv/bin
INSTALLED := .venv/installed
UV := $(shell command -v uv)

.DEFAULT_GOAL := help
.PHONY: help demo test adapters proof lint serve backends requirements

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Train real Keras models through a service on this machine (under a minute)
	$(BIN)/remotelr demo

test: $(INSTALLED) ## Run all tests, on SQLite and on a PostgreSQL that the tests start
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Not in .venv: a resolver would take the CUDA build of torch.
adapters: $(INSTALLED) ## Run the tests of PyTorch, Lightning, transformers and optax, in an environment of their own
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --upgrade pip
	.venv-torch/bin/python -m pip install --quiet --editable clients --editable . --group test '$(TORCH)' $(ADAPTERS)
	KERAS_BACKEND=jax .venv-torch/bin/python -m pytest --numprocesses=2 --dist=loadfile \
		tests/pytorch tests/lightning tests/transformers tests/optax

proof: $(INSTALLED) ## Run the fault-injection tests on real services (half an hour)
	REMOTELR_PROOF=1 $(BIN)/python -m pytest tests/reliability

lint: $(INSTALLED) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

backends: adapters ## Run the tests of all adapters, and the Keras tests on torch and on TensorFlow
	for backend in torch tensorflow; do \
		$(PYTHON) -m venv .venv-$$backend && \
		.venv-$$backend/bin/python -m pip install --quiet --upgrade pip && \
		.venv-$$backend/bin/python -m pip install --quiet --editable clients --editable . --group test \
			$$(test $$backend = torch && echo '$(TORCH)' || echo '$(TENSORFLOW)') && \
		KERAS_BACKEND=$$backend .venv-$$backend/bin/python -m pytest -W ignore::DeprecationWarning tests/keras || exit 1; \
	done

serve: $(INSTALLED) ## Start the service on a file, remotelr.db
	$(BIN)/remotelr serve

bench: $(INSTALLED) ## Run the benchmarks (15 minutes)
	$(BIN)/python -m benchmarks

requirements: $(INSTALLED) ## Update all dependencies (needs uv)
	$(BIN)/python requirements/compile.py

# Two steps: pip rejects local folders together with requirements with hashes.
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
