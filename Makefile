.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/.installed  ## .venv with everything in it, .venv/bin/organism included

.venv/.installed: requirements.lock pyproject.toml
	@tools/install.sh

.PHONY: help install
