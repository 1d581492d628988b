//! Replays over HTTP: the same files as `annals replay` writes, and a trail of who took them out.

use std::time::{Duration, Instant};

use domain::TypedId;
use eventstore::Role;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Answer, Client};
use crate::house::{House, Lodging};
use crate::orders::order;
use crate::privacy::erase;
use crate::processes::{Running, ready};
use crate::replay::{contents, duckdb, file, fill, folder, lived_in, replay, sha256};
use crate::tests;

tests![
    files_and_manifests_are_those_of_the_command_line,
    tables_are_read_by_duckdb_and_those_of_nothing_have_no_rows,
    who_may_not_see_personal_values_gets_none,
    the_trail_says_who_took_what_out,
    what_is_settled_stays_and_a_key_stands_for_one_replay,
    what_is_wrong_is_told_with_its_field,
    an_expression_that_does_not_fit_is_told_or_breaks_the_file_off,
    an_erased_person_is_gone_from_the_next_download,
    readers_that_dawdle_or_vanish_cost_little_and_hold_nothing,
    two_processes_serve_the_same,
];

const NOWHERE: (&str, &str) = ("ANNALS_KAFKA_BROKERS", "");

async fn make(client: &Client, body: &Value) -> Answer {
    client.post("/replays", body).expect(201).await
}

/// The bytes at a path below the address.
async fn bytes(client: &Client, path: &str) -> Vec<u8> {
    let response = client.get(&format!("!{path}")).begin().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.bytes().await.unwrap().to_vec()
}

fn files(replay: &Answer) -> Vec<(&str, &str)> {
    let files = replay.body["files"].as_array().unwrap();
    files.iter().map(|file| (file["name"].as_str().unwrap(), file["href"].as_str().unwrap())).collect()
}

async fn files_and_manifests_are_those_of_the_command_line(house: &House) {
    let tenant = lived_in(house).await;
    let condition = "sequence > 3 && data != null && has(data.customer) || type != 'order.placed'";
    for (format, opened) in [("jsonl", false), ("jsonl", true), ("csv", true), ("parquet", false), ("parquet", true)] {
        let body = json!({"after": 1, "where": condition, "format": format, "open_personal": opened});
        let made = make(&tenant, &body).await;
        let until = made.body["until"].to_string();
        let folder = folder();
        let to = if format == "parquet" { "tables/".to_owned() } else { format!("events.{format}") };
        let to = file(&folder, &to);
        let mut arguments = vec!["--after", "1", "--until", &until, "--where", condition, "--to", &to];
        arguments.extend(opened.then_some("--open-personal"));
        replay(&house.lodging, &tenant, &arguments).await.manifest();
        let written = contents(&if format == "parquet" { folder.path().join("tables") } else { folder.path().into() });
        let links = files(&made);
        let mut checked = 0;
        for (name, text) in &written {
            if name.ends_with("manifest.json") {
                let path = made.body["manifest"].as_str().unwrap();
                assert_eq!(&bytes(&tenant, path).await, text, "{format}: the manifest, to the byte");
                continue;
            }
            let (_, href) = links.iter().find(|(known, _)| known == name).unwrap();
            assert_eq!(&bytes(&tenant, href).await, text, "{name}, to the byte");
            checked += 1;
        }
        assert_eq!(written.len(), checked + 1);
        assert!(checked > 10 || format != "parquet", "{checked} tables");
    }
}

async fn tables_are_read_by_duckdb_and_those_of_nothing_have_no_rows(house: &House) {
    let tenant = lived_in(house).await;
    let made = make(&tenant, &json!({"type": ["order.", "plan.created"], "format": "parquet"})).await;
    assert_eq!(made.body["types"], json!(["order.placed", "order.refunded", "plan.created"]));
    let names: Vec<_> = files(&made).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["order.placed.parquet", "order.refunded.parquet", "plan.created.parquet"]);
    assert_eq!(made.body["files"][0]["media_type"], "application/vnd.apache.parquet");
    let folder = folder();
    let at = async |name: &str| {
        let (_, href) = files(&made).into_iter().find(|(known, _)| *known == name).unwrap();
        let response = tenant.get(&format!("!{href}")).begin().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/vnd.apache.parquet");
        let disposition = response.headers()["content-disposition"].to_str().unwrap().to_owned();
        assert_eq!(disposition, format!("attachment; filename=\"{name}\""));
        std::fs::write(folder.path().join(name), response.bytes().await.unwrap()).unwrap();
        file(&folder, name)
    };
    let orders = at("order.placed.parquet").await;
    let sums = format!("SELECT count(*), count(total), sum(total.amount)::BIGINT, min(total.currency) FROM '{orders}'");
    assert_eq!(duckdb(&sums).await, json!([[4, 3, 4_500, "USD"]]));
    let plans = at("plan.created.parquet").await;
    assert_eq!(duckdb(&format!("SELECT count(*), sum(price.amount) FROM '{plans}'")).await, json!([[0, null]]));
    let path = format!("/replays/{}", made.id());
    let manifest = tenant.get(&format!("{path}/manifest")).expect(200).await;
    let named: Vec<_> = manifest.body["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect();
    assert_eq!(named, ["order.placed.parquet", "order.refunded.parquet"], "those that there are events for");
    for nothing in ["customer.created.parquet", "events.jsonl", "order.placed", "..%2f..", "%00", "order.placed.csv"] {
        tenant.get(&format!("{path}/files/{nothing}")).problem(404, "not-found").await;
    }
    for bad in ["manifest?x=1", "files/order.placed.parquet?x=1"] {
        tenant.get(&format!("{path}/{bad}")).problem(422, "unknown-field").await;
    }
}

