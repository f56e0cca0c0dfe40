#!/usr/bin/env bash
# Writes requirements.lock: exact versions with the hashes of all platforms, and no word on where from.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PIP_FIND_LINKS  # a local folder of wheels would leave out the hashes of other platforms

.venv/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
    --extra dev --extra providers --extra otel --extra parquet \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate \
    --output-file requirements.lock pyproject.toml
