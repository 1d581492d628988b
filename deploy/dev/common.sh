# shellcheck shell=bash
# What every part of ./dev uses: words to the person, processes, and the way out.

umask 022
export LC_ALL=C.UTF-8
# Some callers (CI, containers) have no HOME; cargo and Maven keep their caches there.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME
# Everything here talks to 127.0.0.1, past any proxy.
export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}"
export no_proxy="$NO_PROXY"

ANNALS_CHILD=''   # pid of the Annals that this call started
CHILD=''          # pid, and process group, of the long command in front (cargo)
STARTING=()       # pids of the background shells that start services
CALL_DIR=''       # one marker for each thing that this call started
CALL_ID="$$-$RANDOM$RANDOM"

if [[ -t 2 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' PLAIN=''
fi

say() { printf '%s\n' "$BOLD==>$PLAIN $*" >&2; }

die() {
    printf '%s\n' "${RED}error:$PLAIN $*" >&2
    exit 1
}

is_root() { ((EUID == 0)); }

# random_hex BYTES
random_hex() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }

# port_open PORT: does something listen there? bash can ask by itself, so that no tool is needed.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# process_is PID NEEDLE: does the process live, and is it the one that we mean? Pids are used again, so a pid alone
# never suffices to end a process: its command line must have what only ours has.
process_is() {
    local line
    [[ $1 =~ ^[0-9]+$ && -n $2 ]] || return 1
    line=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") || return 1
    [[ $line == *"$2"* ]]
}

# process_end PID NEEDLE SIGNAL SECONDS: signals, waits, and kills what does not listen.
process_end() {
    local pid=$1 needle=$2 tries=$(($4 * 20))
    process_is "$pid" "$needle" || return 0
    kill -s "$3" "$pid" 2>/dev/null || true
    while process_is "$pid" "$needle"; do
        if ((tries-- == 0)); then
            say "process $pid did not end within $4 s: killed"
            kill -s KILL "$pid" 2>/dev/null || true
        fi
        sleep 0.05
    done
}

# spawn LOG COMMAND...: a daemon in a session of its own, so that a Ctrl-C at the terminal reaches this script alone,
# which then ends things in order. It must not inherit the lock: it would hold it after our death.
spawn() {
    local log=$1
    shift
    (
        instance_unlock
        exec setsid "$@" >>"$log" 2>&1 </dev/null
    ) &
    SPAWNED=$!
}

# run_child COMMAND...: a long command in front. bash runs traps only between commands or in `wait`, so the command
# goes to the background and a signal is acted upon at once. Its group is its own, so that it ends as a whole.
run_child() {
    local status=0
    (
        instance_unlock
        exec setsid "$@" </dev/null
    ) &
    CHILD=$!
    wait "$CHILD" || status=$?
    CHILD=''
    return "$status"
}

child_end() {
    [[ $CHILD ]] || return 0
    kill -s TERM -- "-$CHILD" 2>/dev/null || kill -s TERM "$CHILD" 2>/dev/null
    wait "$CHILD" 2>/dev/null
}

# What the tests started in sessions of their own, and did not end, is known by this call's mark in its environment.
stragglers_end() {
    local environ pid
    for environ in /proc/[0-9]*/environ; do
        if grep -qsz "^DEV_CALL=$CALL_ID\$" "$environ"; then
            pid=${environ//[^0-9]/}
            kill -s KILL "$pid" 2>/dev/null
        fi
    done
}

# with_lock NAME COMMAND...: one at a time, over all instances of this repository.
with_lock() {
    local fd
    mkdir -p "$STATE"
    exec {fd}>"$STATE/$1.lock"
    flock "$fd"
    "${@:2}"
    exec {fd}>&-
}

call_dir() {
    local stale
    [[ $CALL_DIR ]] && return
    # What a killed call has left behind tells nothing any more.
    for stale in "$INSTANCE_DIR"/call.*; do
        [[ -e /proc/${stale##*.} ]] || rm -rf "$stale"
    done
    CALL_DIR="$INSTANCE_DIR/call.$$"
    mkdir -p "$CALL_DIR"
}

# started NAME: to be said before the start, so that a Ctrl-C halfway through it also finds what to stop.
started() { : >"$CALL_DIR/$1"; }

leave_running() { [[ -z $CALL_DIR ]] || rm -rf "$CALL_DIR"; }

# Every way out leads through here: the end of a command, an error, Ctrl-C, SIGTERM, a closed terminal.
on_exit() {
    local status=$? pid
    trap - EXIT
    trap '' HUP INT TERM
    set +e
    child_end
    cluster_main_allow
    # A service that is half started can't be stopped cleanly; it takes seconds, so wait for it.
    for pid in "${STARTING[@]}"; do wait "$pid" 2>/dev/null; done
    if [[ $CALL_DIR && -d $CALL_DIR ]]; then
        stop_started
        rm -rf "$CALL_DIR"
    fi
    exit "$status"
}

stop_started() {
    [[ $INSTANCE == test ]] && stragglers_end
    [[ -n $(ls -A "$CALL_DIR") ]] || return
    say "Stopping what this call started"
    [[ -e $CALL_DIR/annals ]] && annals_stop
    [[ -e $CALL_DIR/kafka ]] && kafka_stop &
    [[ -e $CALL_DIR/postgres ]] && postgres_stop
    wait
    [[ $INSTANCE == test && ! -e $INSTANCE_DIR/keep ]] && test_data_remove
    [[ $INSTANCE == bench ]] && bench_data_remove
}
