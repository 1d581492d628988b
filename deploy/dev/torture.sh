# shellcheck shell=bash
# The long form of the tests that break the house on purpose, with a seed and a journal.

torture_usage() {
    cat <<'TEXT'
Usage: ./dev torture [--minutes N] [--seed S] [--only NAME]

Kills, stops, starves and races the house for N minutes (10 if absent), round after round, each with the next seed, and
prints what held. The first failure ends it, with the line that repeats it. Journals (every intent, answer and blow, as
lines of JSON) and the processes' logs are in .dev/torture.

  --seed S      the first round's seed; the schedule of what is done to whom follows from it
  --only NAME   the scenarios with this in their name
TEXT
}

cmd_torture() {
    local minutes=10 seed=$((RANDOM * 32768 + RANDOM)) only=''
    while (($#)); do
        case $1 in
            --minutes | --seed | --only)
                (($# > 1)) || die "$1 needs a value; see ./dev torture --help"
                printf -v "${1#--}" %s "$2"
                shift
                ;;
            --help)
                torture_usage
                return
                ;;
            *) die "torture does not know '$1'; see ./dev torture --help" ;;
        esac
        shift
    done
    [[ $minutes =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ ]] || die "--minutes and --seed take numbers"
    instance_use test
    require_programs build services python kcat
    instance_lock
    test_services_up
    mkdir -p "$STATE/torture"
    torture_next "$only"
    run_child env DEV_CALL="$CALL_ID" TORTURE_MINUTES="$minutes" TORTURE_SEED="$seed" TORTURE_ONLY="$only" \
        NEXT_ANNALS="$STATE/torture/annals-next" TORTURE_DIR="$STATE/torture" cargo test -p tests --test e2e
}

# The version that follows this one: this tree with tests/rollouts/next.patch, in the copy that faults are put in, too.
torture_next() {
    local name=a_newer_version_takes_over_unseen
    [[ $1 == rollouts || $name == *"$1"* ]] || return 0
    FAULTS="$STATE/faults"
    faults_tree
    GIT_CEILING_DIRECTORIES="$FAULTS" git -C "$FAULTS/tree" apply "$ROOT/tests/rollouts/next.patch" ||
        die "tests/rollouts/next.patch no longer fits: the code has changed"
    say "Building the version that follows this one"
    run_child env -C "$FAULTS/tree" CARGO_TARGET_DIR="$FAULTS/target" cargo build --quiet -p api --bin annals
    cp "$FAULTS/target/debug/annals" "$STATE/torture/annals-next"
}
