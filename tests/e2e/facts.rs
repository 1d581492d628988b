//! What a tenant's log says of orders, refunds and subscriptions, read event by event, and naive folds of it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;

use crate::client::Client;

/// What reports are made of, as the log tells it.
pub(crate) struct Facts(Vec<Fact>);

/// What one event says.
#[derive(Clone)]
struct Fact {
    sequence: i64,
    at: DateTime<Utc>,
    kind: String,
    customer: String,
    currency: String,
    /// What an order costs or a refund gives back; by how much MRR moves.
    amount: i64,
}

/// Active customers, orders, and what these cost by currency.
pub(crate) type Bought = (i64, i64, BTreeMap<String, i64>);

/// The month that a moment is in.
pub(crate) fn month(at: DateTime<Utc>) -> String {
    at.format("%Y-%m").to_string()
}

fn time(value: &Value) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().to_utc()
}

impl Facts {
    /// All of a tenant's.
    pub(crate) async fn read(client: &Client) -> Self {
        let (mut facts, mut path) = (Vec::new(), "/events?limit=100".to_owned());
        loop {
            let page = client.get(&path).expect(200).await;
            facts.extend(page.data().iter().filter_map(fact));
            match page.body["next_cursor"].as_str() {
                Some(cursor) => path = format!("/events?limit=100&cursor={cursor}"),
                None => return Self(facts),
            }
        }
    }

    /// Those that were known by a sequence, and had happened by a moment.
    pub(crate) fn known(&self, as_of: i64, effective: DateTime<Utc>) -> Self {
        Self(self.0.iter().filter(|fact| fact.sequence <= as_of && fact.at <= effective).cloned().collect())
    }

    fn of<'a>(&'a self, kinds: &'a [&str]) -> impl Iterator<Item = &'a Fact> {
        self.0.iter().filter(|fact| kinds.contains(&fact.kind.as_str()))
    }

    /// The sequences of orders.
    pub(crate) fn orders(&self) -> Vec<i64> {
        self.of(&["order.placed"]).map(|fact| fact.sequence).collect()
    }

    /// Orders, what they cost and what was given back, by month and currency.
    pub(crate) fn revenue(&self) -> BTreeMap<(String, String), [i64; 3]> {
        let mut cells = BTreeMap::<_, [i64; 3]>::new();
        for fact in self.of(&["order.placed", "order.refunded"]) {
            let cell = cells.entry((month(fact.at), fact.currency.clone())).or_default();
            match fact.kind.as_str() {
                "order.placed" => {
                    cell[0] += 1;
                    cell[1] += fact.amount;
                }
                _ => cell[2] += fact.amount,
            }
        }
        cells
    }

    /// Active customers, orders and what they cost by currency, by the month of the first order and months since.
    pub(crate) fn cohorts(&self) -> BTreeMap<(String, usize), Bought> {
        let mut first = BTreeMap::<&str, DateTime<Utc>>::new();
        for order in self.of(&["order.placed"]) {
            let at = first.entry(&order.customer).or_insert(order.at);
            *at = order.at.min(*at);
        }
        let months = |at: DateTime<Utc>| at.year() as usize * 12 + at.month0() as usize;
        let mut cells = BTreeMap::<_, (BTreeSet<&str>, i64, BTreeMap<String, i64>)>::new();
        for order in self.of(&["order.placed"]) {
            let begun = first[order.customer.as_str()];
            let cell = cells.entry((month(begun), months(order.at) - months(begun))).or_default();
            cell.0.insert(&order.customer);
            cell.1 += 1;
            *cell.2.entry(order.currency.clone()).or_default() += order.amount;
        }
        let counted = cells.into_iter().map(|(key, (active, orders, mut sums))| {
            sums.retain(|_, amount| *amount != 0);
            (key, (active.len() as i64, orders, sums))
        });
        counted.collect()
    }

    /// Which part of those who ordered did so more than once.
    pub(crate) fn repeat_rate(&self) -> Option<f64> {
        let mut orders = BTreeMap::<&str, i64>::new();
        for order in self.of(&["order.placed"]) {
            *orders.entry(&order.customer).or_default() += 1;
        }
        let again = orders.values().filter(|count| **count > 1).count();
        (!orders.is_empty()).then(|| again as f64 / orders.len() as f64)
    }

    /// What subscriptions bring in a month, by currency, where they bring anything.
    pub(crate) fn mrr(&self) -> BTreeMap<String, i64> {
        let mut mrr = BTreeMap::<String, i64>::new();
        for fact in self.of(&["subscription.started", "subscription.changed", "subscription.cancelled"]) {
            *mrr.entry(fact.currency.clone()).or_default() += fact.amount;
        }
        mrr.retain(|_, amount| *amount != 0);
        mrr
    }

    /// How many subscriptions run.
    pub(crate) fn active(&self) -> i64 {
        self.of(&["subscription.started"]).count() as i64 - self.of(&["subscription.cancelled"]).count() as i64
    }
}

fn fact(event: &Value) -> Option<Fact> {
    let (kind, data) = (event["type"].as_str().unwrap(), &event["data"]);
    let amount = |name: &str| data[name]["amount"].as_i64().unwrap_or_default();
    let (at, money, amount) = match kind {
        "order.placed" => (&event["occurred_at"], &data["total"], amount("total")),
        "order.refunded" => (&event["occurred_at"], &data["amount"], amount("amount")),
        "subscription.started" => (&event["occurred_at"], &data["mrr"], amount("mrr")),
        "subscription.changed" => (&event["occurred_at"], &data["mrr"], amount("mrr") - amount("mrr_before")),
        "subscription.cancelled" => (&data["at"], &data["mrr_before"], -amount("mrr_before")),
        _ => return None,
    };
    Some(Fact {
        sequence: event["sequence"].as_i64().unwrap(),
        at: time(at),
        kind: kind.to_owned(),
        customer: data["customer"].as_str().unwrap().to_owned(),
        currency: money["currency"].as_str().unwrap().to_owned(),
        amount,
    })
}