async fn who_may_not_see_personal_values_gets_none(house: &House) {
    let (tenant, other) = (lived_in(house).await, house.tenant().await);
    let blind = tenant.key(&["audit:read", "audit:write"]).await;
    let reader = tenant.key(&["audit:read", "personal:read"]).await;
    reader.post("/replays", &json!({"format": "csv"})).problem(403, "forbidden").await;
    let told = blind.post("/replays", &json!({"format": "csv", "open_personal": true})).problem(403, "forbidden").await;
    assert!(told.body["detail"].as_str().unwrap().contains("personal:read"), "{}", told.text);
    // An expression that names a person is for those alone who may see persons; what it finds is null either way.
    let hers = json!({"format": "jsonl", "where": "type == 'customer.created' && data.name == 'Ada'"});
    let made = make(&blind, &hers).await;
    assert_eq!(made.body["where"], Value::Null);
    let manifest = blind.get(&format!("/replays/{}/manifest", made.id())).expect(200).await.body;
    assert_eq!((&manifest["where"], &manifest["events"]), (&Value::Null, &json!(0)), "it sees what it may");
    assert_eq!(bytes(&blind, files(&made)[0].1).await, b"");
    let all = make(&blind, &json!({"format": "jsonl"})).await;
    let text = String::from_utf8(bytes(&reader, files(&all)[0].1).await).unwrap();
    assert!(!text.contains("Ada") && !text.contains("$sealed") && text.contains("order.placed"));
    let opened = make(&tenant, &json!({"open_personal": true, "where": hers["where"], "format": "jsonl"})).await;
    assert_eq!((&opened.body["where"], &opened.body["open_personal"]), (&hers["where"], &json!(true)));
    let path = format!("/replays/{}", opened.id());
    for read in ["/manifest", "/files/events.jsonl"] {
        blind.get(&format!("{path}{read}")).problem(403, "forbidden").await;
        other.get(&format!("{path}{read}")).problem(404, "not-found").await;
    }
    other.get(&path).problem(404, "not-found").await;
    assert_eq!(blind.get(&path).expect(200).await.body["where"], Value::Null);
    let text = String::from_utf8(bytes(&reader, files(&opened)[0].1).await).unwrap();
    assert!(text.lines().count() == 1 && text.contains("Ada"), "{text}");
    let manifest = reader.get(&format!("{path}/manifest")).expect(200).await.body;
    assert_eq!((&manifest["where"], &manifest["personal"]), (&hers["where"], &json!("opened")));
    assert!(other.get("/replays").expect(200).await.data().is_empty());
}

