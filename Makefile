# Every target does the set-up it needs: `make repro` and `make test` work on a fresh machine with Python 3.11.
# The environment is made once per change of requirements.lock or pyproject.toml; the stamp file remembers.

VENV  := .venv
BIN   := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
NB    ?= vtw
MODEL ?= llava_1_5_7b
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Threads that wait actively stand in each other's way where cores are few.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup repro replicate verify test lint report play pocket pocket-data clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install the locked packages and thinsight itself

$(READY): requirements.lock pyproject.toml
	@.ci/venv $(VENV)
	@touch $@

repro: $(READY) ## Run whatever changed, from configs to reports/index.html (notebooks are stripped of outputs first)
	nbstripout --keep-id notebooks/*.ipynb
	.ci/repro
	@echo "Open reports/index.html"

replicate: $(READY) ## A model's rows of the papers' tables, its baseline first: make replicate MODEL=llava_1_5_7b
	@python -m thinsight.replicate model=$(MODEL) $(ARGS)

verify: $(READY) ## Compare the results just made with those in git, run by run
	@python -m thinsight.pipeline.verify

test: export OMP_NUM_THREADS := 1
test: $(READY) ## Run the tests, two at a time
	@.ci/browser
	python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

lint: $(READY) ## Check style by ruff, and that packages import downwards only
	ruff check .
	ruff format --check .
	lint-imports

report: $(READY) ## Write the pages again from the executed notebooks
	dvc repro --force --single-item page index

play: $(READY) ## Open a copy of a notebook that git and the pipeline ignore: make play NB=vtw
	@test -f notebooks/$(NB).ipynb || { echo "error: no notebook $(NB); there are: $(basename $(notdir $(wildcard notebooks/*.ipynb)))" >&2; exit 2; }
	@mkdir -p play && test -f play/$(NB).ipynb || cp notebooks/$(NB).ipynb play/
	jupyter lab play/$(NB).ipynb

pocket: $(READY) ## Train the model in the box again (two hours on 2 cores; resumes where it stopped)
	python -m thinsight.pocket
	dvc commit --force pocket

pocket-data: $(READY) ## Write the model's test and calibration questions again (they are frozen: this must change nothing)
	python -m thinsight.pocket.freeze
	dvc commit --force pocket-data

clean: ## Remove what the pipeline made, but not the environment, DVC's cache or the model
	git clean -fdXq reports play dvc_plots data/runs .thinsight/journal
