//! Callers that share one stream and have no keys: their commands are decided one upon the other while those before are on
//! their way. What was acknowledged is there once, where the answer said; what was not may be there, once.

use std::collections::HashMap;
use std::sync::Mutex;

use eventstore::RecordedEvent;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::Run;
use super::load::settled;
use crate::client::Client;

/// How many are on their way at a time, through one process.
const TOGETHER: usize = 6;

/// The stream, and what was said of it.
#[derive(Default)]
pub(super) struct Shared {
    plan: OnceCell<String>,
    /// Each new name of the plan, and the tag of the version that has it, where that was acknowledged.
    renamed: Mutex<Vec<(String, Option<String>)>>,
}

impl Shared {
    /// Gives the plan several names at the same time, each once, whatever becomes of it.
    pub(super) async fn rename(&self, clients: &[Client], through: usize, name: &str) {
        let plan = self.plan.get_or_init(|| async {
            let body = json!({ "name": "shared", "price": { "amount": 100, "currency": "USD" }, "interval": "month" });
            let post = |client: &Client| client.post("/plans", &body).header("idempotency-key", "shared");
            settled(clients, through, post).await.id().to_owned()
        });
        let (path, client) = (format!("/plans/{}", plan.await), &clients[through % clients.len()]);
        let all = (0..TOGETHER).map(|number| {
            let (name, path) = (format!("{name}-{number}"), &path);
            async move {
                let answer = client.patch(path, &json!({ "name": name })).within(super::load::PATIENCE).await;
                let tag = answer.and_then(|answer| match answer.status {
                    200 => Some(answer.header("etag").to_owned()),
                    status => {
                        assert_eq!(status, 503, "{name}: {}", answer.text);
                        None
                    }
                });
                self.renamed.lock().unwrap().push((name, tag));
            }
        });
        join_all(all).await;
    }

    /// Compares what was acknowledged with the log.
    pub(super) fn compare(&self, run: &Run, log: &[RecordedEvent]) {
        let mut stored = HashMap::<String, Vec<String>>::new();
        for event in log.iter().filter(|event| event.event_type == "plan.renamed") {
            let payload: Value = serde_json::from_str(event.payload.as_deref().unwrap()).unwrap();
            let name = payload["name"].as_str().unwrap().to_owned();
            stored.entry(name).or_default().push(format!("\"{}\"", event.version));
        }
        for (name, told) in self.renamed.lock().unwrap().iter() {
            let there = stored.remove(name).unwrap_or_default();
            match told {
                Some(tag) => assert_eq!(there, [tag.as_str()], "{name} was acknowledged"),
                None => assert!(there.len() <= 1, "{name} is there {} times", there.len()),
            }
            run.count("renames of a shared plan", 1);
        }
        assert!(stored.is_empty(), "names that nobody has given: {stored:?}");
    }
}
