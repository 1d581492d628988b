# shellcheck shell=bash
# An instance is a set of services with their data, ports and settings below .dev: `run` is durable, `test` is
# not, `bench` is durable and lives as long as one call.

# What ./dev decides itself. It is cleared first, so that settings of one instance in the caller's environment
# (from ./dev env) never reach the other.
readonly INSTANCE_SETTINGS=(
    DEV_POSTGRES_PORT DEV_POSTGRES_DIR DEV_SUPERUSER_PASSWORD DEV_KAFKA_PORT DEV_KAFKA_CONTROLLER_PORT DEV_ANNALS_PORT
    ANNALS_OWNER_PASSWORD ANNALS_API_PASSWORD ANNALS_WRITER_PASSWORD ANNALS_READER_PASSWORD ANNALS_PROJECTOR_PASSWORD
    ANNALS_DATABASE_URL ANNALS_KAFKA_BROKERS ANNALS_LISTEN ANNALS_KEYS_DIR ANNALS_KEYS_COPY_DIR ANNALS_ROOT_KEY_FILE
    ANNALS_ERASURE_DELAY_SECONDS ANNALS_EGRESS_ALLOW
)
LOCK=''

instance_use() {
    [[ ! -e $STATE || -O $STATE ]] ||
        die "$STATE belongs to $(stat -c %U "$STATE"): use ./dev as that user, or remove .dev and begin again"
    INSTANCE=$1
    INSTANCE_DIR="$STATE/$1"
    INSTANCE_ENV="$INSTANCE_DIR/env"
    unset "${INSTANCE_SETTINGS[@]}"
    # shellcheck source=/dev/null
    [[ ! -e $INSTANCE_ENV ]] || source "$INSTANCE_ENV"
    : "${ANNALS_LOG:=info}"
    KAFKA_DIR="$INSTANCE_DIR/kafka"
    POSTGRES_DATA=${DEV_POSTGRES_DIR:+$DEV_POSTGRES_DIR/data}
}

instance_lock() {
    instance_try_lock && return
    say "Another ./dev is at work on the '$INSTANCE' instance; waiting for it"
    flock "$LOCK"
}

instance_try_lock() {
    instance_unlock
    mkdir -p "$INSTANCE_DIR"
    exec {LOCK}>>"$INSTANCE_DIR/lock"
    flock -n "$LOCK"
}

instance_unlock() {
    [[ -z $LOCK ]] || exec {LOCK}>&-
    LOCK=''
}

# Everything that an instance needs before its services start: ports, passwords, the root key, folders of the keys.
instance_prepare() {
    call_dir
    instance_ports
    DEV_SUPERUSER_PASSWORD=${DEV_SUPERUSER_PASSWORD:-$(random_hex 16)}
    ANNALS_OWNER_PASSWORD=${ANNALS_OWNER_PASSWORD:-$(random_hex 16)}
    ANNALS_API_PASSWORD=${ANNALS_API_PASSWORD:-$(random_hex 16)}
    ANNALS_WRITER_PASSWORD=${ANNALS_WRITER_PASSWORD:-$(random_hex 16)}
    ANNALS_READER_PASSWORD=${ANNALS_READER_PASSWORD:-$(random_hex 16)}
    ANNALS_PROJECTOR_PASSWORD=${ANNALS_PROJECTOR_PASSWORD:-$(random_hex 16)}
    ANNALS_DATABASE_URL="postgres://127.0.0.1:$DEV_POSTGRES_PORT/annals"
    ANNALS_KAFKA_BROKERS="127.0.0.1:$DEV_KAFKA_PORT"
    ANNALS_LISTEN="127.0.0.1:$DEV_ANNALS_PORT"
    ANNALS_KEYS_DIR="$INSTANCE_DIR/keys"
    ANNALS_KEYS_COPY_DIR="$INSTANCE_DIR/keys-copy"
    ANNALS_ROOT_KEY_FILE="$INSTANCE_DIR/root.key"
    ANNALS_ERASURE_DELAY_SECONDS=0
    # Agents of this machine may be called, and without TLS: a server in production allows no such thing.
    ANNALS_EGRESS_ALLOW=127.0.0.0/8
    DEV_POSTGRES_DIR=${DEV_POSTGRES_DIR:-$(postgres_place)}
    POSTGRES_DATA="$DEV_POSTGRES_DIR/data"
    [[ -e $INSTANCE_ENV ]] || instance_anew
    mkdir -p -m 700 "$ANNALS_KEYS_DIR" "$ANNALS_KEYS_COPY_DIR"
    [[ -s $ANNALS_ROOT_KEY_FILE ]] || (umask 077 && head -c 32 /dev/urandom | base64 >"$ANNALS_ROOT_KEY_FILE")
    instance_save
}

# Nothing of an earlier life of this instance may meet a new one: keys, log and topics belong together.
instance_anew() {
    postgres_orphan
    kafka_stop
    rm -rf "$ANNALS_KEYS_DIR" "$ANNALS_KEYS_COPY_DIR" "$ANNALS_ROOT_KEY_FILE" "$KAFKA_DIR" "$INSTANCE_DIR"/demo*
}

# A port is chosen once. It is chosen again only if a stranger has taken it meanwhile.
instance_ports() {
    postgres_running || port_keep DEV_POSTGRES_PORT
    if ! kafka_running; then
        port_keep DEV_KAFKA_PORT
        port_keep DEV_KAFKA_CONTROLLER_PORT
    fi
    annals_running || port_keep DEV_ANNALS_PORT
}

# port_keep NAME
port_keep() {
    local old=${!1:-}
    [[ $old ]] && ! port_open "$old" && return
    printf -v "$1" %s "$(port_pick)"
    [[ -z $old ]] || say "Port $old is taken by another program: $1 is now ${!1}"
}

# Below the range from which the kernel serves outgoing connections (32768 and up), and not one that another instance
# of this repository has remembered.
port_pick() {
    local port
    while true; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 10000))
        port_open "$port" && continue
        grep -qsE "_PORT=$port\$" "$STATE"/*/env && continue
        [[ " ${DEV_POSTGRES_PORT:-} ${DEV_KAFKA_PORT:-} ${DEV_KAFKA_CONTROLLER_PORT:-} " == *" $port "* ]] && continue
        printf %s "$port"
        return
    done
}

instance_save() {
    local name
    (
        umask 077
        for name in "${INSTANCE_SETTINGS[@]}"; do printf '%s=%q\n' "$name" "${!name}"; done >"$INSTANCE_ENV.new"
    )
    mv "$INSTANCE_ENV.new" "$INSTANCE_ENV"
    export "${INSTANCE_SETTINGS[@]}" ANNALS_LOG
}

instance_exports() {
    local name
    [[ -e $INSTANCE_ENV ]] || die "the '$INSTANCE' instance has never been started: see up in ./dev --help"
    for name in "${INSTANCE_SETTINGS[@]}"; do
        [[ $name == ANNALS_* ]] && printf 'export %s=%q\n' "$name" "${!name}"
    done
    return 0
}
