//! `annals replay`: a tenant's history as files, read by whoever reads such files.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use domain::{AnyId, NoteId, TypedId};
use eventstore::{Role, new_id};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::client::Client;
use crate::house::{House, Lodging, Tenant};
use crate::lodging::dev_file;
use crate::orders::order;
use crate::privacy::erase;
use crate::schemas::{append, event, written_v1};
use crate::tests;

tests![
    lines_are_the_events_as_the_api_shows_them,
    tables_are_read_by_duckdb,
    the_same_call_gives_the_same_bytes,
    filters_pass_what_is_asked_for,
    what_is_wrong_is_told_and_nothing_is_left,
    of_nothing_there_are_empty_files,
    a_folder_has_the_files_of_its_last_replay,
    a_reader_that_goes_away_ends_it_quietly,
    a_table_is_not_made_of_what_is_not_known,
    memory_does_not_grow_with_the_log,
];

/// What `annals replay` said: its exit code, what it printed, what it told.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) printed: String,
    pub(crate) told: String,
}

impl Said {
    /// The manifest that a good end prints.
    pub(crate) fn manifest(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.told);
        serde_json::from_str(&self.printed).unwrap()
    }
}

fn command(lodging: &Lodging, tenant: &Tenant, arguments: &[&str]) -> Command {
    let mut command = lodging.command(&["replay", "--tenant", &tenant.id.to_string()]);
    command.args(arguments);
    command
}

pub(crate) async fn replay(lodging: &Lodging, tenant: &Tenant, arguments: &[&str]) -> Said {
    let output = command(lodging, tenant, arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), printed: text(output.stdout), told: text(output.stderr) }
}

/// The lines that come to stdout.
async fn lines(house: &House, tenant: &Tenant, arguments: &[&str]) -> Vec<Value> {
    let said = replay(&house.lodging, tenant, &[arguments, &["--to", "-"]].concat()).await;
    assert_eq!((said.code, said.told.as_str()), (0, ""), "{arguments:?}");
    said.printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a query, as DuckDB gives them.
pub(crate) async fn duckdb(sql: &str) -> Value {
    let python = dev_file("venv-tests/bin/python");
    let program = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall()))";
    let output = Command::new(python).args(["-c", program, sql]).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{sql}: {told}"))
}

pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("annals-replay-").tempdir().unwrap()
}

