# What a person types. Everything runs in .venv, which `make setup` creates; it need not be activated.

PYTHON ?= python3
PORT ?= 5000
PARAMS ?=
SET ?=
METHODS ?=
JOBS ?= 1
BIN := .venv/bin

include .env
export DVC_NO_ANALYTICS MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK PREFECT_SERVER_ANALYTICS_ENABLED PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run table test test-services check readme ui

help: ## Show this list
	@echo "longtail: long-tailed recognition as one reproducible workflow"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  make run PARAMS=FILE   run another params file, in a clone of its own under .longtail/runs"
	@echo "  make run PARAMS=FILE SET=\"data.imbalance_factor=50 seeds=[0]\"   with some numbers changed"
	@echo "  make run PARAMS=FILE METHODS=ce,csa   some rows of it"
	@echo "  make ui PORT=5001      another port; make setup PYTHON=python3.12: another Python (3.11 or newer)"

setup: .venv/.installed ## Create .venv and install everything into it (once; a few minutes)
	@:

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11. Install a newer one, or name it: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments. On Debian: apt-get install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[workflow,services,dev]'
	@touch $@

run: setup ## Train what params.yaml says (only what changed) and print the leaderboard
	@$(BIN)/python -m $(if $(PARAMS)$(SET)$(METHODS),pipelines.clone "$(or $(PARAMS),params.yaml)" $(SET) \
	  $(if $(METHODS),--methods "$(METHODS)"),pipelines.repro)

table: setup ## Run what is missing of benchmarks/results/wanted.yaml, at low priority (days; stop at will)
	@$(BIN)/python -m pipelines.table --jobs $(JOBS)

test: setup ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-services: setup ## Run the tests with real servers: MLflow, Prefect, PostgreSQL, S3, a browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m services -rs --numprocesses 3 --dist loadfile --no-loadscope-reorder

readme: setup ## Write the leaderboard, the pictures and the table of methods into README.md
	@$(BIN)/python -m docs.update_readme

check: setup ## Lint, check the formatting, check the types (ruff, mypy --strict)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ui: setup ## Open MLflow on the results (stop it with Ctrl-C)
	@uri=$$($(BIN)/python -m longtail.tracking uri) || exit; file=$${uri#sqlite:///}; \
	case "$$uri" in \
	  http*) echo "The results are on a server: open the address in MLFLOW_TRACKING_URI."; exit 0 ;; \
	  sqlite:*) test -f "$$file" || { echo "No results yet: $$file does not exist. Run 'make run' first." >&2; exit 2; } ;; \
	esac; \
	echo "MLflow: http://127.0.0.1:$(PORT) (there choose 'Model training', then the experiment)"; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false exec $(BIN)/mlflow ui --backend-store-uri "$$uri" \
	  --host 127.0.0.1 --port $(PORT) --workers 1
