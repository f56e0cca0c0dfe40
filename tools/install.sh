#!/usr/bin/env bash
# Makes .venv from requirements.lock, with the project in it (editable). Called by `make install`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=.install.log
say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if recent_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python3"
}

# Debian ships python3 without ensurepip; the package is named after the version.
require_ensurepip() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    local package
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "this Python cannot make a virtual environment: run 'sudo apt-get install $package' and try again"
    fi
    say "installing $package with apt-get"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "$package"; } >"$log" 2>&1 ||
        fail "apt-get could not install $package: see $log"
}

last_error() { grep -i '^error' "$log" | tail -n1 | cut -c1-300 | grep . || tail -n1 "$log"; }

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@" >"$log" 2>&1 ||
        fail "pip failed: $(last_error) (all of it: $log)"
}

python=$(find_python)
require_ensurepip "$python"
if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "bringing .venv up to date"
else
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv >"$log" 2>&1 || fail "could not make .venv: see $log"
fi
pip_install --require-hashes -r requirements.lock
pip_install --no-deps --no-build-isolation --editable .
rm -f "$log"
touch .venv/.installed
say "done: .venv/bin/organism"
