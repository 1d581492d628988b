//! Latency of single commands over HTTP, and of the way from a command to the list that shows it.
//!
//! Each client places one order after the other (closed loop); every tenth it also waits until a list shows the order.

use std::time::{Duration, Instant};

use clap::Parser;
use reqwest::{Client, Response};
use serde_json::{Value, json};

/// Measures single `POST /orders`, and from there to `GET /orders` with `Annals-Min-Sequence`.
#[derive(Clone, Parser)]
struct Arguments {
    /// Where Annals is.
    #[arg(long, env = "ANNALS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A key with commerce:read and commerce:write.
    #[arg(long, env = "ANNALS_KEY", hide_env_values = true)]
    key: String,
    /// How many clients, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long, after a warm-up of a tenth of it.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Default)]
struct Measured {
    commands: Vec<Duration>,
    visible: Vec<Duration>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let http = Client::builder().pool_max_idle_per_host(arguments.clients).build().expect("a client");
    let name = format!("bench-{}", std::process::id());
    let answer = post(&http, &arguments, "/customers", &json!({ "external_id": name })).await;
    assert!([201, 409].contains(&answer.status().as_u16()), "a customer for the orders: {}", answer.status());
    let warm = Instant::now() + Duration::from_secs(arguments.seconds) / 10;
    let end = warm + Duration::from_secs(arguments.seconds);
    let clients: Vec<_> = (0..arguments.clients)
        .map(|_| tokio::spawn(client(http.clone(), arguments.clone(), format!("ext:{name}"), warm, end)))
        .collect();
    let mut all = Measured::default();
    for client in clients {
        let one = client.await.expect("a client that ends");
        all.commands.extend(one.commands);
        all.visible.extend(one.visible);
    }
    let rate = all.commands.len() as f64 / arguments.seconds as f64;
    println!("{} clients, {} s: {rate:.0} orders/s", arguments.clients, arguments.seconds);
    report("POST /orders", all.commands);
    report("POST /orders to visible in GET /orders", all.visible);
}

async fn post(http: &Client, arguments: &Arguments, path: &str, body: &Value) -> Response {
    let request = http.post(format!("{}/api/v1{path}", arguments.url)).bearer_auth(&arguments.key).json(body);
    request.send().await.expect("an answer")
}

async fn client(http: Client, arguments: Arguments, customer: String, warm: Instant, end: Instant) -> Measured {
    let body = json!({
        "customer": customer, "placed_at": "2026-01-31T12:00:00Z", "currency": "USD",
        "lines": [{"sku": "cd", "quantity": 1, "total": {"amount": 1177, "currency": "USD"}}],
    });
    let mut measured = Measured::default();
    for n in 0.. {
        let begun = Instant::now();
        if begun > end {
            break;
        }
        let answer = post(&http, &arguments, "/orders", &body).await;
        assert_eq!(answer.status(), 201);
        let sequence = answer.headers()["annals-sequence"].clone();
        answer.bytes().await.expect("a body");
        if begun > warm {
            measured.commands.push(begun.elapsed());
        }
        if n % 10 == 0 {
            let request = http.get(format!("{}/api/v1/orders", arguments.url)).bearer_auth(&arguments.key);
            let list = request.header("annals-min-sequence", sequence).send().await.expect("an answer");
            assert_eq!(list.status(), 200);
            list.bytes().await.expect("a body");
            if begun > warm {
                measured.visible.push(begun.elapsed());
            }
        }
    }
    measured
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} measured)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        times.len()
    );
}
