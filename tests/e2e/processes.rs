//! The binary as an operator runs it: roles apart, without Kafka, interrupted, killed; its command line; the import.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use eventstore::Role;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::house::{House, Lodging, binary};
use crate::orders::order;
use crate::privacy::erase;
use crate::tests;

tests![
    roles_run_apart_and_an_erasure_crosses_them,
    without_kafka_the_log_feeds_the_projectors,
    with_kafka_down_commands_go_on,
    a_terminated_process_finishes_what_it_has_begun,
    what_was_acknowledged_survives_a_kill,
    an_erasure_passes_by_a_stopped_process_which_then_shows_nothing,
    a_wrong_setting_says_which_and_why,
    the_settings_in_force_are_printed_without_secrets,
    the_command_line_explains_itself,
    an_import_goes_on_past_bad_rows_and_can_be_repeated,
    a_revoked_or_expired_key_stops_working,
];

/// A process of the binary; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(lodging: &Lodging, role: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_into(lodging, role, settings, Stdio::null())
    }

    /// The same, with a place for its log.
    pub(crate) fn start_into(lodging: &Lodging, role: &str, settings: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = lodging.command(&[role]);
        command.envs(settings.iter().copied());
        Self::of(command, log)
    }

    pub(crate) fn of(mut command: Command, log: Stdio) -> Self {
        Self { child: command.kill_on_drop(true).stdout(Stdio::null()).stderr(log).spawn().unwrap() }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().unwrap().to_string()
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn kill_now(&mut self) {
        let _ = self.child.start_kill();
    }

    pub(crate) async fn end(mut self) -> i32 {
        self.signal("TERM");
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.expect("it ends by itself").unwrap().code().unwrap_or(-1)
    }
}

