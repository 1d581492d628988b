//! A year of a test tenant with monthly subscriptions, by `POST /test-clock`: how long it takes, and whether every renewal
//! happened once and in order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::user::User;

#[derive(Clone, clap::Args)]
pub struct Year {
    /// How many subscriptions.
    #[arg(long, default_value_t = 1_000)]
    subscriptions: usize,
}

impl Year {
    pub async fn measure(self, user: User) {
        // One by one, so that each has a moment of its own and nothing can be done together.
        let body = subscription(&user, None).await;
        for _ in 0..self.subscriptions {
            user.done("/subscriptions", &body).await;
        }
        let subscribed = self.subscriptions;
        let head = user.head().await;
        let now = time(&user.read("/test-clock").await["now"]);
        let begun = Instant::now();
        user.done("/test-clock", &json!({"advance_to": (now + TimeDelta::days(366)).to_rfc3339()})).await;
        while user.read("/test-clock").await["status"] != "ready" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let took = begun.elapsed();
        let renewed = user.events(head, "subscription.renewed").await;
        let mut each = HashMap::<&str, usize>::new();
        for event in &renewed {
            *each.entry(event["stream"].as_str().expect("a stream")).or_default() += 1;
        }
        let in_order = renewed.is_sorted_by_key(|event| time(&event["occurred_at"]));
        let once = each.len() == subscribed && each.values().all(|times| *times == 12);
        println!(
            "a year of {subscribed} monthly subscriptions: {:.1} s, {} renewals ({:.0} a second), each 12 times: {once}, \
             in the order of their moments: {in_order}",
            took.as_secs_f64(),
            renewed.len(),
            renewed.len() as f64 / took.as_secs_f64(),
        );
        assert!(once && in_order);
    }
}

/// A monthly subscription of a new customer.
async fn subscription(user: &User, started_at: Option<DateTime<Utc>>) -> Value {
    let customer = user.done("/customers", &json!({"name": "Bench"})).await;
    let price = json!({"amount": 1000, "currency": "USD"});
    let plan = user.done("/plans", &json!({"name": "Bench", "price": price, "interval": "month"})).await;
    let mut body = json!({"customer": customer["id"], "plan": plan["id"]});
    if let Some(at) = started_at {
        body["started_at"] = json!(at.to_rfc3339());
    }
    body
}

/// Subscribes one customer to a monthly plan many times, since that moment; gives how many.
pub async fn subscribe(user: &User, many: usize, started_at: DateTime<Utc>) -> usize {
    let body = subscription(user, Some(started_at)).await;
    let mut made = 0;
    while made < many {
        let items = vec![body.clone(); (many - made).min(1_000)];
        let batch = user.done("/subscriptions/batch", &json!({ "items": items })).await;
        let good = batch["data"].as_array().expect("a batch").iter().filter(|item| item["status"] == 201).count();
        assert_eq!(good, items.len());
        made += good;
    }
    made
}

pub fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("a time of RFC 3339")
}
