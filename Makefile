.DEFAULT_GOAL := help
BIN := .venv/bin
INSTALLED := .venv/.installed

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1 - \2/p' Makefile

install: $(INSTALLED)  ## .venv with everything in it, .venv/bin/organism included
	@echo "install: .venv/bin/organism is there"

demo: $(INSTALLED)  ## run the hello-world organism once, and show what it does
	@$(BIN)/python examples/hello-world/demo.py

up: $(INSTALLED)  ## run the hello-world organism until Ctrl-C, with its API on http://127.0.0.1:8080
	@$(BIN)/organism up --file examples/hello-world/organism.yaml --data .organism

# Tests wait more than they work: all of them run in a process more than there are cores, each with its broker and database.
test: $(INSTALLED)  ## run all tests; T='tests/unit -k name' runs some
	@$(BIN)/python -m pytest $(or $(T),--numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 4 --dist loadfile)

lint: $(INSTALLED)  ## ruff, mypy --strict, import-linter
	@tools/lint.sh

bench: $(INSTALLED)  ## measure, and print the figures with the machine's
	@$(BIN)/python -m tests.benchmarks

load: $(INSTALLED)  ## 2,000 threads on a fleet, a worker and a router killed midway
	@LOAD_THREADS=2000 $(BIN)/python -m pytest -s tests/chaos/test_killed_under_load.py

chaos: $(INSTALLED)  ## every fault under load, and what it cost; SHORT=1, FAULT=name SEED=n, FAULT=mix MINUTES=30, BUGS=1
	@$(BIN)/python -m tests.chaos

compose-test: $(INSTALLED)  ## docker compose up, scaled, broken and replaced under load, where a Docker engine answers
	@$(BIN)/python -m tests.compose

compose-images: $(INSTALLED)  ## have the images of compose-test there, and build the project's
	@$(BIN)/python -m tests.compose images

lock: $(INSTALLED)  ## pin the newest versions that pyproject.toml allows
	@tools/lock.sh

clean:  ## remove .venv, caches and the data of `make up`
	@rm -rf .venv .organism .install.log .install.lock .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@tools/install.sh

.PHONY: help install demo up test lint bench load chaos compose-test compose-images lock clean
