# shellcheck shell=bash
# The demo: a real purchase history through the API. Its steps are in deploy/demo, in Python.

cmd_demo() {
    (($# == 0)) || die "demo takes no arguments; see ./dev --help"
    local pid
    instance_use run
    require_programs demo
    bring_up
    duckdb_python
    tenant_once demo-cdnow "$INSTANCE_DIR/demo-cdnow.json"
    read -r pid <"$INSTANCE_DIR/annals.pid"
    run_child "$STATE/venv/bin/python" -u -B deploy/demo/main.py \
        --url "http://$ANNALS_LISTEN" --annals "$ANNALS_BIN" --pid "$pid" \
        --tenant "$INSTANCE_DIR/demo-cdnow.json" --erased "$INSTANCE_DIR/demo-cdnow.erased" --work "$STATE/demo"
}

# DuckDB, which checks our figures and reads our files, in an environment of its own. The mark is a copy of what was
# asked for.
duckdb_python() { with_lock venv venv_make; }

venv_make() {
    local wanted="$ROOT/deploy/demo/requirements.txt" venv="$STATE/venv"
    cmp -s "$wanted" "$venv/requirements.txt" && return
    say "Installing DuckDB into .dev/venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    run_quietly "$venv/bin/pip" install --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
}
