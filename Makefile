# Everything a newcomer runs. `make demo` and `make test` work on a machine with Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

FUZZ_SECONDS ?= 60

.PHONY: help setup demo demo-flare test test-all test-flare fuzz lint format docs release clean

help: ## Show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/.installed ## Make .venv with secfed and everything it needs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev,flare]'
	touch $@

demo: setup ## Five hospitals fine-tune a language model together (about six minutes)
	$(BIN)/secfed demo

demo-flare: setup ## A server and four hospitals as processes, over mutual TLS (about five minutes)
	$(BIN)/secfed federation demo

test: setup ## Every behaviour, on all cores (about eight minutes on two)
	$(BIN)/python -m pytest -n auto --maxprocesses 8

test-all: setup ## The same with every sweep, and a federation of processes (about twenty minutes on two)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m 'not flare' --hypothesis-profile sweep

test-flare: setup ## A federation of real processes: kills, cuts, strangers, refusals, leaks, a soak (about an hour)
	$(BIN)/python -m pytest -m flare

fuzz: setup ## Fuzz every parser, FUZZ_SECONDS=60 each; findings in runs/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

lint: setup ## Formatting, style, types and the direction of every import
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## The documentation as a site, in build/site
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

release: $(VENV)/.release ## Wheel, locks, SBOM and their digests, in dist, from the last commit
	$(BIN)/python -m release

$(VENV)/.docs $(VENV)/.release: $(VENV)/.%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

clean: ## Remove everything that make made
	rm -rf $(VENV) runs build dist *.egg-info
