#!/usr/bin/env bash
# Resolve pyproject.toml and the *.in files anew and rewrite the locked requirements: pins and hashes,
# no addresses. Needs uv. The container images and `make setup` install exactly these files.
set -euo pipefail
cd "$(dirname "$0")/../.."
export_set() {
    uv export --frozen --quiet --format requirements-txt --no-emit-project --no-emit-index-url \
        --no-annotate --no-header "${@:2}" --output-file "docker/requirements/$1.txt"
}
# Sets of their own: compile_set NAME [PACKAGE that has no wheel, into NAME-source.txt]
compile_set() {
    local options=(--quiet --no-config --generate-hashes --no-emit-index-url --no-annotate --no-header
        --python-version 3.11 --python-platform x86_64-manylinux_2_36)
    local whole=docker/requirements/.whole.txt
    uv pip compile "${options[@]}" "docker/requirements/$1.in" --output-file "$whole" >/dev/null
    awk -v name="${2:--}" '/^[^ ]/ { skip = index($0, name "==") == 1 } !skip' "$whole" \
        >"docker/requirements/$1.txt"
    if [ $# -gt 1 ]; then
        awk -v name="$2" '/^[^ ]/ { take = index($0, name "==") == 1 } take' "$whole" \
            >"docker/requirements/$1-source.txt"
    fi
    rm "$whole"
}
trap 'rm -f uv.lock docker/requirements/.whole.txt' EXIT
uv lock "$@"
export_set core
export_set run --extra run
export_set dev --extra run --extra dev
export_set cuda --extra run --extra cuda
compile_set robotwin-cuda toppra
compile_set build