async fn the_trail_says_who_took_what_out(house: &House) {
    let tenant = lived_in(house).await;
    let made = make(&tenant, &json!({"type": "order.placed", "format": "csv", "open_personal": true})).await;
    assert_eq!((made.header("etag"), made.body["status"].as_str()), ("\"1\"", Some("ready")));
    assert_eq!(made.header("location"), format!("/api/v1/replays/{}", made.id()));
    assert_eq!(made.body["requested_by"], tenant.key_id.as_str());
    let trail = tenant.get(&format!("/audit-logs?resource={}", made.id())).after(&made).expect(200).await;
    let entry = &trail.data()[0];
    assert_eq!((&entry["action"], &entry["actor"]), (&json!("replay.requested"), &json!(tenant.key_id)));
    let list = tenant.get("/replays?format=csv").after(&made).expect(200).await;
    assert_eq!(list.data(), std::slice::from_ref(&made.body));
    assert!(tenant.get("/replays?format=jsonl").after(&made).expect(200).await.data().is_empty());
    let history = tenant.get(&format!("/replays/{}/history", made.id())).expect(200).await;
    assert_eq!(history.data()[0]["data"]["types"], json!(["order.placed"]));
    // From the command line, too, where personal values are opened, and before any is.
    let before = tenant.count_events("replay.requested").await;
    let condition = "type == 'note.written' && data.text == 'canary-e1'";
    for (arguments, left) in [(&[][..], 0), (&["--open-personal", "--type", "note.", "--where", condition], 1)] {
        let said = replay(&house.lodging, &tenant, &[arguments, &["--to", "-"]].concat()).await;
        assert_eq!((said.code, said.told.as_str()), (0, ""));
        assert_eq!(tenant.count_events("replay.requested").await, before + left, "{arguments:?}");
    }
    let events = tenant.get(&format!("/events?type=replay.requested&after={}", made.sequence())).expect(200).await;
    let event = &events.data()[0];
    assert!(event["actor"].as_str().unwrap().starts_with("sys_"), "{event}");
    assert_eq!((&event["data"]["where"], &event["data"]["open_personal"]), (&json!(condition), &json!(true)));
    let stored: String = sqlx::query_scalar("SELECT payload FROM events WHERE tenant_id = $1 AND sequence = $2")
        .bind(tenant.id.uuid())
        .bind(event["sequence"].as_i64())
        .fetch_one(&mut PgConnection::connect_with(&house.dsn.options(Role::Owner).unwrap()).await.unwrap())
        .await
        .unwrap();
    assert!(!stored.contains("canary-e1") && stored.contains("$sealed"), "{stored}");
}

async fn what_is_settled_stays_and_a_key_stands_for_one_replay(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let body = json!({"type": "customer.", "format": "jsonl"});
    let keyed = |body: &Value| tenant.post("/replays", body).header("idempotency-key", "k");
    let made = keyed(&body).expect(201).await;
    assert_eq!((&made.body["after"], &made.body["until"]), (&json!(0), &json!(customer.sequence())));
    let text = bytes(&tenant, files(&made)[0].1).await;
    let changed = tenant.patch("/customers/ext:c", &json!({"country": "GB"})).expect(200).await;
    let again = keyed(&body).expect(201).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), ("true", &made.body));
    keyed(&json!({"format": "csv"})).problem(422, "idempotency-key-reused").await;
    assert_eq!(bytes(&tenant, files(&made)[0].1).await, text, "the log went on, the replay did not");
    // Times and tokens mean sequences.
    let events = tenant.get("/events?limit=100").expect(200).await;
    let time = events.data().iter().find(|event| event["sequence"] == customer.sequence()).unwrap();
    let until = json!({"until": time["recorded_at"], "after": "1", "format": "jsonl"});
    let by_time = make(&tenant, &until).await;
    let (after, until) = (by_time.body["after"].as_i64().unwrap(), by_time.body["until"].as_i64().unwrap());
    assert!(after == 1 && (customer.sequence()..changed.sequence()).contains(&until), "{}", by_time.text);
    let nothing = make(&tenant, &json!({"after": 2, "until": 2, "format": "csv"})).await;
    assert_eq!(bytes(&tenant, files(&nothing)[0].1).await.iter().filter(|byte| **byte == b'\n').count(), 1);
}

