//! A tenant to which things happen by chance, and what differs between two lists of it.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::billing::plan;
use crate::house::Tenant;
use crate::orders::order;
use crate::random::Random;

/// Pointer, before and after of each field that differs, by the resource's id.
pub(super) type Differences = BTreeMap<String, Vec<(String, Value, Value)>>;

/// What a tenant has, and what happens to it by chance.
pub(super) struct Shop<'a> {
    tenant: &'a Tenant,
    random: Random,
    pub(super) plans: Vec<String>,
    /// Ids by type.
    pub(super) made: BTreeMap<&'static str, Vec<String>>,
    done: usize,
}

impl<'a> Shop<'a> {
    pub(super) async fn open(tenant: &'a Tenant, seed: u64) -> Self {
        let mut plans = Vec::new();
        for (amount, interval) in [(500, "month"), (900, "month"), (4_000, "year")] {
            plans.push(tenant.post("/plans", &plan(amount, interval)).expect(201).await.id().to_owned());
        }
        let random = Random::new(seed);
        let mut shop = Self { tenant, random, plans, made: BTreeMap::new(), done: 0 };
        for step in [0, 2, 5, 9] {
            shop.step(step).await;
        }
        shop
    }

    fn any(&mut self, kind: &str) -> String {
        let all = &self.made[kind];
        all[self.random.below(all.len())].clone()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len())]
    }

    async fn make(&mut self, kind: &'static str, path: &str, body: Value) {
        let made = self.tenant.post(path, &body).expect(201).await;
        self.made.entry(kind).or_default().push(made.id().to_owned());
    }

    /// A command; one that a rule refuses changes nothing.
    async fn act(&mut self, method: Method, path: String, body: Value) {
        let call = self.tenant.call(method.clone(), &path).json(&body);
        let call = if method == Method::POST { call.header("idempotency-key", format!("{}", self.done)) } else { call };
        let answer = call.send().await;
        // More than is left is no refund.
        let refused = answer.status == 409 || answer.status == 422 && path.ends_with("/refund");
        assert!(answer.status == 200 || refused, "{path} {body}: {}", answer.text);
    }

    pub(super) async fn any_step(&mut self) {
        let step = self.random.below(12);
        self.step(step).await;
    }

    async fn step(&mut self, step: usize) {
        self.done += 1;
        let number = self.done;
        match step {
            0 => {
                let country = self.one(&[Some("GB"), Some("FR"), None]);
                let body = json!({"external_id": format!("c-{number}"), "name": "Ada", "country": country});
                self.make("customer", "/customers", body).await;
            }
            1 => {
                let field = self.one(&["name", "email", "country"]);
                let value = match field {
                    "name" => json!(format!("Ada {number}")),
                    "email" => json!(format!("ada-{number}@example.com")),
                    _ => json!(self.one(&[Some("GB"), Some("DE"), None])),
                };
                let path = format!("/customers/{}", self.any("customer"));
                self.act(Method::PATCH, path, json!({ field: value })).await;
            }
            2 => {
                let body = order(&self.any("customer"), 1_000);
                self.make("order", "/orders", body).await;
            }
            3 | 4 => {
                let amount = json!({"amount": {"amount": 1 + self.random.below(400), "currency": "USD"}});
                let body = if step == 3 { amount } else { json!({}) };
                let path = format!("/orders/{}/refund", self.any("order"));
                self.act(Method::POST, path, body).await;
            }
            5 => {
                let plan = self.random.below(self.plans.len());
                let body = json!({"customer": self.any("customer"), "plan": self.plans[plan]});
                self.make("subscription", "/subscriptions", body).await;
            }
            6 => {
                let plan = self.random.below(self.plans.len());
                let body = json!({"quantity": 1 + self.random.below(5), "plan": self.plans[plan]});
                let path = format!("/subscriptions/{}", self.any("subscription"));
                self.act(Method::PATCH, path, body).await;
            }
            7 | 8 => {
                let subscription = self.any("subscription");
                let body = json!({"at": self.one(&["now", "period_end"]), "reason": "Moves."});
                let (verb, body) = if step == 7 { ("cancel", body) } else { ("reactivate", json!({})) };
                self.act(Method::POST, format!("/subscriptions/{subscription}/{verb}"), body).await;
            }
            9 => {
                let body = json!({"name": format!("Agent {number}"), "kind": "http", "http": self.http()});
                self.make("agent", "/agents", body).await;
            }
            _ => {
                let body = json!({"kind": "http", "http": self.http(), "timeout_seconds": 1 + self.random.below(60)});
                let path = format!("/agents/{}/configure", self.any("agent"));
                self.act(Method::POST, path, body).await;
            }
        }
    }

    fn http(&mut self) -> Value {
        let number = self.random.below(3);
        json!({"url": format!("http://127.0.0.1:9/{number}"), "headers": {"x-key": format!("canary-secret-{number}")}})
    }
}

/// What became of each resource, from what lists showed of it.
pub(super) fn difference(before: &[Value], after: &[Value]) -> Differences {
    let by_id = |list: &[Value]| -> BTreeMap<String, Value> {
        list.iter().map(|entry| (entry["id"].as_str().unwrap().to_owned(), entry.clone())).collect()
    };
    let old = by_id(before);
    let differing = by_id(after).into_iter().filter(|(id, new)| old.get(id) != Some(new));
    differing
        .map(|(id, new)| {
            let mut fields = Vec::new();
            let old = old.get(&id).cloned().unwrap_or_else(|| json!({"id": new["id"], "object": new["object"]}));
            leaves("", &old, &new, &mut fields);
            (id, fields)
        })
        .collect()
}

/// The fields of which both sides do not have the same, as the API tells them.
fn leaves(at: &str, old: &Value, new: &Value, fields: &mut Vec<(String, Value, Value)>) {
    let names: Vec<String> = match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.keys().chain(new.keys()).cloned().collect(),
        (Value::Array(old), Value::Array(new)) => (0..old.len().max(new.len())).map(|n| n.to_string()).collect(),
        _ if old == new => return,
        _ => return fields.push((at.to_owned(), old.clone(), new.clone())),
    };
    let of = |value: &Value, name: &str| value.pointer(&format!("/{name}")).cloned().unwrap_or_default();
    for name in names.into_iter().collect::<BTreeSet<_>>() {
        leaves(&format!("{at}/{name}"), &of(old, &name), &of(new, &name), fields);
    }
}
