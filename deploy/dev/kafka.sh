# shellcheck shell=bash
# Kafka: one KRaft node on 127.0.0.1, from the jars of Maven Central.

readonly KAFKA_POM="$ROOT/deploy/kafka/pom.xml" KAFKA_LIBS="$STATE/kafka-libs"

kafka_jars_there() { cmp -s "$KAFKA_POM" "$KAFKA_LIBS/pom.xml"; }

# The jars are fetched once for all instances, and again when the pom changes. They come under a name of their own
# first: a folder that has the pom is complete.
kafka_jars() { kafka_jars_there || with_lock kafka-libs kafka_jars_fetch; }

kafka_jars_fetch() {
    local new="$KAFKA_LIBS.new"
    kafka_jars_there && return
    say "Fetching Kafka"
    rm -rf "$new"
    run_quietly mvn -q -B -f "$KAFKA_POM" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$new"
    cp "$KAFKA_POM" "$new/pom.xml"
    rm -rf "$KAFKA_LIBS"
    mv "$new" "$KAFKA_LIBS"
}

# The path of the properties is in the command line of this instance's broker and in no other.
kafka_running() {
    local pid=''
    read -r pid 2>/dev/null <"$KAFKA_DIR/pid" || return 1
    process_is "$pid" "$KAFKA_DIR/server.properties"
}

kafka_up() {
    kafka_running && return
    started kafka
    mkdir -p "$KAFKA_DIR"
    kafka_configure
    kafka_command
    : >"$INSTANCE_DIR/kafka.log"
    kafka_format
    spawn "$INSTANCE_DIR/kafka.log" "${KAFKA_COMMAND[@]}" kafka.Kafka "$KAFKA_DIR/server.properties"
    printf '%s\n' "$SPAWNED" >"$KAFKA_DIR/pid"
    kafka_await
}

kafka_configure() {
    local text
    text=$(<"$ROOT/deploy/kafka/server.properties.template")
    text=${text//@PORT@/$DEV_KAFKA_PORT}
    text=${text//@CONTROLLER_PORT@/$DEV_KAFKA_CONTROLLER_PORT}
    text=${text//@DATA@/$KAFKA_DIR/data}
    printf '%s\n' "$text" >"$KAFKA_DIR/server.properties"
}

# The heap is enough for tests and for a demo's history; the serial collector saves memory and threads on two cores.
kafka_command() {
    local java
    java=$(java_program)
    KAFKA_COMMAND=(
        "$java" -Xms256m -Xmx512m -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError
        "-Dlog4j2.configurationFile=$ROOT/deploy/kafka/log4j2.properties" -cp "$KAFKA_LIBS/*"
    )
    # Tests end before the optimising compiler would have paid for itself.
    [[ $INSTANCE == run ]] || KAFKA_COMMAND+=(-XX:TieredStopAtLevel=1)
}

# Kafka's data must be formatted once. The mark is set afterwards, so that one half done is done again.
kafka_format() {
    local id data="$KAFKA_DIR/data"
    [[ -e $data/formatted ]] && return
    rm -rf "$data"
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
    # An id that begins with a dash would be taken for an option.
    "${KAFKA_COMMAND[@]}" kafka.tools.StorageTool format -t "${id/#-/A}" -c "$KAFKA_DIR/server.properties" \
        >>"$INSTANCE_DIR/kafka.log" 2>&1 || kafka_failed
    : >"$data/formatted"
}

# The port opens a little before the broker serves; its own word in the log counts.
kafka_await() {
    local tries=1200
    until grep -qs 'Kafka Server started' "$INSTANCE_DIR/kafka.log"; do
        # A moment may pass between our fork and the program that it becomes.
        ((tries < 1160)) && ! kafka_running && kafka_failed
        ((tries-- > 0)) || kafka_failed
        sleep 0.05
    done
}

kafka_failed() {
    tail -n 20 "$INSTANCE_DIR/kafka.log" >&2
    die "Kafka did not start"
}

# The tests' data is thrown away, so its broker need not put it in order first.
kafka_stop() {
    local pid='' signal=TERM
    read -r pid 2>/dev/null <"$KAFKA_DIR/pid" || return 0
    [[ $INSTANCE == run ]] || signal=KILL
    process_end "$pid" "$KAFKA_DIR/server.properties" "$signal" 30
    rm -f "$KAFKA_DIR/pid"
}