async fn what_is_wrong_is_told_with_its_field(house: &House) {
    let tenant = house.tenant().await;
    let head = tenant.events_head().await;
    let long = format!("type == '{}'", "x".repeat(2_000));
    let deep = format!("sequence > {}", vec!["0"; 500].join("+"));
    let threefold = "data.lines.all(a, data.lines.all(b, data.lines.all(c, a == c)))";
    for (field, value, told) in [
        ("format", json!("xls"), "one of"),
        ("format", Value::Null, ""),
        ("until", json!(head + 1), "between 0 and"),
        ("until", json!("2999-01-01T00:00:00Z"), "future"),
        ("until", json!("yesterday"), "sequence, or a time"),
        ("until", json!(-1), "a sequence, or a time"),
        ("until", json!(1.5), "a sequence, or a time"),
        ("after", json!(head + 1), "between 0 and"),
        ("after", json!([]), "a sequence, or a time"),
        ("after", json!(head), "lies behind `until`"),
        ("type", json!("order.plced"), "no type of event"),
        ("type", json!(["order.", ""]), "no type of event"),
        ("type", json!([]), "1 to 100"),
        ("type", json!(7), ""),
        ("where", json!("data.total.amount >"), "no expression of CEL"),
        ("where", json!("amount > 5"), "an event has no `amount`"),
        ("where", json!(long), "2000 characters"),
        ("where", json!(deep), "levels deep"),
        ("where", json!(threefold), "2 macros"),
        ("where", json!(""), ""),
        ("open_personal", json!("yes"), ""),
    ] {
        let mut body = json!({"format": "jsonl", "until": head - 1});
        body[field] = value;
        let refused = tenant.post("/replays", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [format!("/{field}")], "{body}: {}", refused.text);
        assert!(refused.text.contains(told), "{body}: {}", refused.text);
    }
    let refused = tenant.post("/replays", &json!({"until": 1})).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/format"], "{}", refused.text);
    let lost = json!({"until": "1@2", "format": "jsonl"});
    tenant.post("/replays", &lost).problem(409, "log-restored").await;
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn an_expression_that_does_not_fit_is_told_or_breaks_the_file_off(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"where": "data.total.amount > 5", "format": "csv"});
    let made = make(&tenant, &body).await;
    for (what, path) in [("a file", files(&made)[0].1), ("the manifest", made.body["manifest"].as_str().unwrap())] {
        let told = tenant.get(&format!("!{path}")).problem(409, "replay-undecided").await;
        assert!(told.body["detail"].as_str().unwrap().contains("at sequence 1: "), "{what}: {}", told.text);
        let blind = tenant.key(&["audit:read"]).await.get(&format!("!{path}")).problem(409, "replay-undecided").await;
        assert!(
            told.text.contains("total") && !blind.text.contains("total"),
            "it may quote the expression: {}",
            blind.text
        );
    }
    // Where it comes late, much is sent already: it does not look like a whole file.
    for n in 0..2 {
        let items: Vec<_> = (0..1_000).map(|_| json!({"country": "GB"})).collect();
        let key = n.to_string();
        tenant.post("/customers/batch", &json!({"items": items})).header("idempotency-key", key).expect(200).await;
    }
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    tenant.post("/orders", &order("ext:c", 5)).expect(201).await;
    for format in ["jsonl", "csv"] {
        let late = json!({"where": "type != 'order.placed' || data.nothing == 1", "format": format});
        let made = make(&tenant, &late).await;
        let response = tenant.get(&format!("!{}", files(&made)[0].1)).begin().await.unwrap();
        assert_eq!(response.status(), 200);
        let broken = response.bytes().await.unwrap_err();
        assert!(broken.is_body() || broken.is_decode() || broken.is_request(), "{broken:?}");
        let told = tenant.get(&format!("/replays/{}/manifest", made.id())).problem(409, "replay-undecided").await;
        assert!(told.body["detail"].as_str().unwrap().contains("nothing"), "{}", told.text);
    }
}

async fn an_erased_person_is_gone_from_the_next_download(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c", "name": "canary-e1"})).expect(201).await;
    let body = json!({"type": "customer.created", "format": "jsonl", "open_personal": true});
    let made = make(&tenant, &body).await;
    let manifest = async || tenant.get(&format!("/replays/{}/manifest", made.id())).expect(200).await.body;
    let before = (String::from_utf8(bytes(&tenant, files(&made)[0].1).await).unwrap(), manifest().await);
    assert!(before.0.contains("canary-e1"));
    erase(&tenant, "ext:c").await;
    let after = (String::from_utf8(bytes(&tenant, files(&made)[0].1).await).unwrap(), manifest().await);
    assert!(!after.0.contains("canary-e1") && after.0.contains(r#""name":null"#), "{}", after.0);
    assert_ne!(before.1["files"][0]["sha256"], after.1["files"][0]["sha256"], "the manifest tells");
    assert_eq!(before.1["counts"], after.1["counts"]);
}

/// Asks for a path and takes a byte of the answer.
async fn ask_and_stall(address: &str, key: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: annals\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_u8().await.unwrap();
    stream
}

/// What a process has in memory, in KiB.
fn resident(serve: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serve.pid())).unwrap();
    let now = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    now.unwrap().parse().unwrap()
}

/// How many transactions the house has open that have been so for a while.
async fn open_transactions(lodging: &Lodging) -> i64 {
    let mut owner = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND xact_start < clock_timestamp() - interval '1 second'";
    let open = sqlx::query_scalar(sql).fetch_one(&mut owner).await.unwrap();
    owner.close().await.unwrap();
    open
}

