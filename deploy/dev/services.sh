# shellcheck shell=bash
# PostgreSQL and Kafka of an instance, started and stopped together.

# services_begin starts both in the background, so that a build can go on meanwhile; services_await joins them.
services_begin() {
    kafka_jars
    instance_prepare
    postgres_up &
    STARTING=($!)
    kafka_up &
    STARTING+=($!)
}

services_await() {
    local failed='' pid
    for pid in "${STARTING[@]}"; do wait "$pid" || failed=1; done
    STARTING=()
    [[ -z $failed ]] || die "a service did not start; what it said is above"
}

services_stop() {
    kafka_stop &
    postgres_stop
    wait
}

bring_up_services() {
    require_programs services
    instance_lock
    services_begin
    services_await
    instance_unlock
}

# The tests' services are new each time: what a killed run has left behind must not change the next one's outcome.
# `up --test` leaves them up on purpose; then the tests use them as they are.
test_services_up() {
    if [[ -e $INSTANCE_DIR/keep ]] && postgres_running && kafka_running; then
        say "Using the services that ./dev up --test has left up"
    else
        rm -f "$INSTANCE_DIR/keep"
        services_stop
        test_data_remove
    fi
    services_begin
    test_files_place
    # Other programs than ours read what we publish.
    with_lock venv-tests python_env venv-tests tests/requirements.txt
    services_await
}

# Where the tests' own files go, such as the logs of the processes that they start: beside the data, if that is in memory.
test_files_place() {
    [[ $DEV_POSTGRES_DIR == /dev/shm/* ]] || return 0
    export TMPDIR="$DEV_POSTGRES_DIR/tmp"
    rm -rf "$TMPDIR"
    mkdir -p "$TMPDIR"
    chmod 1777 "$TMPDIR"
}

test_services_keep() {
    require_programs services python kcat
    instance_lock
    test_services_up
    : >"$INSTANCE_DIR/keep"
    instance_unlock
    say "For a shell: eval \"\$(./dev env test)\""
}

test_data_remove() {
    rm -rf "$INSTANCE_DIR/keys" "$INSTANCE_DIR/keys-copy" "$KAFKA_DIR/data"
    [[ ${DEV_POSTGRES_DIR:-} ]] || return 0
    # What the server said is worth a look when a test has failed.
    [[ ! -e $DEV_POSTGRES_DIR/log ]] || mv "$DEV_POSTGRES_DIR/log" "$INSTANCE_DIR/postgres.log" || true
    rm -rf "$DEV_POSTGRES_DIR"
    unset DEV_POSTGRES_DIR
}
