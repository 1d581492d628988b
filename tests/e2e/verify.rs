//! `annals verify-log`: it finds a good log good, and whatever is done to one behind its back.

use eventstore::{Role, WriteDsn};
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::house::{House, Lodging};
use crate::lodging::{drop_database, setting};
use crate::orders::order;
use crate::privacy::erase;
use crate::processes::{Running, ready};
use crate::tests;

tests![a_good_log_is_found_good, whatever_is_done_to_a_log_is_found_and_named];

/// What `annals verify-log` says of the log: its exit code, what it printed, what it told.
pub(crate) async fn verify(lodging: &Lodging) -> (i32, Value, String) {
    said(lodging.command(&["verify-log"]).output().await.unwrap())
}

fn said(output: std::process::Output) -> (i32, Value, String) {
    let told = String::from_utf8(output.stderr).unwrap();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {told}"));
    (output.status.code().unwrap(), printed, told)
}

/// A log with something of everything, which nobody writes to any more.
async fn lived_in() -> Lodging {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let customers: Vec<_> =
        (0..20).map(|n| json!({"external_id": format!("c-{n}"), "email": format!("c-{n}@example.com")})).collect();
    tenant.post("/customers/batch", &json!({"items": customers})).header("idempotency-key", "b").expect(200).await;
    let placed = tenant.post("/orders", &order("ext:c-0", 5)).expect(201).await;
    let refund = format!("/orders/{}/refund", placed.id());
    tenant.post(&refund, &json!({"reason": "scratched"})).header("idempotency-key", "r").expect(200).await;
    let note = tenant.post("/notes", &json!({"customer": "ext:c-0", "kind": "call", "text": "asks"})).expect(201).await;
    tenant.patch(&format!("/notes/{}", note.id()), &json!({"text": "asks again"})).expect(200).await;
    let customer = tenant.get("/customers/ext:c-0").expect(200).await;
    erase(&tenant, customer.id()).await;
    let clocked = lodging.test_tenant().await;
    clocked.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    clocked.post("/test-clock", &json!({"advance_to": "2100-01-01T00:00:00Z"})).problem(422, "validation-failed").await;
    assert_eq!(all.end().await, 0);
    let mut owner = connect(&lodging, Role::Owner).await;
    let redacted: Vec<u8> =
        sqlx::query_scalar("SELECT redact_event(tenant_id, sequence) FROM events WHERE position = 5")
            .fetch_one(&mut owner)
            .await
            .unwrap();
    assert_eq!(redacted.len(), 32);
    owner.close().await.unwrap();
    lodging
}

async fn connect(lodging: &Lodging, role: Role) -> PgConnection {
    PgConnection::connect_with(&lodging.dsn.options(role).unwrap()).await.unwrap()
}

async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn a_good_log_is_found_good(_: &House) {
    let lodging = lived_in().await;
    let (code, printed, told) = verify(&lodging).await;
    assert_eq!((code, &printed["ok"], &printed["violations"]), (0, &json!(true), &json!(0)), "{told}");
    let mut reader = connect(&lodging, Role::Reader).await;
    let (events, streams, tenants): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT (tenant_id, stream_id)), count(DISTINCT tenant_id) FROM events",
    )
    .fetch_one(&mut reader)
    .await
    .unwrap();
    let counted =
        [&printed["head"], &printed["events"], &printed["streams"], &printed["tenants"], &printed["redacted"]];
    assert_eq!(counted.map(|count| count.as_i64().unwrap()), [events, events, streams, tenants, 1]);
    let types = printed["types"].as_array().unwrap();
    assert_eq!(types.iter().map(|kind| kind["count"].as_i64().unwrap()).sum::<i64>(), events);
    assert!(printed["beside"]["idempotency_keys"].as_i64().unwrap() >= 2, "{printed}");
    let again = verify(&lodging).await.1;
    assert_eq!((&again["digest"], again["digest"].as_str().unwrap().len()), (&printed["digest"], 64));
    reader.close().await.unwrap();
    lodging.leave().await;
}

