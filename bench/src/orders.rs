//! Orders, by clients that place one after the other (closed loop), or at a fixed rate whatever the answers take (open loop);
//! of every tenth, or as is asked for, it is also waited for until a list shows it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::user::{User, report};

#[derive(Clone, clap::Args)]
pub struct Orders {
    /// How many clients, each with one request at a time.
    #[arg(long, default_value_t = 16, conflicts_with = "rate")]
    clients: usize,
    /// Begin so many a second in place of clients; latency counts from the moment at which an order should have begun.
    #[arg(long)]
    rate: Option<u32>,
    /// Name the customer by our id, not by its own.
    #[arg(long)]
    by_id: bool,
    /// Wait for every so manieth until a list shows it; 0 for none.
    #[arg(long, default_value_t = 10)]
    list_every: usize,
    /// How long, after a warm-up of a tenth of it.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Default)]
struct Measured {
    commands: Vec<Duration>,
    visible: Vec<Duration>,
}

impl Orders {
    pub async fn measure(self, user: User) {
        let name = format!("bench-{}", std::process::id());
        let made = user.done("/customers", &json!({ "external_id": name })).await;
        // By its own name, which takes a look at the log, or by ours, which takes none.
        let customer = if self.by_id { made["id"].as_str().expect("an id").to_owned() } else { format!("ext:{name}") };
        let warm = Instant::now() + Duration::from_secs(self.seconds) / 10;
        let end = warm + Duration::from_secs(self.seconds);
        let order = Arc::new(order(&customer));
        let (loaded, how) = match self.rate {
            Some(rate) => (open(&user, &order, (rate, self.list_every), warm, end).await, format!("{rate} a second asked for")),
            None => (closed(&user, &order, (self.clients, self.list_every), warm, end).await, format!("{} clients", self.clients)),
        };
        let rate = loaded.commands.len() as f64 / self.seconds as f64;
        println!("{how}, {} s: {rate:.0} orders/s", self.seconds);
        report("POST /orders", loaded.commands);
        if self.list_every > 0 {
            report("POST /orders to visible in GET /orders", loaded.visible);
        }
    }
}

fn order(customer: &str) -> Value {
    json!({
        "customer": customer, "placed_at": "2026-01-31T12:00:00Z", "currency": "USD",
        "lines": [{"sku": "cd", "quantity": 1, "total": {"amount": 1177, "currency": "USD"}}],
    })
}

async fn closed(user: &User, order: &Arc<Value>, (clients, every): (usize, usize), warm: Instant, end: Instant) -> Measured {
    let client = |_| {
        let (user, order) = (user.clone(), order.clone());
        async move {
            let mut measured = Measured::default();
            for n in 0_usize.. {
                let begun = Instant::now();
                if begun > end {
                    break;
                }
                let (command, visible) = place(&user, &order, begun, listed(n, every)).await;
                if begun > warm {
                    measured.commands.push(command);
                    measured.visible.extend(visible);
                }
            }
            measured
        }
    };
    let clients: JoinSet<Measured> = (0..clients).map(client).collect();
    clients.join_all().await.into_iter().fold(Measured::default(), |mut all, one| {
        all.commands.extend(one.commands);
        all.visible.extend(one.visible);
        all
    })
}

async fn open(user: &User, order: &Arc<Value>, (rate, every): (u32, usize), warm: Instant, end: Instant) -> Measured {
    let mut under_way = JoinSet::new();
    let first = Instant::now();
    for n in 0.. {
        let due = first + Duration::from_secs(1) * n / rate;
        if due > end {
            break;
        }
        tokio::time::sleep_until(due).await;
        let (user, order) = (user.clone(), order.clone());
        under_way.spawn(async move { (due, place(&user, &order, due, listed(n as usize, every)).await) });
    }
    let mut measured = Measured::default();
    for (due, (command, visible)) in under_way.join_all().await {
        if due > warm {
            measured.commands.push(command);
            measured.visible.extend(visible);
        }
    }
    measured
}

fn listed(number: usize, every: usize) -> bool {
    every > 0 && number.is_multiple_of(every)
}

/// Places an order, and perhaps reads a list that shows it; gives how long each took since `begun`.
async fn place(user: &User, order: &Value, begun: Instant, read: bool) -> (Duration, Option<Duration>) {
    let answer = user.post("/orders", order).await;
    assert_eq!(answer.status(), 201);
    let sequence = answer.headers()["annals-sequence"].to_str().expect("text").to_owned();
    answer.bytes().await.expect("a body");
    let command = begun.elapsed();
    if !read {
        return (command, None);
    }
    let list = user.get("/orders", Some(&sequence)).await;
    assert_eq!(list.status(), 200);
    list.bytes().await.expect("a body");
    (command, Some(begun.elapsed()))
}
