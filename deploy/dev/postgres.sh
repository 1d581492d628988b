# shellcheck shell=bash
# PostgreSQL: a cluster of our own on a port of our own. A server that is there already is not touched.

# The programs that fit the data if there is any, else version 15, else the newest that is not older.
postgres_bin() {
    local version='' dir best=''
    read -r version 2>/dev/null <"$POSTGRES_DATA/PG_VERSION" || true
    if [[ $version ]]; then
        printf %s "/usr/lib/postgresql/$version/bin"
        return
    fi
    for dir in /usr/lib/postgresql/*/bin; do
        version=${dir#/usr/lib/postgresql/} version=${version%/bin}
        [[ $version =~ ^[0-9]+$ && -x $dir/initdb && $version -ge 15 ]] || continue
        [[ $version == 15 || -z $best || $version -gt $best && $best != 15 ]] && best=$version
    done
    [[ -z $best ]] || printf %s "/usr/lib/postgresql/$best/bin"
}

# postgres_as COMMAND...: as the server's user, for PostgreSQL refuses to run as root. It leaves the lock behind, and
# this folder, in which that user may not read.
postgres_as() {
    (
        instance_unlock
        cd /
        if is_root; then exec runuser -u postgres -- "$@"; else exec "$@"; fi
    )
}

# The place of the data. The server's user must be able to come to it, which it can't in /root or in a private home;
# then the data goes to /var/lib, in a folder that bears this repository's name as a hash. The tests' data, which need not
# outlive them, is in memory where there is plenty: a disk that stands still for seconds makes answers late, and tests fail.
postgres_place() {
    local place="$INSTANCE_DIR/postgres" hash
    hash=$(printf %s "$ROOT" | sha256sum | cut -c1-12)
    if [[ $INSTANCE == test ]] && memory_is_plenty; then
        printf %s "/dev/shm/annals-dev-$hash-$INSTANCE"
        return
    fi
    mkdir -p "$place"
    if is_root && ! runuser -u postgres -- test -x "$place" 2>/dev/null; then
        place="/var/lib/annals-dev-$hash/$INSTANCE"
        say "PostgreSQL can't run as root, and its user can't enter $INSTANCE_DIR: its data is in $place"
    fi
    printf %s "$place"
}

# Room for the tests' data and for all that runs beside it.
memory_is_plenty() {
    local available room
    # What is made in a place for temporary files is run there, too.
    grep -qE '^[^ ]+ /dev/shm [^ ]+ [^ ]*noexec' /proc/mounts && return 1
    available=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo 2>/dev/null) || return 1
    room=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1) || return 1
    ((${available:-0} >= 12 * 1024 * 1024 && ${room:-0} >= 6 * 1024 * 1024))
}

postgres_running() {
    local pid=''
    [[ $POSTGRES_DATA ]] || return 1
    read -r pid 2>/dev/null <"$POSTGRES_DATA/postmaster.pid" || return 1
    process_is "$pid" "$POSTGRES_DATA"
}

postgres_up() {
    local bin
    bin=$(postgres_bin)
    if ! postgres_running; then
        started postgres
        postgres_create "$bin"
        postgres_configure
        postgres_as "$bin/pg_ctl" start -s -w -t 60 -D "$POSTGRES_DATA" -l "$DEV_POSTGRES_DIR/log" || postgres_failed
    fi
    postgres_roles "$bin"
}

postgres_failed() {
    tail -n 20 "$DEV_POSTGRES_DIR/log" >&2
    die "PostgreSQL did not start"
}

# Data whose passwords and keys are gone (someone has removed .dev, or its env) opens to nobody: it is moved aside.
postgres_orphan() {
    local aside
    [[ -e $POSTGRES_DATA ]] || return 0
    postgres_stop
    aside="$POSTGRES_DATA.$(date -u +%Y%m%dT%H%M%SZ)"
    mv "$POSTGRES_DATA" "$aside"
    say "Found a cluster without the passwords to it: moved to $aside. The '$INSTANCE' instance begins anew."
}

# postgres_create BIN. The folder gets its name when initdb is through: one that was interrupted is no cluster.
postgres_create() {
    local new="$POSTGRES_DATA.new" fsync=()
    mkdir -p "$DEV_POSTGRES_DIR"
    ! is_root || chown postgres "$DEV_POSTGRES_DIR"
    [[ -e $POSTGRES_DATA ]] && return
    [[ $INSTANCE == run ]] || fsync=(--no-sync)
    rm -rf "$new"
    printf '%s\n' "$DEV_SUPERUSER_PASSWORD" | postgres_as sh -c 'umask 077; cat >"$0"' "$new.password"
    postgres_as "$1/initdb" -D "$new" -U postgres --encoding=UTF8 --locale=C.UTF-8 --auth=scram-sha-256 \
        --pwfile="$new.password" "${fsync[@]}" >/dev/null
    rm -f "$new.password"
    echo "include = 'annals.conf'" | postgres_as tee -a "$new/postgresql.conf" >/dev/null
    mv "$new" "$POSTGRES_DATA"
}

# Written anew at each start, so that a change of the settings or of the port takes effect.
postgres_configure() {
    {
        cat "$ROOT/deploy/postgres/postgresql.conf"
        [[ $INSTANCE != test ]] || cat "$ROOT/deploy/postgres/not-durable.conf"
        printf 'port = %s\n' "$DEV_POSTGRES_PORT"
    } | postgres_as tee "$POSTGRES_DATA/annals.conf" >/dev/null
}

# postgres_roles BIN. The superuser is used for this and nothing else. Passwords go through the environment: arguments
# are for all to see.
postgres_roles() {
    local psql=("$1/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$DEV_POSTGRES_PORT" -U postgres -d postgres)
    PGPASSWORD=$DEV_SUPERUSER_PASSWORD "${psql[@]}" -f "$ROOT/deploy/postgres/roles.sql" >/dev/null
    PGPASSWORD=$DEV_SUPERUSER_PASSWORD "${psql[@]}" >/dev/null <<'SQL'
SELECT 'CREATE DATABASE annals OWNER annals_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'annals') \gexec
SQL
}

# The data of tests and benchmarks is thrown away, so its server need not put it in order first.
postgres_stop() {
    local bin mode=fast
    postgres_running || return 0
    [[ $INSTANCE == run ]] || mode=immediate
    bin=$(postgres_bin)
    postgres_as "$bin/pg_ctl" stop -s -w -t 60 -m "$mode" -D "$POSTGRES_DATA"
}