/// Waits until the address answers that it is ready.
pub(crate) async fn ready(client: &Client) {
    for _ in 0..600 {
        if client.try_get("!/health/ready").await == Some(200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never ready");
}

async fn roles_run_apart_and_an_erasure_crosses_them(_: &House) {
    let lodging = Lodging::new().await;
    let mut apart = Vec::new();
    for role in ["relay", "project", "work"] {
        apart.push(Running::start(&lodging, role, &[("ANNALS_LISTEN", &lodging.free_address())]));
    }
    let first = Running::start(&lodging, "serve", &[]);
    let second_address = lodging.free_address();
    let second = Running::start(&lodging, "serve", &[("ANNALS_LISTEN", &second_address)]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let other = tenant.at(&second_address);
    ready(&other).await;
    let customer = tenant.post("/customers", &json!({"external_id": "c", "name": "Ada"})).expect(201).await;
    let seen = other.get("/customers/ext:c").expect(200).await;
    assert_eq!(seen.body, customer.body, "the other process opens it too");
    let placed = other.post("/orders", &order("ext:c", 5)).expect(201).await;
    let list = tenant.get("/orders").after(&placed).expect(200).await;
    assert_eq!(list.data().len(), 1);
    // Once the receipt is there, no process opens anything, whatever it had in memory.
    erase(&tenant, customer.id()).await;
    for client in [&*tenant, &other] {
        let read = client.get(&format!("/customers/{}", customer.id())).expect(200).await;
        assert_eq!((read.body["status"].as_str(), &read.body["name"]), (Some("erased"), &Value::Null));
    }
    for process in apart.into_iter().chain([first, second]) {
        assert_eq!(process.end().await, 0);
    }
    lodging.leave().await;
}

async fn without_kafka_the_log_feeds_the_projectors(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let placed = tenant.post("/orders", &order("ext:c", 5)).expect(201).await;
    let list = tenant.get("/orders").after(&placed).expect(200).await;
    assert_eq!(list.data().len(), 1);
    let kpis = tenant.get("/analytics/kpis").after(&placed).expect(200).await;
    assert_eq!(kpis.body["orders"]["value"], 1);
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn with_kafka_down_commands_go_on(_: &House) {
    let lodging = Lodging::new().await;
    let nobody = lodging.free_address();
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", &nobody)]);
    let tenant = lodging.tenant().await;
    tenant.until_answers().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    tenant.get(&format!("/customers/{}", customer.id())).expect(200).await;
    erase(&tenant, customer.id()).await;
    // Ready, for requests are served, and open about what is missing.
    let health = tenant.get("!/health/ready").expect(200).await;
    assert_eq!(
        (health.body["status"].as_str(), health.body["checks"]["kafka"]["status"].as_str()),
        (Some("degraded"), Some("down"))
    );
    tenant.get("!/health/live").expect(200).await;
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn a_terminated_process_finishes_what_it_has_begun(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let items: Vec<_> = (0..1000).map(|n| json!({"external_id": format!("c-{n}")})).collect();
    let body = json!({"items": items});
    let batch = tokio::spawn({
        let tenant = tenant.clone();
        async move { tenant.post("/customers/batch", &body).send().await }
    });
    tenant.until_head_is_above(100).await;
    assert_eq!(all.end().await, 0);
    let answer = batch.await.unwrap();
    assert_eq!(answer.data().iter().filter(|item| item["status"] == 201).count(), 1000, "the whole answer came");
    lodging.leave().await;
}

async fn what_was_acknowledged_survives_a_kill(_: &House) {
    let lodging = Lodging::new().await;
    let mut all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let (mut acknowledged, mut cut_off) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let writers: Vec<_> =
            (0..8).map(|writer| tokio::spawn(write_until_gone(tenant.client.clone(), round * 8 + writer))).collect();
        tenant.until_head_is_above(tenant.events_head().await + 50).await;
        all.signal("KILL");
        for writer in writers {
            let (answered, last) = writer.await.unwrap();
            acknowledged.extend(answered);
            cut_off.push(last);
        }
        drop(all);
        all = Running::start(&lodging, "all", &[]);
        ready(&tenant).await;
    }
    assert!(!acknowledged.is_empty());
    for name in &acknowledged {
        tenant.get(&format!("/orders/ext:{name}")).expect(200).await;
    }
    let before = tenant.count_events("order.placed").await;
    let names: BTreeSet<_> = acknowledged.iter().chain(&cut_off).collect();
    assert!((acknowledged.len()..=names.len()).contains(&before), "{before} orders");
    // Whoever was cut off repeats the request under its key: one order a key, whatever the first attempt came to.
    let retry = async |name| (name, send_order(&tenant.client, name).await);
    let retries = names.iter().map(|name| retry(name));
    for (name, status) in futures::future::join_all(retries).await {
        assert_eq!(status, Some(201), "{name} is answered like the first time, or for the first time");
    }
    assert_eq!(tenant.count_events("order.placed").await, names.len(), "one order a name: none lost, none doubled");
    // Kafka may still wait for a member that was killed: the fold is what counts here, not when it is seen.
    tenant.until("/analytics/kpis", |kpis| kpis["orders"]["value"] == names.len()).await;
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn an_erasure_passes_by_a_stopped_process_which_then_shows_nothing(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let (address, roles) = (lodging.free_address(), "serve");
    let stopped = Running::start(&lodging, roles, &[("ANNALS_LISTEN", &address)]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let other = tenant.at(&address);
    ready(&other).await;
    let customer = tenant.post("/customers", &json!({"external_id": "c", "name": "Stopcanary"})).expect(201).await;
    let path = format!("/customers/{}", customer.id());
    assert_eq!(other.get(&path).expect(200).await.body["name"], "Stopcanary", "its key is in memory");
    let list = other.get("/customers").after(&customer).expect(200).await;
    assert!(list.text.contains("Stopcanary"));
    stopped.signal("STOP");
    let runs_out = row_runs_out(&lodging, roles).await;
    let erased = tokio::time::timeout(Duration::from_secs(15), erase(&tenant, customer.id())).await;
    let erased = erased.expect("an erasure passes by a process that is stopped");
    let destroyed_at: DateTime<Utc> = erased.body["receipt"]["destroyed_at"].as_str().unwrap().parse().unwrap();
    assert!(destroyed_at >= runs_out, "{destroyed_at}: the stopped process counts as running until {runs_out}");
    // It goes on, could say again that it is running, and can't yet look at the log's head: it must not open anything.
    let mut blocker = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let mut held = blocker.begin().await.unwrap();
    sqlx::query("LOCK TABLE log_head IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    // Some wait at its door when it goes on, and more come as soon as it does.
    let paths = [path.clone(), "/customers".into(), format!("{path}/history"), format!("{path}?as_of=9")];
    let askers = (0..16).map(|n| tokio::spawn(ask_until_erased(other.clone(), paths[n % paths.len()].clone())));
    let askers: Vec<_> = askers.collect();
    stopped.signal("CONT");
    for _ in 0..20 {
        // No answer at all is as good as one that shows nothing.
        let answer = tokio::time::timeout(Duration::from_millis(100), other.get(&path).send()).await;
        let shown = answer.is_ok_and(|answer| answer.text.contains("Stopcanary"));
        assert!(!shown, "it shows the person before it can know of the erasure");
    }
    held.rollback().await.unwrap();
    blocker.close().await.unwrap();
    for asker in askers {
        asker.await.unwrap();
    }
    for process in [stopped, all] {
        assert_eq!(process.end().await, 0);
    }
    lodging.leave().await;
}

/// When the row of the process with these roles runs out, unless it is renewed.
async fn row_runs_out(lodging: &Lodging, roles: &str) -> DateTime<Utc> {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    let query = sqlx::query_scalar("SELECT expires_at FROM running_processes WHERE roles = $1").bind(roles);
    query.fetch_one(&mut conn).await.unwrap()
}

/// Asks until the process knows of the erasure again, and many times more; no answer may show the person.
async fn ask_until_erased(client: Client, path: String) {
    let mut good = 0;
    for _ in 0..1_000 {
        // No answer at all is as good as one that shows nothing.
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(2), client.get(&path).send()).await else { continue };
        assert!(matches!(answer.status, 200 | 503), "{path}: {} {}", answer.status, answer.text);
        assert!(!answer.text.contains("Stopcanary"), "{path} shows the person: {}", answer.text);
        good += usize::from(answer.status == 200);
        if good == 50 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path} is never answered again");
}

async fn send_order(client: &Client, name: &str) -> Option<u16> {
    let mut body = order("ext:c", 1);
    body["external_id"] = json!(name);
    client.post("/orders", &body).header("idempotency-key", name).try_send().await
}

/// Places orders one after the other until nobody answers: the names that were acknowledged, and the one that was not.
async fn write_until_gone(client: Client, writer: usize) -> (Vec<String>, String) {
    let mut acknowledged = Vec::new();
    loop {
        let name = format!("o-{writer}-{}", acknowledged.len());
        match send_order(&client, &name).await {
            Some(status) => {
                assert_eq!(status, 201, "{name}");
                acknowledged.push(name);
            }
            None => return (acknowledged, name),
        }
    }
}

async fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn a_wrong_setting_says_which_and_why(house: &House) {
    for (name, value) in [
        ("ANNALS_DATABASE_URL", "mysql://x"),
        ("ANNALS_LISTEN", "everywhere"),
        ("ANNALS_ERASURE_DELAY_SECONDS", "soon"),
        ("ANNALS_ROOT_KEY_FILE", "/nowhere"),
        ("ANNALS_LOG_FORMAT", "xml"),
    ] {
        let (code, _, said) = run(house.lodging.command(&["config"]).env(name, value)).await;
        assert!(code != 0 && said.contains(name), "{name}: {code} {said}");
    }
}

async fn the_settings_in_force_are_printed_without_secrets(house: &House) {
    let (code, printed, said) = run(&mut house.lodging.command(&["config"])).await;
    assert_eq!(code, 0, "{said}");
    assert!(printed.contains("ANNALS_LISTEN") || printed.contains("listen"), "{printed}");
    for secret in house.lodging.secrets() {
        assert!(!printed.contains(&secret) && !said.contains(&secret));
    }
}

async fn the_command_line_explains_itself(_: &House) {
    let (code, help, _) = run(Command::new(binary()).arg("--help")).await;
    assert_eq!(code, 0);
    for word in [
        "all",
        "serve",
        "relay",
        "project",
        "work",
        "migrate",
        "tenants",
        "keys",
        "import",
        "verify-log",
        "schema",
        "projections",
        "processes",
        "config",
    ] {
        assert!(help.contains(word), "{word}: {help}");
        let (code, _, _) = run(Command::new(binary()).args([word, "--help"])).await;
        assert_eq!(code, 0, "{word}");
    }
    let (code, _, said) = run(Command::new(binary()).arg("dance")).await;
    assert!(code != 0 && said.contains("dance"));
}

async fn an_import_goes_on_past_bad_rows_and_can_be_repeated(house: &House) {
    let tenant = house.tenant().await;
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    writeln!(file, "customer,placed_at,quantity,amount,currency").unwrap();
    writeln!(file, "1,1997-01-01T00:00:00Z,1,11.77,USD").unwrap();
    writeln!(file, "2,1997-01-12T00:00:00Z,one,12.00,USD").unwrap();
    writeln!(file, "2,1997-01-12T00:00:00Z,1,12.005,USD").unwrap();
    writeln!(file, "2,1997-01-12T00:00:00Z,5,0,USD").unwrap();
    writeln!(file, "2,1997-01-12T00:00:00Z,5,0,USD").unwrap();
    writeln!(file, "3,1997-13-12T00:00:00Z,5,1,USD").unwrap();
    writeln!(file, "3,1997-12-12T00:00:00Z,5,1,XYZ").unwrap();
    writeln!(file, "4,1997-12-12T00:00:00Z,5,9,JPY").unwrap();
    file.flush().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let base = house.address();
    for _ in 0..2 {
        let mut import = Command::new(binary());
        import.args(["import", "orders", &path, "--key", &tenant.secret, "--url", &base]);
        let (code, _, said) = run(&mut import).await;
        assert_eq!(code, 1, "bad rows are told at the end: {said}");
        for (line, column) in [(3, "quantity"), (4, "amount"), (7, "placed_at"), (8, "currency")] {
            let named = said.lines().any(|text| text.contains(&format!("line {line}")) && text.contains(column));
            assert!(named, "line {line}, {column}: {said}");
        }
    }
    let last = tenant.post("/customers", &json!({})).expect(201).await;
    let orders = tenant.get("/orders?limit=100").after(&last).expect(200).await;
    let mut totals: Vec<_> = orders
        .data()
        .iter()
        .map(|o| (o["total"]["currency"].as_str().unwrap().to_owned(), o["total"]["amount"].as_i64().unwrap()))
        .collect();
    totals.sort();
    let expected = [("JPY", 9), ("USD", 0), ("USD", 0), ("USD", 1177)];
    assert_eq!(totals, expected.map(|(c, a)| (c.to_owned(), a)), "exact doubles are two purchases, and zero is one");
    assert_eq!(tenant.get("/customers/ext:2").expect(200).await.body["external_id"], "2");
}

async fn a_revoked_or_expired_key_stops_working(house: &House) {
    let tenant = house.tenant().await;
    let (id, short) = tenant.key_with_id(&["commerce:read"]).await;
    short.get("/customers").expect(200).await;
    house.revoke(&tenant, &id).await;
    for _ in 0..200 {
        if short.get("/customers").send().await.status == 401 {
            short.get("/customers").problem(401, "invalid-api-key").await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a revoked key still works after 10 s");
}
