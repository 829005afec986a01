#!/usr/bin/env bash
# Installs what is missing and runs every test.
set -eu
cd "$(dirname "$0")/.."
. tools/setup.sh

run() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast "$@"
    else
        cargo test --release --no-fail-fast "$@"
    fi
}

# The full-size model is slow on a CPU, so it is asked for: CSMOE_SLOW=1.
run "$@"
