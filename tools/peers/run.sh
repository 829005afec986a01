#!/usr/bin/env bash
# A race of csmoe with its peers, forward and backward, on the same adapter in one run: burn (wgpu, fused and autotuned),
# meganeura (tuned), and JAX on the CPU as the bar of what the same processor can do. Results are compared first; then
# everybody's best variant runs in short bursts, in turns, so that a busy neighbour hurts all. The best burst counts.
#
#   tools/peers/run.sh              builds (long the first time) and prints one table
#   tools/peers/run.sh --json       the same as JSON
#   tools/peers/run.sh attention    cases of that name
#   BUILDS="fusion plain fusion,spirv" tools/peers/run.sh      burn without fusion and as SPIR-V too, each a build of its own
#
# On a machine without a GPU: tools/software-gpu.sh install; eval "$(tools/software-gpu.sh env)"
# CSMOE_CACHE   where JAX is installed (default: $XDG_CACHE_HOME/csmoe or ~/.cache/csmoe)
set -eu
cd "$(dirname "$(readlink -f "$0")")"

venv=${CSMOE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/csmoe}/peers-venv
if [ ! -e "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'jax[cpu]==0.10.2' numpy==2.4.6
    touch "$venv/ready"
fi

# burn's choices are made when it is built. Not --locked: csmoe's own dependencies may have changed since, the peers' stay pinned.
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/peers"
for build in ${BUILDS:-fusion}; do
    cargo build --quiet --release --target-dir "$target" --features "${build#plain}"
    cp "$target/release/csmoe-peers" "$target/peers/$build"
done
exec "$venv/bin/python" race.py "$(readlink -f "$target/peers")" "$@"
