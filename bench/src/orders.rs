//! Each client places one order after the other (closed loop); every tenth it also waits until a list shows the order.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::user::{User, report};

#[derive(Clone, clap::Args)]
pub struct Orders {
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

impl Orders {
    pub async fn measure(self, user: User) {
        let name = format!("bench-{}", std::process::id());
        let answer = user.post("/customers", &json!({ "external_id": name })).await;
        assert!([201, 409].contains(&answer.status().as_u16()), "a customer for the orders: {}", answer.status());
        let warm = Instant::now() + Duration::from_secs(self.seconds) / 10;
        let end = warm + Duration::from_secs(self.seconds);
        let clients: Vec<_> = (0..self.clients)
            .map(|_| tokio::spawn(client(user.clone(), format!("ext:{name}"), warm, end)))
            .collect();
        let mut all = Measured::default();
        for client in clients {
            let one = client.await.expect("a client that ends");
            all.commands.extend(one.commands);
            all.visible.extend(one.visible);
        }
        let rate = all.commands.len() as f64 / self.seconds as f64;
        println!("{} clients, {} s: {rate:.0} orders/s", self.clients, self.seconds);
        report("POST /orders", all.commands);
        report("POST /orders to visible in GET /orders", all.visible);
    }
}

async fn client(user: User, customer: String, warm: Instant, end: Instant) -> Measured {
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
        let answer = user.post("/orders", &body).await;
        assert_eq!(answer.status(), 201);
        let sequence = answer.headers()["annals-sequence"].to_str().expect("text").to_owned();
        answer.bytes().await.expect("a body");
        if begun > warm {
            measured.commands.push(begun.elapsed());
        }
        if n % 10 == 0 {
            let list = user.get("/orders", Some(&sequence)).await;
            assert_eq!(list.status(), 200);
            list.bytes().await.expect("a body");
            if begun > warm {
                measured.visible.push(begun.elapsed());
            }
        }
    }
    measured
}
