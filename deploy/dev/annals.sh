# shellcheck shell=bash
# Annals itself: built, migrated, started, waited for, stopped.

# The program's place, which CARGO_TARGET_DIR and cargo's configuration may move.
annals_binary() {
    local target
    target=$(cargo metadata --no-deps --offline --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    printf %s "$target/$([[ ${DEV_RELEASE:-} ]] && printf release || printf debug)/annals"
}

# The whole workspace decides on the features, so that run and test share what they build.
annals_build() {
    say "Building Annals"
    run_child cargo build --workspace --bin annals ${DEV_RELEASE:+--release} || die "the build failed"
    ANNALS_BIN=$(annals_binary)
    [[ -x $ANNALS_BIN ]] || die "the build made no $ANNALS_BIN"
}

# The pid file has the pid and the command line that it was started with.
annals_running() {
    local pid='' line=''
    { read -r pid && read -r line; } 2>/dev/null <"$INSTANCE_DIR/annals.pid" || return 1
    process_is "$pid" "$line"
}

annals_start() {
    local log="$INSTANCE_DIR/annals.log"
    # A log that has grown long makes room; one before it is kept.
    [[ -e $log && $(stat -c %s "$log") -gt 50000000 ]] && mv "$log" "$log.1"
    "$ANNALS_BIN" migrate >>"$log" 2>&1 </dev/null || annals_failed "the migration failed"
    started annals
    spawn "$log" "$ANNALS_BIN" all
    ANNALS_CHILD=$SPAWNED
    printf '%s\n' "$ANNALS_CHILD" "$ANNALS_BIN all" >"$INSTANCE_DIR/annals.pid"
    annals_await
}

# Requests are served, and the projectors are at work: a first look at a list must not find it empty.
annals_ready() {
    local health
    health=$(curl -fsS --max-time 5 "http://$ANNALS_LISTEN/health/ready" 2>/dev/null) || return 1
    [[ $health != *'"state":"standby"'* && $health != *'"state":"catching_up"'* ]]
}

annals_await() {
    local end=$((SECONDS + 60))
    # Between our fork and the program that it becomes there is a moment without its name.
    sleep 0.1
    until annals_ready; do
        annals_running || annals_failed "Annals ended before it was ready"
        ((SECONDS < end)) || annals_failed "Annals was not ready within 60 s: $(annals_health)"
        sleep 0.1
    done
}

annals_health() { curl -sS --max-time 5 "http://$ANNALS_LISTEN/health/ready" 2>&1; }

annals_failed() {
    tail -n 30 "$INSTANCE_DIR/annals.log" >&2
    die "$1; the end of .dev/$INSTANCE/annals.log is above"
}

# It finishes what it has begun, for which it may take its time.
annals_stop() {
    local pid line
    annals_running || return 0
    { read -r pid && read -r line; } <"$INSTANCE_DIR/annals.pid"
    process_end "$pid" "$line" TERM 30
    rm -f "$INSTANCE_DIR/annals.pid"
}

# In front: until Ctrl-C, or until Annals ends.
annals_attend() {
    local status=0
    wait "$ANNALS_CHILD" || status=$?
    ((status == 0)) || annals_failed "Annals ended with status $status"
    say "Annals was stopped"
}

# Services, build and Annals. The services start while cargo builds.
bring_up() {
    require_programs build services
    instance_lock
    if annals_running && postgres_running && kafka_running && annals_ready; then
        instance_prepare
        ANNALS_BIN=$(annals_binary)
    else
        services_begin
        annals_build
        services_await
        if annals_running; then annals_await; else annals_start; fi
    fi
    tenant_demo
    instance_unlock
}
