# make demo | test | test-slurm | gpu | lint | clean | help. Each makes what it needs, from nothing, in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
REPORT := results/report.html
RESULTS = $(wildcard results/metrics.csv results/report/*)

# Trust what the system trusts, as pip does: networks with certificates of their own.
export UV_SYSTEM_CERTS ?= 1
# Large wheels on slow lines.
export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slurm gpu lint clean

help: ## Say what there is.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

install: $(INSTALLED) ## Install the locked packages and the project into .venv (5.7 GB).

$(INSTALLED): envs/bootstrap.lock requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another one, e.g. make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement envs/bootstrap.lock
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## From simulated fMRI to reconstructed images and a report.
	$(BIN)/snakemake --quiet host reason
	@$(MAKE) --no-print-directory $(REPORT)
	@echo "Report: $(CURDIR)/$(REPORT)"
	@echo "All test images: $(CURDIR)/results/gallery.html"
	@echo "Next: source .venv/bin/activate, then snakemake --configfile my.yaml or neuropictor --help"

# A second make reads which results there are after the chain has run.
$(REPORT): $(RESULTS)
	$(BIN)/snakemake --report $@

test: $(INSTALLED) ## All tests, the tiny chain among them, on two cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slurm: $(INSTALLED) ## The tiny chain on a Slurm of two nodes, which is installed and started for it (Debian, as root).
	$(BIN)/python -m pytest -m slurm

gpu: $(INSTALLED) ## On a GPU, in 7 minutes: is all right there, how fast is it, how much memory does it take.
	$(BIN)/python benchmarks/gpu.py --minutes 7 --out benchmarks/results/gpu.json

lint: $(INSTALLED) ## Style of Python and Snakemake files, and types of the library.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check --compact-diff Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/uv tool run basedpyright@1.40.2 --pythonpath $(BIN)/python

# Of data, what records and manifest say is simulated; links are not followed.
clean: ## Remove what was made of simulated data, not the environment; never NSD itself, scans of your own or what links lead to.
	rm -rf results logs .snakemake
	@for folder in data data/prepared data/nsd; do if [ -L $$folder ]; then echo "$$folder is a link: data are kept"; exit 0; fi; done; \
	[ -d data ] || exit 0; \
	{ grep -rls --include='*.run.json' '"data": "simulated"' data/prepared || true; } | while IFS= read -r record; do \
	  rm -f "$$record" "$${record%.run.json}.h5"; done; \
	if [ -e data/nsd/SIMULATED.json ] && [ -e data/nsd/manifest.jsonl ]; then \
	  sed -nE '/"checked": "simulated"/ s/^\{"key": "([^"]+)".*/\1/p' data/nsd/manifest.jsonl | { grep -vF .. || true; } | while IFS= read -r key; do \
	    rm -f "data/nsd/$$key"; done; \
	  [ "$$(find data/nsd ! -type d | wc -l)" -gt 2 ] || rm data/nsd/SIMULATED.json data/nsd/manifest.jsonl; fi; \
	find data -mindepth 1 -type d -empty -delete; \
	find data ! -type d | sort | sed 's/^/kept: /'
