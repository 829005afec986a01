#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks: compiler, GDAL, a Vulkan loader and, where there is no GPU, a
# software one beside the system. Source it: it leaves the variables cargo needs in the shell.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
for package in build-essential pkg-config libgdal-dev libhdf5-dev libvulkan1 mesa-vulkan-drivers; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}" >&2
    root apt-get update -qq
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    . "$HOME/.cargo/env"
fi
if ! command -v cargo >/dev/null; then
    echo "setup: no Rust toolchain; trying the distribution's rustup" >&2
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup >/dev/null && rustup default stable >/dev/null || {
        echo "setup: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later with rustup, then run this again" >&2
        exit 1
    }
fi

# A render node or an NVIDIA device is a GPU; otherwise llvmpipe does the work, and a new one does it far faster.
if [ -z "${CSMOE_RUNNER:-}" ] && ! ls /dev/dri/renderD* /dev/nvidia0 >/dev/null 2>&1; then
    if tools/software-gpu.sh install >&2; then
        eval "$(tools/software-gpu.sh env)"
    else
        echo "setup: going on with this system's own software GPU, which is several times slower" >&2
    fi
fi
