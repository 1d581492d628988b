# shellcheck shell=bash
# The demo: a real purchase history through the API. Its steps are in deploy/demo, in Python.

cmd_demo() {
    (($# == 0)) || die "demo takes no arguments; see ./dev --help"
    local pid
    instance_use run
    require_programs python
    bring_up
    # DuckDB checks our figures.
    python_env venv deploy/demo/requirements.txt
    tenant_once demo-cdnow "$INSTANCE_DIR/demo-cdnow.json"
    read -r pid <"$INSTANCE_DIR/annals.pid"
    run_child "$STATE/venv/bin/python" -u -B deploy/demo/main.py \
        --url "http://$ANNALS_LISTEN" --annals "$ANNALS_BIN" --pid "$pid" \
        --tenant "$INSTANCE_DIR/demo-cdnow.json" --erased "$INSTANCE_DIR/demo-cdnow.erased" --work "$STATE/demo"
}
