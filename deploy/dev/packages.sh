# shellcheck shell=bash
# The programs that must be there: found, installed from Debian as root, or else named.

MISSING=()   # Debian packages

# require_programs WHAT...: of build, lints, services, bench_log, python, agent, kcat.
require_programs() {
    local what
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    MISSING=()
    for what in "$@"; do "missing_$what"; done
    if ((${#MISSING[@]})); then
        with_lock install packages_install
        MISSING=()
        for what in "$@"; do "missing_$what"; done
        ((${#MISSING[@]} == 0)) || die "still missing after the installation: ${MISSING[*]}"
    fi
    for what in "$@"; do
        [[ $what != build ]] || require_cargo
        [[ $what != lints ]] || require_lints
    done
}

have() { command -v "$1" >/dev/null 2>&1; }

# need PROGRAM PACKAGE
need() { have "$1" || MISSING+=("$2"); }

missing_build() {
    need gcc gcc
    need g++ g++
    need make make
    need perl perl
    need cmake cmake
    need pkg-config pkg-config
    need curl curl
    [[ -s /etc/ssl/certs/ca-certificates.crt ]] || MISSING+=(ca-certificates)
    # gcc alone is of no use without the C library's headers.
    [[ -e /usr/include/stdio.h ]] || MISSING+=(libc6-dev)
}

missing_lints() { :; }

missing_services() {
    need curl curl
    [[ $(postgres_bin) ]] || MISSING+=(postgresql)
    [[ $(java_program) ]] || MISSING+=(openjdk-17-jre-headless)
    kafka_jars_there || need mvn maven
}

# pgbench is in the same package as the server.
missing_bench_log() { [[ $(postgres_bin) ]] || MISSING+=(postgresql); }

missing_python() { python3 -c 'import ensurepip, venv' 2>/dev/null || MISSING+=(python3-venv); }

missing_agent() { python3 -c 'import http.server, json' 2>/dev/null || MISSING+=(python3); }

missing_kcat() { need kcat kcat; }

packages_install() {
    local command="apt-get install -y --no-install-recommends ${MISSING[*]}"
    have apt-get || die "missing: ${MISSING[*]} (these are Debian's names; install them, and call this again)"
    is_root || die "missing: ${MISSING[*]}. Install them with: sudo apt-get update && sudo $command"
    say "Installing ${MISSING[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    run_quietly "${apt[@]}" update
    cluster_main_prevent
    run_quietly "${apt[@]}" install -y --no-install-recommends "${MISSING[@]}"
    cluster_main_allow
}

# python_env NAME REQUIREMENTS: an environment of its own below .dev. The mark is a copy of what was asked for.
python_env() {
    local venv="$STATE/$1" wanted="$ROOT/$2"
    cmp -s "$wanted" "$venv/requirements.txt" && return
    say "Installing $(tr '\n' ' ' <"$wanted")into .dev/$1"
    rm -rf "$venv"
    python3 -m venv "$venv"
    run_quietly "$venv/bin/pip" install --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
}

# run_quietly COMMAND...: its output is only worth reading when it fails.
run_quietly() {
    local log
    log=$(mktemp)
    if ! run_child "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "this failed: $*"
    fi
    rm -f "$log"
}

# Debian starts a cluster `main` when its package comes. Nobody has asked for it here, so this keeps it from doing so
# for as long as our installation takes.
readonly CLUSTER_SETTING=/etc/postgresql-common/createcluster.d/annals-dev.conf

CLUSTER_PREVENTED=''

cluster_main_prevent() {
    [[ " ${MISSING[*]} " == *" postgresql "* ]] || return 0
    CLUSTER_PREVENTED=1
    mkdir -p "${CLUSTER_SETTING%/*}"
    echo 'create_main_cluster = false' >"$CLUSTER_SETTING"
}

cluster_main_allow() {
    [[ -z $CLUSTER_PREVENTED ]] || rm -f "$CLUSTER_SETTING"
    CLUSTER_PREVENTED=''
}

# Java 17 or newer: the one in PATH, else one that is installed beside it.
java_program() {
    local java
    for java in "$(command -v java)" /usr/lib/jvm/*/bin/java; do
        [[ -x $java ]] && java_new_enough "$java" && printf %s "$java" && return
    done
    return 0
}

java_new_enough() {
    local release version
    release=$(dirname "$(readlink -f "$1")")/../release
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$release" 2>/dev/null) || true
    [[ $version ]] || version=$("$1" -version 2>&1 | sed -n '1s/.*"\([0-9]*\).*/\1/p')
    [[ $version =~ ^[0-9]+$ ]] && ((version >= 17))
}

rust_version() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

cargo_new_enough() {
    local wanted found oldest
    wanted=$(rust_version)
    found=$(cargo --version 2>/dev/null | cut -d' ' -f2)
    oldest=$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)
    [[ $found && $oldest == "$wanted" ]]
}

# Debian's Rust is too old, so it comes from rustup. It goes to the user's home and changes no profile.
require_cargo() {
    cargo_new_enough && return
    local install="curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --no-modify-path"
    install+=" --profile minimal -c rustfmt -c clippy"
    if have rustup; then install="rustup toolchain install stable --profile minimal -c rustfmt -c clippy"; fi
    is_root || die "Rust $(rust_version) or a newer one is missing. Install it with: $install"
    say "Installing Rust"
    run_quietly bash -o pipefail -c "$install"
    hash -r
    cargo_new_enough || export RUSTUP_TOOLCHAIN=stable
    cargo_new_enough || die "cargo is still older than $(rust_version)"
}

require_lints() {
    local part
    for part in fmt clippy; do
        cargo "$part" --version >/dev/null 2>&1 && continue
        is_root && have rustup && run_quietly rustup component add "${part/fmt/rustfmt}" && continue
        die "cargo $part is missing. Install it with: rustup component add ${part/fmt/rustfmt}"
    done
}