/// `REPLAY_EVENTS=2000000 ./dev test --test e2e -- replays::readers --nocapture` measures.
async fn readers_that_dawdle_or_vanish_cost_little_and_hold_nothing(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[NOWHERE]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    // Some hundred megabytes.
    let events: u64 = std::env::var("REPLAY_EVENTS").map_or(150_000, |events| events.parse().unwrap());
    fill(&lodging, &tenant, events).await;
    let made = make(&tenant, &json!({"format": "jsonl"})).await;
    let (address, path) = (lodging.address(), files(&made)[0].1);
    let address = address.trim_start_matches("http://");
    let before = resident(&serve);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(ask_and_stall(address, &tenant.secret, path).await);
    }
    let told = tenant.get(&format!("!{path}")).problem(429, "rate-limited").await;
    assert!(!told.header("retry-after").is_empty());
    tenant.get(&format!("/replays/{}/manifest", made.id())).problem(429, "rate-limited").await;
    // Others are served meanwhile, and what is not taken is not read.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = resident(&serve).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for four readers that take nothing");
    assert_eq!(open_transactions(&lodging).await, 0);
    let other = lodging.tenant().await;
    let small = make(&other, &json!({"format": "csv"})).await;
    assert!(!bytes(&other, files(&small)[0].1).await.is_empty());
    // One that vanishes gives its place back.
    stalled.pop();
    let (begun, download) = (Instant::now(), || tenant.get(&format!("!{path}")).begin());
    let mut taken = download().await.unwrap();
    while taken.status() != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
        taken = download().await.unwrap();
    }
    let begun = Instant::now();
    let whole = taken.bytes().await.unwrap();
    let lines = whole.iter().filter(|byte| **byte == b'\n').count() as i64;
    assert_eq!(lines, made.body["until"].as_i64().unwrap(), "every event");
    let (rate, grown) = (lines as f64 / begun.elapsed().as_secs_f64(), resident(&serve).saturating_sub(before));
    eprintln!("{lines} events, {rate:.0} a second, {grown} KiB more than before");
    assert!(grown < 128 * 1024, "{grown} KiB");
    // Of a long one line ends come first: they mean nothing.
    let begun = Instant::now();
    let manifest = bytes(&tenant, made.body["manifest"].as_str().unwrap()).await;
    let ends = manifest.iter().take_while(|byte| **byte == b'\n').count();
    eprintln!("its manifest in {:?}, behind {ends} line ends", begun.elapsed());
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let written = &manifest["files"][0];
    assert_eq!((&written["events"], &written["bytes"]), (&json!(lines), &json!(whole.len())));
    // A process that ends is not held up by those who take nothing; they see that it is not the end.
    let begun = Instant::now();
    assert_eq!(serve.end().await, 0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    let _ = stalled.remove(0).read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
    lodging.leave().await;
}

async fn two_processes_serve_the_same(_: &House) {
    let lodging = Lodging::new().await;
    let address = lodging.free_address();
    let all = [
        Running::start(&lodging, "serve", &[NOWHERE]),
        Running::start(&lodging, "serve", &[NOWHERE, ("ANNALS_LISTEN", &address)]),
    ];
    let tenant = lodging.tenant().await;
    let there = tenant.at(&address);
    ready(&tenant).await;
    ready(&there).await;
    fill(&lodging, &tenant, 30_000).await;
    let customer = tenant.post("/customers", &json!({"external_id": "c", "name": "Ada"})).expect(201).await;
    let body =
        json!({"format": "parquet", "open_personal": true, "where": "type != 'plan.created' || sequence % 3 == 0"});
    let made = make(&tenant, &body).await;
    assert_eq!(made.body["until"], customer.sequence());
    let path = format!("/replays/{}", made.id());
    assert_eq!(there.get(&path).expect(200).await.body, made.body);
    let manifests =
        (made.body["manifest"].as_str().unwrap(), tenant.get(&format!("{path}/manifest")).expect(200).await);
    assert_eq!(bytes(&there, manifests.0).await, manifests.1.text.as_bytes());
    let folder = folder();
    let written = manifests.1.body["files"].as_array().unwrap().clone();
    assert!(written.len() >= 4, "{written:?}");
    for written in written {
        let name = written["name"].as_str().unwrap();
        let (_, href) = files(&made).into_iter().find(|(known, _)| *known == name).unwrap();
        let (here, there) = (bytes(&tenant, href).await, bytes(&there, href).await);
        assert!(here == there, "{name} differs");
        let kept = folder.path().join(name);
        std::fs::write(&kept, here).unwrap();
        assert_eq!(sha256(&kept).await, written["sha256"].as_str().unwrap(), "{name}");
    }
    for serve in all {
        assert_eq!(serve.end().await, 0);
    }
    lodging.leave().await;
}
