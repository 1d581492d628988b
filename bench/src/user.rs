//! A user of the API, and what is said of many times.

use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;

/// Who asks.
#[derive(Clone)]
pub struct User {
    http: Client,
    url: String,
    key: String,
}

impl User {
    pub fn new(url: &str, key: &str) -> Self {
        let http = Client::builder().pool_max_idle_per_host(256).build().expect("a client");
        Self { http, url: url.to_owned(), key: key.to_owned() }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.http.post(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.key).json(body);
        request.send().await.expect("an answer")
    }

    /// Posts, and expects a success with a body.
    pub async fn done(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub async fn get(&self, path: &str, min_sequence: Option<&str>) -> Response {
        let mut request = self.http.get(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.key);
        if let Some(sequence) = min_sequence {
            request = request.header("annals-min-sequence", sequence);
        }
        request.send().await.expect("an answer")
    }

    pub async fn read(&self, path: &str) -> Value {
        let answer = self.get(path, None).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    /// The last sequence of the tenant.
    pub async fn head(&self) -> i64 {
        let answer = self.get("/events?limit=1", None).await;
        answer.headers()["annals-read-sequence"].to_str().expect("text").parse().expect("a number")
    }

    /// Every event of a type after a sequence.
    pub async fn events(&self, after: i64, event_type: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.read(&format!("/events?after={after}&type={event_type}&limit=100{cursor}")).await;
            all.extend(page["data"].as_array().expect("a list").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }
}

/// Prints the percentiles of some times.
pub fn report(what: &str, mut times: Vec<Duration>) {
    assert!(!times.is_empty(), "{what}: nothing was measured");
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
