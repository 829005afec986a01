#!/usr/bin/env bash
# A software GPU beside the system: Mesa's newest llvmpipe (Vulkan on the CPU), for machines without a GPU and for tests.
#
#   tools/software-gpu.sh install            fetch it once (80 MB down, 380 MB on disk), say which version is there
#   tools/software-gpu.sh run PROGRAM ARGS   run PROGRAM on it (install first)
#   tools/software-gpu.sh env                shell exports: `eval "$(tools/software-gpu.sh env)"; cargo test` runs on it
#   tools/software-gpu.sh remove             forget it; the next install fetches the newest again
#
# Debian's own, older driver needs none of this: `apt-get install mesa-vulkan-drivers`, and do not use `run`.
#
# Nothing of the system is changed and root is not needed. The driver and every library it needs, libc included, come
# from the distribution's development suite by the machine's own mirror and keyring, and are unpacked into a folder.
# A program is started by that folder's loader, which takes libraries from there first, then from the system.
# What follows from that, for a program under `run`:
# - /proc/self/exe (Rust's current_exe) is the loader, not the program;
# - its children are ordinary processes again, which cannot load this driver: start them by $CSMOE_RUNNER
#   ("software-gpu.sh run", split at the space), which `run` and `env` set;
# - a driver chosen by the user (VK_DRIVER_FILES or VK_ICD_FILENAMES) stays chosen.
#
# CSMOE_CACHE    where the folder lies (default: $XDG_CACHE_HOME/csmoe or ~/.cache/csmoe)
# CSMOE_SUITE    the suite to take it from (default: testing on Debian, devel on Ubuntu)
set -eu

self=$(readlink -f "$0")
home=$(realpath -m "${CSMOE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/csmoe}/software-gpu")
root=$home/root     # the unpacked packages
lib=$root/usr/lib/x86_64-linux-gnu
icd=$root/lvp_icd.json

die() {
    echo "software-gpu: $*" >&2
    exit 1
}

check_machine() {
    id='' VERSION_CODENAME=''
    # shellcheck disable=SC1091
    if [ -r /etc/os-release ]; then . /etc/os-release; id=${ID:-}; fi
    case $id/$(uname -m) in
        debian/x86_64) suite=testing components='main' ;;
        ubuntu/x86_64) suite=devel components='main universe' ;; # should work, never tried
        *) die "needs Debian or Ubuntu on x86_64 (this is ${id:-unknown} on $(uname -m)); install your system's Vulkan driver instead" ;;
    esac
    suite=${CSMOE_SUITE:-$suite}
    keyring=/usr/share/keyrings/$id-archive-keyring.gpg
    [ -r "$keyring" ] || die "no keyring at $keyring: install $id-archive-keyring or ubuntu-keyring"
    command -v apt-get dpkg-deb flock >/dev/null || die "needs apt-get, dpkg-deb and flock"
}

# The mirrors of the machine's own release.
mirrors() {
    apt-get update --print-uris 2>/dev/null |
        sed -n "s,^'\(.*\)/dists/\($VERSION_CODENAME\|stable\|testing\|unstable\|sid\|devel\)/InRelease'.*,\1,p" | uniq
}

# An apt of our own in folder $1, as if nothing were installed; proxies and the like stay the machine's. A mirror that lags
# behind its release's date will do: signatures are checked all the same.
private_apt() {
    mkdir -p "$1/lists/partial" "$1/debs/partial"
    : >"$1/status"
    cat >"$1/apt.conf" <<-END
	Dir::State "$1";
	Dir::State::lists "$1/lists";
	Dir::State::status "$1/status";
	Dir::Cache "$1";
	Dir::Cache::archives "$1/debs";
	Dir::Log "$1";
	Dir::Etc::sourcelist "$1/sources.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::Etc::preferences "/dev/null";
	Dir::Etc::preferencesparts "/dev/null";
	APT::Architecture "amd64";
	APT::Install-Recommends "false";
	APT::Sandbox::User "";
	Acquire::Check-Valid-Until "false";
	#clear APT::Update;
	#clear DPkg;
	END
}

# Packages into folder $1.
download() {
    private_apt "$1"
    fetched=''
    for mirror in $(mirrors); do
        echo "deb [arch=amd64 target=Packages signed-by=$keyring] $mirror $suite $components" >"$1/sources.list"
        if apt-get -qq -c "$1/apt.conf" --error-on=any update >"$1/log" 2>&1; then fetched=yes; break; fi
    done
    [ -n "$fetched" ] || die "no mirror of this machine gave suite '$suite': $(grep -m1 '^E' "$1/log" 2>/dev/null || echo 'none configured')"
    apt-get -qq -c "$1/apt.conf" --yes --download-only install mesa-vulkan-drivers >"$1/log" 2>&1 ||
        die "download failed: $(grep -m1 '^E' "$1/log" || tail -n1 "$1/log")"
    rm -rf "$1/debs/partial" "$1/debs/lock"
    [ -e "$(echo "$1"/debs/mesa-vulkan-drivers_*.deb)" ] || die "apt left no packages (a file: mirror?)"
}

# Packages from folder $1 unpacked into $2, which will be $root.
unpack() {
    for deb in "$1"/*.deb; do dpkg-deb -x "$deb" "$2"; done
    rm -rf "$2/usr/share/doc" "$2/usr/share/locale"
    manifest=$(echo "$2"/usr/share/vulkan/icd.d/lvp_icd*.json)
    [ -f "$manifest" ] || die "the driver package holds no lvp_icd.json"
    sed "s,\"library_path\": *\"[^\"]*\",\"library_path\": \"$lib/libvulkan_lvp.so\"," "$manifest" >"$2/lvp_icd.json"
    dpkg-deb -f "$1"/mesa-vulkan-drivers_*.deb Version >"$2/version"
}

install() {
    if [ ! -e "$root" ]; then
        check_machine
        mkdir -p "$home"
        exec 9>"$home/lock"
        flock 9
    fi
    if [ ! -e "$root" ]; then # still, now that nobody else installs
        rm -rf "$home"/tmp.*
        tmp=$(mktemp -d "$home/tmp.XXXXXX")
        trap 'rm -rf "$tmp"' EXIT
        if [ ! -e "$home/debs" ]; then
            echo "software-gpu: fetching Mesa's llvmpipe from '$suite' ..." >&2
            download "$tmp"
            mv "$tmp/debs" "$home/debs"
        fi
        mkdir "$tmp/root"
        unpack "$home/debs" "$tmp/root"
        mv "$tmp/root" "$root"
    fi
    echo "Mesa $(cat "$root/version") llvmpipe in $root"
}

run() {
    [ $# -gt 0 ] || die "run what? usage: $0 run PROGRAM ARGS..."
    [ -e "$root" ] || die "not installed yet: $self install"
    program=$(command -v -- "$1") || die "$1: not found"
    shift
    if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
        export VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd"
    fi
    export CSMOE_RUNNER="$self run"
    # --library-path stands in for LD_LIBRARY_PATH (cargo sets one), which children keep as it is.
    exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$program" "$@"
}

env() {
    echo "export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='$self run'"
    echo "export CSMOE_RUNNER='$self run'"
}

case ${1:-} in
    install | env) "$1" ;;
    run) shift; run "$@" ;;
    remove) rm -rf "$home" ;;
    *) sed -n '4,7s/^# *//p' "$self" >&2; exit 2 ;;
esac
