//! What agents of these tests call: a server of ours that answers, delays, fails, hangs, and counts the keys of the
//! attempts that reach it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// See the module. It ends when it is dropped.
pub(crate) struct Provider {
    address: String,
    seen: Arc<Seen>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<Asked>>,
    broken_off: AtomicUsize,
}

/// Counts the calls whose caller has gone before they were answered.
struct Unanswered<'a>(&'a Seen);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.broken_off.fetch_add(1, Ordering::SeqCst);
    }
}

/// A call that came.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let seen = Arc::<Seen>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let routes = Router::new()
            .route("/{manner}", post(answer))
            .route("/{manner}/{argument}", post(answer_with))
            .route("/{manner}/{argument}/chat/completions", post(answer_with))
            .with_state(seen.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, seen, server }
    }

    /// The address of a manner: `ok`, `wait/250`, `status/503`, `flaky/2`, `hang`, `html`, `endless`, `redirect`,
    /// `large/140000`, `busy/1`, `llm/ok`.
    pub(crate) fn url(&self, manner: &str) -> String {
        format!("http://{}/{manner}", self.address)
    }

    /// An agent that works in that manner.
    pub(crate) fn agent(&self, manner: &str) -> Value {
        let retry = json!({"attempts": 3, "initial_seconds": 0.05, "factor": 1.0});
        let http = json!({"url": self.url(manner), "headers": {"x-secret": "canary-secret-header"}});
        json!({"name": manner, "kind": "http", "http": http, "timeout_seconds": 5, "retry": retry})
    }

    pub(crate) fn calls(&self) -> Vec<Asked> {
        self.seen.calls.lock().unwrap().clone()
    }

    /// How often each attempt was called.
    pub(crate) fn keys(&self) -> HashMap<String, usize> {
        let mut keys = HashMap::new();
        for asked in self.calls() {
            *keys.entry(asked.key).or_default() += 1;
        }
        keys
    }

    /// Waits until that many callers have gone without an answer.
    pub(crate) async fn until_broken_off(&self, times: usize) {
        for _ in 0..2_000 {
            if self.seen.broken_off.load(Ordering::SeqCst) >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no call was broken off");
    }

    /// Waits until that many calls have come.
    pub(crate) async fn until_called(&self, times: usize) {
        for _ in 0..2_000 {
            if self.calls().len() >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} calls came, not {times}", self.calls().len());
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(state: State<Arc<Seen>>, Path(manner): Path<String>, request: Request) -> Response<Body> {
    act(&state, &manner, "", request).await
}

async fn answer_with(
    state: State<Arc<Seen>>,
    Path((manner, argument)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    act(&state, &manner, &argument, request).await
}

async fn act(seen: &Seen, manner: &str, argument: &str, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    let key = parts.headers["idempotency-key"].to_str().unwrap().to_owned();
    let run = key.split(':').next().unwrap().to_owned();
    let earlier = {
        let mut calls = seen.calls.lock().unwrap();
        let earlier = calls.iter().filter(|asked| asked.key.starts_with(&run)).count();
        calls.push(Asked { key: key.clone(), headers: parts.headers, body: body.clone() });
        earlier
    };
    let number = argument.parse::<u64>().unwrap_or_default();
    let ok = || axum::Json(json!({"key": key, "echo": body})).into_response();
    let status = |status: u16| {
        let words = format!("canary provider words {}", "x".repeat(2_000));
        (StatusCode::from_u16(status).unwrap(), words).into_response()
    };
    match manner {
        "ok" => ok(),
        "wait" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            ok()
        }
        "status" => status(u16::try_from(number).unwrap()),
        "flaky" if (earlier as u64) < number => status(500),
        "flaky" => ok(),
        "busy" if earlier == 0 => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, number.to_string())], "").into_response()
        }
        "busy" => ok(),
        "hang" => {
            let _unanswered = Unanswered(seen);
            std::future::pending().await
        }
        "html" => (StatusCode::OK, "<p>canary provider words</p>").into_response(),
        "endless" => {
            let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("canary ".repeat(1_000)));
            Body::from_stream(chunks).into_response()
        }
        "redirect" => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("/{argument}"))]).into_response(),
        "large" => axum::Json(json!("x".repeat(usize::try_from(number).unwrap()))).into_response(),
        "llm" => completion(argument, &body),
        other => panic!("the provider knows no manner {other}"),
    }
}

/// As OpenAI's API reference has it.
fn completion(argument: &str, body: &Value) -> Response<Body> {
    if argument != "ok" {
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({"error": {"message": "canary provider words"}})))
            .into_response();
    }
    axum::Json(json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }))
    .into_response()
}
