# shellcheck shell=bash
# Load on the Annals that runs here, and the log beside its peers. Both are in a workspace of their own below bench/.

cmd_bench() {
    if [[ ${1:-} == log ]]; then
        shift
        bench_log "$@"
        return
    fi
    instance_use run
    bring_up
    # A year can pass for a tenant alone that was made for tests; it is made anew each time.
    tenant_make bench "$INSTANCE_DIR/bench.json" --test
    local test_key
    test_key=$(json_text "$(<"$INSTANCE_DIR/bench.json")" key)
    say "Building the load generator"
    bench_build
    # The key goes through the environment: arguments are for all to see.
    ANNALS_URL="http://$ANNALS_LISTEN" ANNALS_KEY="$TENANT_KEY" ANNALS_TEST_KEY="$test_key" run_child "$ROOT/target/bench/debug/bench" "$@"
}

bench_build() { run_child cargo build --manifest-path "$ROOT/bench/Cargo.toml" --target-dir "$ROOT/target/bench" "$@"; }

# A PostgreSQL of its own, durable, made new and removed at the end: what the log and its peers share, and nobody else.
bench_log() {
    local argument arguments=() ram='' help=''
    for argument in "$@"; do
        case $argument in
            --ram) ram=1 ;;
            -h | --help) help=1 ;&
            *) arguments+=("$argument") ;;
        esac
    done
    instance_use bench
    require_programs build bench_log
    say "Building the log's benchmark, optimised"
    bench_build --release -p bench-log
    local program="$ROOT/target/bench/release/bench-log"
    if [[ $help ]]; then
        "$program" --help
        return
    fi
    instance_lock
    bench_log_forget
    [[ -z $ram ]] || DEV_POSTGRES_DIR=$(mktemp -d /dev/shm/annals-dev-bench.XXXXXX)
    [[ -z $ram ]] || chmod 755 "$DEV_POSTGRES_DIR"
    instance_prepare
    postgres_up
    BENCH_POSTGRES_BIN=$(postgres_bin) BENCH_PLACE=$(bench_log_place "$ram") run_child "$program" "${arguments[@]}"
}

bench_log_place() { if [[ $1 ]]; then printf 'in memory'; else printf 'on disk'; fi; }

# What a killed run has left behind.
bench_log_forget() {
    postgres_stop
    bench_data_remove
    unset "${INSTANCE_SETTINGS[@]}"
}

bench_data_remove() {
    [[ -z ${DEV_POSTGRES_DIR:-} ]] || rm -rf "$DEV_POSTGRES_DIR"
    rm -rf "$INSTANCE_ENV" "$INSTANCE_DIR/keys" "$INSTANCE_DIR/keys-copy" "$INSTANCE_DIR/root.key"
}
