# shellcheck shell=bash
# What a tour needs beside Annals: a provider for its agents, and a look into its topic.

# In front, until Ctrl-C.
cmd_agent() {
    (($# == 0)) || die "agent takes no arguments; see ./dev --help"
    require_programs agent
    run_child python3 -u -B deploy/demo/agent.py
}

cmd_kcat() {
    instance_use run
    kafka_running || die "Kafka does not run here: see run and up in ./dev --help"
    require_programs kcat
    # From here on it is kcat's terminal: its input, its Ctrl-C, its status.
    exec kcat -b "$ANNALS_KAFKA_BROKERS" -t "${ANNALS_KAFKA_TOPIC:-annals.events.v1}" "$@"
}
