#!/usr/bin/env bash
# Makes .venv from requirements.lock, with the project in it (editable). Called by `make install`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=.install.log
stamp=.venv/.installed
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

# Debian keeps pip in packages of their own: one of them is unpacked here, which needs no root and changes no system.
fetch_pip() {
    local place=$PWD/.venv/bootstrap
    local apt=(apt-get -o "Dir::State=$place/state" -o "Dir::Cache=$place/cache" -o "Dir::State::status=/var/lib/dpkg/status")
    command -v apt-get >/dev/null || fail "this Python has no pip and cannot make one: install its ensurepip and venv modules"
    mkdir -p "$place/state/lists/partial" "$place/cache/archives/partial"
    (cd "$place" && "${apt[@]}" update && "${apt[@]}" download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .) >"$log" 2>&1 ||
        fail "this Python has no pip: run 'sudo apt-get install python3-venv' and try again (see $log)"
    PYTHONPATH=$(echo "$place"/usr/share/python-wheels/pip-*.whl)
    export PYTHONPATH
}

make_venv() {
    say "making .venv with $("$1" --version)"
    if "$1" -c 'import ensurepip' 2>/dev/null; then
        "$1" -m venv --clear .venv >"$log" 2>&1 || fail "could not make .venv: see $log"
    else
        "$1" -m venv --clear --without-pip .venv >"$log" 2>&1 || fail "could not make .venv: see $log"
        fetch_pip
    fi
}

last_error() { grep -i '^error' "$log" | tail -n1 | cut -c1-300 | grep . || tail -n1 "$log"; }

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@" >"$log" 2>&1 ||
        fail "pip failed: $(last_error) (all of it: $log)"
}

# Two at once would write into the same .venv: the second waits, and finds it done.
if command -v flock >/dev/null; then
    exec 9>.install.lock
    flock 9
fi
[ "$stamp" -nt requirements.lock ] && [ "$stamp" -nt pyproject.toml ] && exit 0

if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "bringing .venv up to date"
else
    make_venv "$(find_python)"
fi
pip_install --require-hashes -r requirements.lock
unset PYTHONPATH
pip_install --no-deps --no-build-isolation --editable .
rm -rf "$log" .venv/bootstrap
touch "$stamp"
say "done"
