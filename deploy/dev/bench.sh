# shellcheck shell=bash
# Load on the Annals that runs here. The generator is a workspace of its own below bench/.

cmd_bench() {
    instance_use run
    bring_up
    # A year can pass for a tenant alone that was made for tests; it is made anew each time.
    tenant_make bench "$INSTANCE_DIR/bench.json" --test
    local test_key
    test_key=$(json_text "$(<"$INSTANCE_DIR/bench.json")" key)
    say "Building the load generator"
    run_child cargo build --manifest-path "$ROOT/bench/Cargo.toml" --target-dir "$ROOT/target/bench"
    # The key goes through the environment: arguments are for all to see.
    ANNALS_URL="http://$ANNALS_LISTEN" ANNALS_KEY="$TENANT_KEY" ANNALS_TEST_KEY="$test_key" run_child "$ROOT/target/bench/debug/bench" "$@"
}