/// What is done to the log by somebody who may do anything, and what is told of it: all of this, and nothing else.
const DEEDS: &[(&str, &[&str])] = &[
    ("DELETE FROM events WHERE position = 3", &["positions 3 to 3 are missing", "its sequence follows on", "a row of "]),
    (
        "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
        &["are missing", "log_head stands at", "its head stands at sequence", "a row of "],
    ),
    (
        "UPDATE events SET version = 9 WHERE position = (SELECT max(position) FROM events WHERE event_type = 'customer.created')",
        &["the version before 9 of stream", "a row of "],
    ),
    (
        "UPDATE events SET stream_type = 'crm.note' WHERE event_type = 'order.refunded'",
        &["had another type before", "does not belong into a stream of type `crm.note`", "a row of idempotency_keys"],
    ),
    (
        "UPDATE events SET sequence = sequence + 1000 WHERE position = 8",
        &["position 8", "its sequence follows on", "its head stands at sequence"],
    ),
    (
        "UPDATE events a SET recorded_at = b.recorded_at FROM events b
         WHERE (a.position, b.position) IN ((1, 12), (12, 1))",
        &["it was recorded at"],
    ),
    (
        "UPDATE events SET event_id = (SELECT event_id FROM events WHERE position = 10) WHERE position = 12",
        &["positions 10 and 12 have the same event_id"],
    ),
    ("UPDATE events SET event_id = gen_random_uuid() WHERE position = 10", &["position 10, ", "no UUIDv7"]),
    (
        "UPDATE events SET payload = '{}' WHERE event_type = 'order.placed'",
        &["does not fit the schema of `order.placed` in version 1", "can't be read as `order.placed` in version 1"],
    ),
    (r#"UPDATE events SET payload = '{"a":' WHERE position = 11"#, &["position 11, ", "not JSON"]),
    (
        r#"UPDATE events SET payload = replace(payload, '"$sealed"', '"$open"') WHERE event_type = 'order.refunded'"#,
        &["a personal value stands open in its payload"],
    ),
    (
        "UPDATE events SET subjects = NULL WHERE event_type = 'note.rewritten'",
        &["a sealed value, and it names no person"],
    ),
    (
        "UPDATE events SET subjects = ARRAY[gone.subject] FROM (SELECT * FROM subjects WHERE erased_at IS NOT NULL) gone
         WHERE events.tenant_id = gone.tenant_id AND event_type = 'erasure.settled'",
        &["it is about a person who was erased before"],
    ),
    ("UPDATE events SET metadata = '[]' WHERE position = 12", &["position 12, ", "metadata is no JSON object"]),
    ("UPDATE events SET actor = 'somebody' WHERE position = 12", &["position 12, ", "actor is no TypeID"]),
    (
        "UPDATE events SET event_type = 'order.sent' WHERE event_type = 'order.placed'",
        &["does not know `order.sent` in version 1", "does not belong into a stream of type `commerce.order`"],
    ),
    (
        "UPDATE events SET schema_version = 7 WHERE event_type = 'order.placed'",
        &["does not know `order.placed` in version 7"],
    ),
    (
        r"ALTER TABLE events DROP CONSTRAINT events_check; UPDATE events SET salt = '\x00' WHERE position = 13",
        &["either its body or its hash", "position 13, ", "salt does not have 16 bytes"],
    ),
    ("ALTER TABLE events DROP CONSTRAINT events_tenant_id_sequence_key", &["lacks UNIQUE (tenant_id, sequence)"]),
    (
        "UPDATE log_incarnations SET first_position = 1000000",
        &["the first incarnation of the log is not 1", "beyond the head"],
    ),
    ("UPDATE log_head SET position = position + 1", &["are missing", "log_head stands at"]),
    ("UPDATE log_head SET at = '2020-01-01'", &["log_head is of 2020-01-01"]),
    ("UPDATE log_head SET epoch = epoch + (2::bigint << 32)", &["log_head has an epoch of incarnation 2, and the newest is 1"]),
    ("UPDATE tenant_heads SET sequence = sequence + 1", &["its head stands at sequence"]),
    ("DELETE FROM tenant_heads", &["its tenant has no head", "a row of "]),
    ("UPDATE idempotency_keys SET version = 77", &["a row of idempotency_keys"]),
    (
        "INSERT INTO idempotency_keys SELECT day - 1, tenant_id, key, item, fingerprint, status, stream_type, stream_id,
            version, sequence FROM idempotency_keys",
        &["answers under a key that was answered the day before"],
    ),
    (
        r"INSERT INTO unique_claims SELECT tenant_id, 'x', '\x00', gen_random_uuid() FROM tenant_heads",
        &["a row of unique_claims"],
    ),
    (
        "INSERT INTO process_work SELECT tenant_id, gen_random_uuid(), 'x', now() FROM tenant_heads",
        &["a row of process_work"],
    ),
    (
        "INSERT INTO subjects SELECT tenant_id, gen_random_uuid(), NULL, NULL, now() FROM tenant_heads",
        &["a row of subjects"],
    ),
    (
        "INSERT INTO process_commands VALUES (gen_random_uuid(), gen_random_uuid())",
        &["a row of process_commands"],
    ),
    ("INSERT INTO process_cursor VALUES ('x', 1000000)", &["process_cursor stands at 1000000"]),
    ("ALTER TABLE events DROP CONSTRAINT events_check", &["either its body or its hash"]),
    ("ALTER POLICY events_api ON events USING (true)", &["the policies of the events"]),
    ("CREATE POLICY events_all ON events TO annals_api USING (true)", &["the policies of the events"]),
    ("GRANT UPDATE ON events TO annals_writer", &["somebody may do more to the events"]),
    (
        "CREATE OR REPLACE FUNCTION guard_events() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        &["the function that guards the events"],
    ),
    ("SELECT; -- the guards are left down", &["triggers that guard", "row-level security"]),
];

/// The guards that whoever may do anything takes down first, and puts up again to leave no trace.
const TABLES: &str =
    "events, log_head, tenant_heads, idempotency_keys, unique_claims, process_work, subjects, process_commands";

async fn whatever_is_done_to_a_log_is_found_and_named(_: &House) {
    let lodging = lived_in().await;
    lodging.store().close().await;
    let mut found = Vec::new();
    for (first, deeds) in DEEDS.chunks(4).enumerate() {
        let verified = deeds.iter().enumerate().map(|(at, (sql, _))| verify_after(&lodging, first * 4 + at, sql));
        for ((sql, expected), verified) in deeds.iter().zip(join_all(verified).await) {
            found.extend(complaints(sql, expected, &verified));
        }
    }
    lodging.leave().await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Where what is told is not what is expected.
fn complaints(sql: &str, expected: &[&str], (code, printed, told): &(i32, Value, String)) -> Vec<String> {
    let mut complaints = Vec::new();
    if *code != 1 || printed["ok"] != false || printed["violations"] != told.lines().count() {
        complaints.push(format!("{sql} ends with {code}: {printed}"));
    }
    let unsaid = expected.iter().filter(|phrase| !told.contains(**phrase));
    complaints.extend(unsaid.map(|phrase| format!("{sql}: nothing is said of `{phrase}`: {told}")));
    let odd = told.lines().filter(|line| !expected.iter().any(|phrase| line.contains(phrase)));
    complaints.extend(odd.map(|line| format!("{sql}: {line}")));
    complaints
}

/// Does it to a copy of the log, and verifies that.
async fn verify_after(lodging: &Lodging, number: usize, sql: &str) -> (i32, Value, String) {
    let (server, database) = lodging.dsn.url.rsplit_once('/').unwrap();
    let copy = format!("{database}_{number}");
    let admin = WriteDsn { url: setting("ANNALS_DATABASE_URL"), credentials: lodging.dsn.credentials.clone() };
    let mut admin = PgConnection::connect_with(&admin.options(Role::Owner).unwrap()).await.unwrap();
    create_copy(&mut admin, &copy, database).await;
    let dsn = WriteDsn { url: format!("{server}/{copy}"), credentials: lodging.dsn.credentials.clone() };
    let mut owner = PgConnection::connect_with(&dsn.options(Role::Owner).unwrap()).await.unwrap();
    run(&mut owner, "ALTER TABLE events DISABLE TRIGGER USER").await;
    for table in TABLES.split(", ") {
        run(&mut owner, &format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")).await;
    }
    run(&mut owner, sql).await;
    if !sql.contains("left down") {
        for table in TABLES.split(", ").filter(|table| *table != "log_head") {
            run(&mut owner, &format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")).await;
        }
        run(&mut owner, "ALTER TABLE events ENABLE TRIGGER USER").await;
    }
    owner.close().await.unwrap();
    let output = lodging.command(&["verify-log"]).env("ANNALS_DATABASE_URL", &dsn.url).output().await.unwrap();
    admin.close().await.unwrap();
    drop_database(&copy).await;
    said(output)
}

/// A database can be copied while nobody is connected to it: those that just left may still be leaving.
async fn create_copy(admin: &mut PgConnection, copy: &str, of: &str) {
    for _ in 0..200 {
        match sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {copy} TEMPLATE {of}"))).execute(&mut *admin).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55006", "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{of} is still in use");
}
