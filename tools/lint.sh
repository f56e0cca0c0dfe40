#!/usr/bin/env bash
# Runs every check, also after one has failed. Called by `make lint`.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
check() {
    printf 'lint: %s\n' "$*"
    ".venv/bin/$1" "${@:2}" || failed+=("$*")
}

check ruff check .
check ruff format --check .
check mypy
# Each service is a script named main.py: mypy takes one module of a name at a time.
for script in services/*/main.py services/probe.py examples/*/; do
    [ -e "$script" ] && check mypy "$script"
done
check lint-imports

[ ${#failed[@]} -eq 0 ] && exec echo "lint: all clean"
printf 'lint: failed: %s\n' "${failed[@]}" >&2
exit 1