/// The path of a file in a folder, for an argument.
pub(crate) fn file(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// What a folder has, by name, nothing left out.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// A tenant with something of everything: two persons, of whom one was erased, orders, a removed one among them, notes in
/// two versions, an agent with a secret.
pub(crate) async fn lived_in(house: &House) -> Tenant {
    let tenant = house.tenant().await;
    for (id, name) in [("c-1", "Ada"), ("c-2", "canary-e1")] {
        let body = json!({"external_id": id, "name": name, "email": format!("{id}@example.com"), "country": "GB"});
        tenant.post("/customers", &body).expect(201).await;
    }
    let mut placed = Vec::new();
    for (customer, total) in [("ext:c-1", 500), ("ext:c-1", 1_500), ("ext:c-2", 2_500), ("ext:c-1", 70_000)] {
        placed.push(tenant.post("/orders", &order(customer, total)).expect(201).await);
    }
    let refund =
        json!({"amount": {"amount": 200, "currency": "USD"}, "reason": "it was \"scratched\",\n on both sides"});
    let path = format!("/orders/{}/refund", placed[1].id());
    tenant.post(&path, &refund).header("idempotency-key", "r").expect(200).await;
    let ada = tenant.get("/customers/ext:c-1").expect(200).await;
    let v1 = written_v1(house.lodging.executor().vault(), tenant.id.uuid(), ada.id(), "likes jazz").await;
    append(&house.store, tenant.id.uuid(), ("crm.note", NoteId::from(new_id()).uuid()), v1).await;
    let note = json!({"customer": "ext:c-1", "kind": "complaint", "text": "too \"loud\""});
    tenant.post("/notes", &note).expect(201).await;
    let http = json!({"url": "http://127.0.0.1:9/work", "headers": {"x-secret": "canary-secret-header"}});
    let agent = json!({"external_id": "a", "name": "Say \"$hi\"", "kind": "http", "http": http});
    tenant.post("/agents", &agent).expect(201).await;
    erase(&tenant, "ext:c-2").await;
    // The process itself ends a moment after the request is complete.
    tenant.until_events("erasure.settled", 5).await;
    redact(house, &tenant, placed[3].sequence()).await;
    tenant
}

async fn redact(house: &House, tenant: &Tenant, sequence: i64) {
    let mut owner = PgConnection::connect_with(&house.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let redact = sqlx::query("SELECT redact_event($1, $2)").bind(tenant.id.uuid()).bind(sequence);
    redact.execute(&mut owner).await.unwrap();
    owner.close().await.unwrap();
}

/// All events as the API shows them to a key.
async fn shown(client: &Client) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/events?limit=20{cursor}")).expect(200).await;
        all.extend(page.data().iter().cloned());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn lines_are_the_events_as_the_api_shows_them(house: &House) {
    let tenant = lived_in(house).await;
    let unprivileged = tenant.key(&["audit:read"]).await;
    // Nothing is written any more, but that personal values are opened: so both have the same events.
    for (arguments, client) in [(&[][..], &unprivileged), (&["--open-personal"], &tenant.client)] {
        let events = shown(client).await;
        let said = replay(&house.lodging, &tenant, &[arguments, &["--to", "-"]].concat()).await;
        assert_eq!((said.code, said.told.as_str()), (0, ""));
        assert!(events.len() > 20, "{}", events.len());
        let texts: Vec<_> = events.iter().map(Value::to_string).collect();
        assert_eq!(said.printed.lines().collect::<Vec<_>>(), texts, "to the byte");
        let opened = said.printed.contains("likes jazz") && said.printed.contains("Ada");
        assert_eq!(opened, !arguments.is_empty());
        for never in ["canary-e1", "c-2@example.com", "canary-secret", "$sealed", "$secret", "$erased"] {
            assert!(!said.printed.contains(never), "{never}");
        }
        assert!(said.printed.contains(r#""x-secret":"********""#), "a secret is hidden");
    }
}

async fn tables_are_read_by_duckdb(house: &House) {
    let tenant = lived_in(house).await;
    let folder = folder();
    let to = |name: &str| file(&folder, name);
    let (null, opened) = (to("null/"), to("opened/"));
    let events = shown(&tenant).await;
    let manifest = replay(&house.lodging, &tenant, &["--to", &null]).await.manifest();
    let until = events.len().to_string();
    replay(&house.lodging, &tenant, &["--open-personal", "--until", &until, "--to", &opened]).await.manifest();
    let count = |name: &str| events.iter().filter(|event| event["type"] == name).count();
    // Every type has its file, and every file its events.
    let files = manifest["files"].as_array().unwrap();
    for written in files {
        let name = written["name"].as_str().unwrap();
        let rows = duckdb(&format!("SELECT type, count(*) FROM '{null}{name}' GROUP BY type")).await;
        let kind = name.strip_suffix(".parquet").unwrap();
        assert_eq!(rows, json!([[kind, count(kind)]]));
        assert_eq!(written["events"], count(kind));
    }
    let all = duckdb(&format!(
        "SELECT count(*), sum(sequence)::BIGINT FROM read_parquet('{null}*.parquet', union_by_name = true)"
    ))
    .await;
    let sum: i64 = events.iter().map(|event| event["sequence"].as_i64().unwrap()).sum();
    assert_eq!(all, json!([[events.len(), sum]]));
    assert_eq!(manifest["events"], events.len());

    // Money, lists and structs; what was removed is null.
    let orders = format!(
        "SELECT count(*), count(total), sum(total.amount)::BIGINT, sum(lines[1].total.amount)::BIGINT, \
                          min(total.currency) FROM '{null}order.placed.parquet'"
    );
    assert_eq!(duckdb(&orders).await, json!([[4, 3, 4_500, 4_500, "USD"]]));
    let times = format!(
        "SELECT typeof(min(occurred_at)), epoch_us(min(occurred_at)), count(DISTINCT recorded_at) > 0 \
                         FROM '{null}order.placed.parquet' WHERE total IS NOT NULL"
    );
    assert_eq!(duckdb(&times).await, json!([["TIMESTAMP WITH TIME ZONE", 1_769_860_800_000_000_i64, true]]));
    // Both versions have the columns of the newest.
    let notes =
        |folder: &str| format!("SELECT schema_version, kind, text FROM '{folder}note.written.parquet' ORDER BY 1");
    assert_eq!(duckdb(&notes(&null)).await, json!([[1, "general", null], [2, "complaint", null]]));
    let texts = json!([[1, "general", "likes jazz"], [2, "complaint", "too \"loud\""]]);
    assert_eq!(duckdb(&notes(&opened)).await, texts);
    let versions = &manifest["counts"]["note.written"];
    assert_eq!(*versions, json!({"events": 2, "newest": 2, "schema_versions": {"1": 1, "2": 1}}));
    // Whoever was erased stays so.
    let customers =
        |folder: &str| format!("SELECT name, email, country FROM '{folder}customer.created.parquet' ORDER BY sequence");
    assert_eq!(duckdb(&customers(&null)).await, json!([[null, null, "GB"], [null, null, "GB"]]));
    assert_eq!(duckdb(&customers(&opened)).await, json!([["Ada", "c-1@example.com", "GB"], [null, null, "GB"]]));
    let reason = format!("SELECT reason, amount.amount FROM '{opened}order.refunded.parquet'");
    assert_eq!(duckdb(&reason).await, json!([["it was \"scratched\",\n on both sides", 200]]));
    // What has more than one form is JSON text.
    let agent =
        format!("SELECT name, http.headers, http.headers ->> '$.x-secret' FROM '{opened}agent.created.parquet'");
    assert_eq!(duckdb(&agent).await, json!([["Say \"$hi\"", r#"{"x-secret":"********"}"#, "********"]]));
    // The CSV file says the same.
    let csv = to("all.csv");
    replay(&house.lodging, &tenant, &["--until", &until, "--to", &csv]).await.manifest();
    let sums = format!(
        "SELECT count(*), sum(sequence)::BIGINT, sum((data ->> '$.total.amount')::BIGINT)::BIGINT, \
                        count(*) FILTER (type = 'order.placed') FROM read_csv('{csv}', all_varchar = false, \
                        types = {{'data': 'VARCHAR'}})"
    );
    assert_eq!(duckdb(&sums).await, json!([[events.len(), sum, 4_500, 4]]));
}

/// The SHA-256 of a file, as another program has it.
pub(crate) async fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

async fn the_same_call_gives_the_same_bytes(house: &House) {
    let tenant = lived_in(house).await;
    let until = tenant.events_head().await.to_string();
    let folders = [folder(), folder()];
    for folder in &folders {
        for name in ["all.jsonl", "all.csv", "tables/"] {
            let to = file(folder, name);
            let condition = "sequence > 3 && data != null && has(data.customer) || type != 'order.placed'";
            let arguments = ["--until", &until, "--open-personal", "--where", condition, "--to", &to];
            replay(&house.lodging, &tenant, &arguments).await.manifest();
        }
        // The log goes on meanwhile.
        tenant.post("/customers", &json!({"name": "Eve"})).expect(201).await;
    }
    let [first, second] = folders.each_ref().map(|folder| {
        let tables = folder.path().join("tables");
        let in_folder = contents(&tables);
        std::fs::remove_dir_all(tables).unwrap();
        (contents(folder.path()), in_folder)
    });
    assert_eq!(first, second);
    assert_eq!(
        first.0.keys().collect::<Vec<_>>(),
        ["all.csv", "all.csv.manifest.json", "all.jsonl", "all.jsonl.manifest.json"]
    );
    assert!(first.1.len() > 10 && first.1.contains_key("manifest.json"), "{:?}", first.1.keys());
    let manifest: Value = serde_json::from_slice(&first.0["all.jsonl.manifest.json"]).unwrap();
    let path = folders[0].path().join("all.jsonl");
    let written = json!([{
        "name": "all.jsonl",
        "events": first.0["all.jsonl"].iter().filter(|byte| **byte == b'\n').count(),
        "bytes": first.0["all.jsonl"].len(),
        "sha256": sha256(&path).await,
    }]);
    assert_eq!(manifest["files"], written);
    assert_eq!((&manifest["until"].to_string(), &manifest["incarnation"]), (&until, &json!(1)));
    assert_eq!(
        (&manifest["after"], &manifest["personal"], &manifest["types"]),
        (&json!(0), &json!("opened"), &Value::Null)
    );
}

async fn filters_pass_what_is_asked_for(house: &House) {
    let tenant = lived_in(house).await;
    let events = shown(&tenant.key(&["audit:read"]).await).await;
    let sequences =
        |events: &[Value]| events.iter().map(|event| event["sequence"].as_i64().unwrap()).collect::<Vec<_>>();
    let expect = async |arguments: &[&str], passes: &dyn Fn(&Value) -> bool| {
        let expected: Vec<_> = events.iter().filter(|event| passes(event)).cloned().collect();
        assert!(!expected.is_empty(), "{arguments:?}");
        assert_eq!(sequences(&lines(house, &tenant, arguments).await), sequences(&expected), "{arguments:?}");
    };
    let number = |event: &Value| event["sequence"].as_i64().unwrap();
    expect(&["--type", "order.placed"], &|event| event["type"] == "order.placed").await;
    let order = |event: &Value| event["type"].as_str().unwrap().starts_with("order.");
    expect(&["--type", "order."], &order).await;
    let note = |event: &Value| order(event) || event["type"] == "note.written";
    expect(&["--type", "order.", "--type", "note.written"], &note).await;
    expect(&["--after", "5", "--until", "9"], &|event| (6..=9).contains(&number(event))).await;
    let large = |event: &Value| event["data"]["total"]["amount"].as_i64().is_some_and(|amount| amount >= 1_000);
    // What was removed says nothing, so it is asked first whether there is anything.
    let condition = "data != null && has(data.total) && data.total.amount >= 1000";
    expect(&["--type", "order.placed", "--where", condition], &large).await;
    expect(&["--where", "type == 'note.written' && data.text == null"], &|event| event["type"] == "note.written").await;
    // A time means the last sequence that was recorded by then.
    let time = events[7]["recorded_at"].as_str().unwrap();
    let by_then = |event: &Value| {
        event["recorded_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap()
            <= time.parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    };
    expect(&["--until", time], &by_then).await;
    expect(&["--after", time], &|event| !by_then(event)).await;
    let said = replay(
        &house.lodging,
        &tenant,
        &["--open-personal", "--where", "type == 'note.written' && data.text == 'likes jazz'", "--to", "-"],
    );
    assert_eq!(said.await.printed.lines().count(), 1, "it sees what is opened");
}

async fn what_is_wrong_is_told_and_nothing_is_left(house: &House) {
    let tenant = lived_in(house).await;
    let head = tenant.events_head().await;
    let folder = folder();
    let to = |name: &str| file(&folder, name);
    let (jsonl, parquet, odd) = (to("x.jsonl"), to("x.parquet"), to("x.xls"));
    // Before anything is read: there is no database there.
    for (arguments, told) in [
        (&["--where", "data.total >", "--to", &jsonl][..], "--where is no expression of CEL"),
        (&["--where", "amount > 5", "--to", &jsonl], "an event has no `amount`"),
        (
            &["--type", "order.plced", "--to", &jsonl],
            "there is no event type `order.plced`; near it are `order.placed`",
        ),
        (&["--to", &parquet], "a Parquet file has the columns of one type"),
        (&["--type", "order.", "--to", &parquet], "a Parquet file has the columns of one type"),
        (&["--to", "-", "--format", "parquet"], "name a file or a folder"),
        (&["--to", &odd], "ends with none of .jsonl, .csv, .parquet"),
    ] {
        let mut command = command(&house.lodging, &tenant, arguments);
        let output = command.env("ANNALS_DATABASE_URL", "postgres://127.0.0.1:1/none").output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(told), "{arguments:?}: {said}");
    }
    let (beyond, above) = ((head + 1).to_string(), format!("must be between 0 and {head}"));
    for (arguments, told) in [
        (&["--until", &beyond][..], format!("--until {above}")),
        (&["--after", &beyond], format!("--after {above}")),
        (&["--until", "2999-01-01T00:00:00Z"], "--until must not lie in the future".into()),
        (&["--until", "yesterday"], "--until must be a sequence, or a time".into()),
        (&["--after", "5", "--until", "4"], "--after is sequence 5, which lies behind --until, 4".into()),
        (&["--where", "data.total.amount > 5"], "--where at sequence 1: ".into()),
        (&["--where", "sequence"], "--where at sequence 1: it gives a value of type int".into()),
    ] {
        let said = replay(&house.lodging, &tenant, &[arguments, &["--to", &jsonl]].concat()).await;
        assert!(said.code == 1 && said.told.contains(&told), "{arguments:?}: {}", said.told);
        assert_eq!(said.printed, "", "{arguments:?}");
    }
    let nobody = AnyId::new("ten", new_id()).to_string();
    let output = house.lodging.command(&["replay", "--tenant", &nobody, "--to", &jsonl]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("there is no tenant {nobody}")), "{said}");
    assert!(contents(folder.path()).is_empty(), "{:?}", contents(folder.path()).keys());
}

async fn of_nothing_there_are_empty_files(house: &House) {
    let tenant = house.tenant().await;
    let folder = folder();
    let range = ["--after", "2", "--until", "2", "--type", "order.placed"];
    for name in ["x.jsonl", "x.csv", "x.parquet", "tables/"] {
        let to = file(&folder, name);
        let manifest = replay(&house.lodging, &tenant, &[&range[..], &["--to", &to]].concat()).await.manifest();
        assert_eq!((&manifest["events"], &manifest["counts"]), (&json!(0), &json!({})), "{name}");
    }
    assert_eq!(contents(&folder.path().join("tables")).into_keys().collect::<Vec<_>>(), ["manifest.json"]);
    std::fs::remove_dir_all(folder.path().join("tables")).unwrap();
    let files = contents(folder.path());
    assert_eq!(files["x.jsonl"], b"");
    assert_eq!(files["x.csv"].iter().filter(|byte| **byte == b'\n').count(), 1, "its heading");
    let rows = duckdb(&format!("SELECT count(*), sum(total.amount) FROM '{}'", file(&folder, "x.parquet"))).await;
    assert_eq!(rows, json!([[0, null]]));
}

async fn a_folder_has_the_files_of_its_last_replay(house: &House) {
    let tenant = lived_in(house).await;
    let folder = folder();
    let to = file(&folder, "");
    replay(&house.lodging, &tenant, &["--to", &to]).await.manifest();
    std::fs::write(folder.path().join("mine.parquet"), "not of a replay").unwrap();
    let manifest = replay(&house.lodging, &tenant, &["--type", "order.", "--to", &to]).await.manifest();
    let kept: Vec<_> = contents(folder.path()).into_keys().collect();
    assert_eq!(kept, ["manifest.json", "mine.parquet", "order.placed.parquet", "order.refunded.parquet"]);
    let stored: Value = serde_json::from_slice(&contents(folder.path())["manifest.json"]).unwrap();
    assert_eq!(stored, manifest);
}

async fn a_reader_that_goes_away_ends_it_quietly(house: &House) {
    let tenant = house.tenant().await;
    let customers: Vec<_> = (0..1_000).map(|n| json!({"external_id": format!("c-{n}")})).collect();
    tenant.post("/customers/batch", &json!({"items": customers})).header("idempotency-key", "b").expect(200).await;
    let mut replaying = command(&house.lodging, &tenant, &["--to", "-"]);
    let mut child = replaying.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // Far more is on its way than a pipe holds.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["type"], "tenant.created");
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).await.unwrap();
    assert_eq!((child.wait().await.unwrap().code(), told.as_str()), (Some(0), ""));
}

async fn a_table_is_not_made_of_what_is_not_known(_: &House) {
    let lodging = Lodging::new().await;
    let (tenant, folder) = (lodging.tenant().await, folder());
    let future = event(("order.placed", 9), r#"{"customers":["cus_01h455vb4pex5vsknk084sn02q"]}"#);
    let future = append(lodging.store(), tenant.id.uuid(), ("commerce.order", new_id()), future).await;
    append(lodging.store(), tenant.id.uuid(), ("future.thing", new_id()), event(("thing.happened", 1), "{}")).await;
    let tables = file(&folder, "tables/");
    let said = replay(&lodging, &tenant, &["--to", &tables]).await;
    let told = format!("at sequence {}: unknown event `order.placed` in schema version 9", future.sequence);
    assert!(said.code == 1 && said.told.contains(&told), "{}", said.told);
    assert!(contents(&folder.path().join("tables")).is_empty());
    // What is not asked for is no obstacle, and lines need no columns.
    replay(&lodging, &tenant, &["--type", "api_key.", "--to", &tables]).await.manifest();
    let shown = replay(&lodging, &tenant, &["--to", "-"]).await.printed;
    let last: Vec<Value> = shown.lines().rev().take(2).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&last[0]["type"], &last[1]["schema_version"]), (&json!("thing.happened"), &json!(9)));
    lodging.leave().await;
}

/// The most that a replay may take, in KiB.
const MEMORY: u64 = 300 * 1024;

/// Events of one tenant, made inside the server as if they had been appended: plans that get other names, 300 bytes each.
pub(crate) async fn fill(lodging: &Lodging, tenant: &Tenant, events: u64) {
    let (first, id) = (tenant.first_head, tenant.id.uuid());
    let fill = format!(
        r#"INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type,
               schema_version, actor, occurred_at, recorded_at, payload, metadata, salt)
           SELECT {first} + n, '{id}', {first} + n, (lpad(to_hex(k), 8, '0') || '-0000-7000-8000-000000000000')::uuid,
               'billing.plan', v, (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid,
               CASE v WHEN 1 THEN 'plan.created' ELSE 'plan.renamed' END, 1, 'sys_00000000000000000000000001', at, at,
               CASE v WHEN 1 THEN '{{"name":"' || name || '","price":{{"amount":2000,"currency":"USD"}},"interval":"month"}}'
                   ELSE '{{"name":"' || name || '"}}' END,
               '{{"command":"billing.plan.create"}}', uuid_send(md5(n::text)::uuid)
           FROM generate_series(1, {events}::bigint) AS n,
               LATERAL (SELECT (n - 1) / 10 AS k, (n - 1) % 10 + 1 AS v) AS stream,
               LATERAL (SELECT lpad(n::text, 20, '0') || repeat('x', 220) AS name) AS payload,
               LATERAL (SELECT now() + n * interval '1 microsecond' AS at) AS time;
           UPDATE log_head SET position = {first} + {events}, at = now() + {events} * interval '1 microsecond';
           UPDATE tenant_heads SET sequence = {first} + {events} WHERE tenant_id = '{id}';"#
    );
    let mut writer = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut writer).await.unwrap();
    writer.close().await.unwrap();
}

/// `REPLAY_EVENTS=5000000 CARGO_PROFILE_DEV_OPT_LEVEL=3 ./dev test -p tests -- replay::memory --nocapture` measures.
async fn memory_does_not_grow_with_the_log(_: &House) {
    let events: u64 = std::env::var("REPLAY_EVENTS").map_or(300_000, |events| events.parse().unwrap());
    let lodging = Lodging::new().await;
    let (tenant, folder) = (lodging.tenant().await, folder());
    fill(&lodging, &tenant, events).await;
    for name in ["all.jsonl", "all.csv", "tables/"] {
        let to = file(&folder, name);
        let begun = Instant::now();
        let mut child = command(&lodging, &tenant, &["--to", &to]).stdout(Stdio::null()).spawn().unwrap();
        let (pid, mut peak) = (child.id().unwrap(), 0);
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            peak = highest.map_or(peak, |kib| kib.parse().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(ended.success(), "{name}");
        assert!((1..MEMORY).contains(&peak), "{name}: {peak} KiB for {events} events");
        let rate = events as f64 / begun.elapsed().as_secs_f64();
        eprintln!("{name}: {events} events, {rate:.0} a second, {} MiB at most", peak / 1024);
    }
    let sums = format!(
        "SELECT type, count(*), sum(price.amount)::BIGINT FROM read_parquet('{}*.parquet', union_by_name = true) \
                        WHERE type LIKE 'plan.%' GROUP BY 1 ORDER BY 1",
        file(&folder, "tables/")
    );
    let created = events.div_ceil(10);
    assert_eq!(
        duckdb(&sums).await,
        json!([["plan.created", created, created * 2_000], ["plan.renamed", events - created, null]])
    );
    lodging.leave().await;
}
