//! What clients do while the log of their house is restored, and what there is to see of it afterwards.

use std::time::{Duration, Instant};

use eventstore::Role;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::client::{Answer, Call, Client};
use crate::house::{Lodging, Tenant};
use crate::orders::order;
use crate::topic::{Published, Topic};

/// The log's lives: number and first position.
pub(crate) async fn lives(lodging: &Lodging) -> Vec<(i64, i64)> {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    let all = sqlx::query_as("SELECT id, first_position FROM log_incarnations ORDER BY id");
    let all = all.fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    all
}

/// Why the newest life was begun.
pub(crate) async fn reason(lodging: &Lodging) -> String {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    let reason = sqlx::query_scalar("SELECT reason FROM log_incarnations ORDER BY id DESC LIMIT 1");
    let reason = reason.fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    reason
}

/// Sends until somebody takes it: a server that was gone costs every connection.
pub(crate) async fn until_taken(call: impl Fn() -> Call) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = call().send().await;
        if answer.status != 503 {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody takes it: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is answered at last, and must be well.
pub(crate) async fn answered(call: impl Fn() -> Call) -> Answer {
    let answer = until_taken(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

/// The problem that is answered at last.
pub(crate) async fn refused(call: impl Fn() -> Call, status: u16, code: &str) -> Answer {
    let answer = until_taken(call).await;
    answer.is_problem(status, code);
    answer
}

pub(crate) async fn place(tenant: &Tenant, key: &str, customer: &str, amount: i64) -> Answer {
    let body = order(customer, amount);
    let placed = until_taken(|| tenant.post("/orders", &body).header("idempotency-key", key)).await;
    assert_eq!(placed.status, 201, "{}", placed.text);
    placed
}

pub(crate) async fn create(tenant: &Tenant, external_id: &str) -> Answer {
    let (body, key) = (json!({ "external_id": external_id, "name": "Ada" }), format!("create-{external_id}"));
    let created = until_taken(|| tenant.post("/customers", &body).header("idempotency-key", &key)).await;
    assert_eq!(created.status, 201, "{}", created.text);
    created
}

/// The ids in a list, newest first, once it has seen that write.
pub(crate) async fn listed(tenant: &Tenant, path: &str, after: &Answer) -> Vec<String> {
    let answer = answered(|| tenant.get(path).after(after)).await;
    answer.data().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// The revenue of the month of the orders.
pub(crate) async fn revenue(tenant: &Tenant, after: &Answer) -> Value {
    let report = answered(|| tenant.get("/analytics/revenue").after(after)).await;
    report.body["data"][0]["net"].clone()
}

/// A client of a tenant that the command line makes just now.
pub(crate) async fn newcomer(lodging: &Lodging, tenant: &Tenant) -> Client {
    let made = async |arguments: &[&str]| -> Value {
        let output = lodging.command(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let id = made(&["tenants", "create", "--name", "New"]).await["id"].as_str().unwrap().to_owned();
    let scopes = ["--scope", "commerce:read", "--scope", "commerce:write"];
    let key = made(&[&["keys", "create", "--tenant", &id, "--name", "n"][..], &scopes].concat()).await;
    tenant.client.with_key(key["key"].as_str())
}

/// Waits until an event of a life is in Kafka.
pub(crate) async fn until_published(lodging: &Lodging, event: (i64, i64)) {
    for _ in 0..300 {
        if published(lodging).contains(&event) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{event:?} was never published");
}

/// What was published: position and incarnation of each event.
pub(crate) fn published(lodging: &Lodging) -> Vec<(i64, i64)> {
    let all = Topic::shared(&lodging.topic).read();
    let event = |message: &Published| message.number("annalsposition").zip(message.number("annalsincarnation"));
    all.iter().filter_map(event).collect()
}
