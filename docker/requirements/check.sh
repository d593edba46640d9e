#!/usr/bin/env bash
# See that every locked set can still be had, for Python 3.11 on Linux x86-64, each file with a hash that
# is in the lock: check.sh [--download] [FILE...]
# By default the index is asked, with uv (seconds); with --download every file is fetched with pip and
# hashed, one set after the other (some 15 GB for all, through a temporary folder).
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
download=
if [ "${1:-}" = --download ]; then
    download=yes
    shift
fi
[ $# -gt 0 ] || set -- *.txt
for file in "$@"; do
    wheels=(--only-binary :all:)
    [[ $file != *-source.txt ]] || wheels=(--no-binary :all: --no-build-isolation)
    if [ -n "$download" ]; then
        python3.11 -m pip download --quiet --no-deps --require-hashes "${wheels[@]}" \
            --dest "$work/$file" --requirement "$file"
        echo "$file: $(find "$work/$file" -type f | wc -l) files downloaded, hashes as locked"
        rm -rf "${work:?}/$file"
    else
        said=$(uv pip install --dry-run --no-config --no-deps --require-hashes "${wheels[@]}" \
            --python-version 3.11 --python-platform x86_64-manylinux_2_36 --target "$work/none" \
            --requirement "$file" 2>&1) || { echo "$file: $said" >&2; exit 1; }
        echo "$file: $(grep --only-matching --extended-regexp 'Resolved [0-9]+ packages?' <<<"$said")"
    fi
done
