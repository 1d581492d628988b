# shellcheck shell=bash
# The tenants that ./dev makes, each once: what was made is remembered in JSON files that only their owner can read.

readonly ALL_SCOPES=(
    commerce:read commerce:write billing:read billing:write agents:read agents:write tenancy:read tenancy:write crm:read crm:write privacy:read privacy:write privacy:approve personal:read analytics:read audit:read audit:write
)

# json_text JSON FIELD: the first text of that name. Enough for what the binary prints; jq need not be there.
json_text() {
    local pattern="\"$2\"[[:space:]]*:[[:space:]]*\"([^\"]*)\""
    [[ $1 =~ $pattern ]] && printf %s "${BASH_REMATCH[1]}"
}

# key_make TENANT NAME SCOPE...
key_make() {
    local tenant=$1 name=$2 scope arguments=()
    shift 2
    for scope in "$@"; do arguments+=(--scope "$scope"); done
    "$ANNALS_BIN" keys create --tenant "$tenant" --name "$name" "${arguments[@]}" 2>>"$INSTANCE_DIR/annals.log"
}

# tenant_make NAME FILE [--test]: a tenant with a key for everything, and another one that may only approve.
tenant_make() {
    local name=$1 file=$2 tenant id key approver
    tenant=$("$ANNALS_BIN" tenants create --name "$name" "${@:3}" 2>>"$INSTANCE_DIR/annals.log") ||
        annals_failed "tenant $name could not be made"
    id=$(json_text "$tenant" id) || die "no id in what \`annals tenants create\` printed: $tenant"
    key=$(key_make "$id" demo "${ALL_SCOPES[@]}") || annals_failed "a key for $name could not be made"
    approver=$(key_make "$id" approver privacy:read privacy:approve) || annals_failed "a key for $name could not be made"
    (umask 077 && printf '{"tenant": %s,\n"key": %s,\n"approver": %s}\n' "$tenant" "$key" "$approver" >"$file.new")
    mv "$file.new" "$file"
}

# tenant_once NAME FILE: made if it is not there, or if Annals no longer knows its key. The key is then in TENANT_KEY.
tenant_once() {
    local name=$1 file=$2
    TENANT_KEY=''
    [[ ! -s $file ]] || tenant_read "$file"
    if [[ -z $TENANT_KEY ]] || ! key_accepted "$TENANT_KEY"; then
        tenant_make "$name" "$file"
        tenant_read "$file"
    fi
}

tenant_read() {
    local text
    text=$(<"$1")
    TENANT_KEY=$(json_text "$text" key) || die "there is no key in $1; remove it, and it is made again"
}

# The key goes in through a file descriptor: arguments are for all on this machine to see.
key_accepted() {
    local status
    status=$(curl -sS -o /dev/null -w '%{http_code}' -H @<(printf 'Authorization: Bearer %s\n' "$1") \
        "http://$ANNALS_LISTEN/api/v1/customers?limit=1")
    [[ $status != 401 ]]
}

tenant_demo() { tenant_once demo "$INSTANCE_DIR/demo.json"; }

print_welcome() {
    local url="http://$ANNALS_LISTEN" key=$TENANT_KEY
    cat <<TEXT

Annals       $url   (API document: $url/docs, metrics: $url/metrics)
API key      $key   (tenant, key and a second key that approves erasures: .dev/run/demo.json)

Create a customer, list the customers, read the figures:

curl -sS $url/api/v1/customers -H 'Authorization: Bearer $key' -H 'Content-Type: application/json' -d '{"name": "Ada Lovelace", "country": "GB"}'
curl -sS $url/api/v1/customers -H 'Authorization: Bearer $key'
curl -sS $url/api/v1/analytics/kpis -H 'Authorization: Bearer $key'

Agents on this machine ($ANNALS_EGRESS_ALLOW) may be called here, and without TLS; ./dev agent starts one to try.

TEXT
}
