//! A REST consumer: sends, and says at each call which status it expects.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// How many reads were answered 503 `unavailable` where the caller expected another answer.
pub(crate) static UNAVAILABLE: AtomicUsize = AtomicUsize::new(0);
/// How many of them a run may have.
pub(crate) const MAY_BE_UNAVAILABLE: usize = 3;

/// Who calls: an address and a key.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// A request that is about to be sent.
pub(crate) struct Call(RequestBuilder, String);

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
    what: String,
}

impl Client {
    pub(crate) fn new(http: &reqwest::Client, base: &str, key: Option<&str>) -> Self {
        Self { http: http.clone(), base: base.to_owned(), key: key.map(str::to_owned) }
    }

    /// The same address with another key, or none.
    pub(crate) fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The same address with another key, over connections of its own, which belong to the runtime that makes them.
    pub(crate) fn elsewhere(&self, key: &str) -> Self {
        Self { http: reqwest::Client::new(), ..self.with_key(Some(key)) }
    }

    /// The same key at another address.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self { base: format!("http://{address}"), ..self.clone() }
    }

    /// The status of a GET, if anybody answers.
    pub(crate) async fn try_get(&self, path: &str) -> Option<u16> {
        self.get(path).try_send().await
    }

    /// A request to a path below `/api/v1`, or to one that begins with `!` as it stands.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let url = match path.strip_prefix('!') {
            Some(path) => format!("{}{path}", self.base),
            None => format!("{}/api/v1{path}", self.base),
        };
        let what = format!("{method} {url}");
        let request = self.http.request(method, url);
        Call(
            match &self.key {
                Some(key) => request.bearer_auth(key),
                None => request,
            },
            what,
        )
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Call {
        self.call(Method::POST, path).json(body)
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Call {
        self.call(Method::PATCH, path).json(body)
    }
}

impl Call {
    pub(crate) fn json(self, body: &Value) -> Self {
        Self(self.0.json(body), self.1)
    }

    /// A body as it stands, of that content type.
    pub(crate) fn raw(self, content_type: &'static str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", content_type).body(body), self.1)
    }

    pub(crate) fn header(self, name: &'static str, value: impl AsRef<str>) -> Self {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_str(value.as_ref()).unwrap());
        Self(self.0.header(name, value), self.1)
    }

    /// Reads what that write has changed.
    pub(crate) fn after(self, write: &Answer) -> Self {
        self.header("annals-min-sequence", write.header("annals-sequence"))
    }

    pub(crate) async fn send(self) -> Answer {
        self.answer().await.unwrap()
    }

    async fn answer(self) -> reqwest::Result<Answer> {
        let response = self.0.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body, what: self.1 })
    }

    /// The answer as it begins; what follows is still to come.
    pub(crate) async fn begin(self) -> reqwest::Result<reqwest::Response> {
        self.0.send().await
    }

    /// The answer, if it comes whole and in time.
    pub(crate) async fn within(self, patience: Duration) -> Option<Answer> {
        tokio::time::timeout(patience, self.answer()).await.ok()?.ok()
    }

    /// The status, if anybody answers.
    pub(crate) async fn try_send(self) -> Option<u16> {
        self.answer().await.ok().map(|answer| answer.status)
    }

    /// Sends and expects that status. A read that is answered 503 `unavailable` is repeated once, as every caller is told
    /// to: a machine that stands still for ten seconds is no fault of what is tested. A run has few of them ([`UNAVAILABLE`]).
    pub(crate) async fn expect(self, status: u16) -> Answer {
        let again = if self.1.starts_with("GET ") && status != 503 { self.0.try_clone() } else { None };
        let what = self.1.clone();
        let mut answer = self.send().await;
        if let Some(again) = again.filter(|_| answer.status == 503 && answer.body["code"] == "unavailable") {
            UNAVAILABLE.fetch_add(1, Ordering::Relaxed);
            let seconds = answer.header("retry-after").parse().unwrap();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            answer = Self(again, what).send().await;
        }
        assert_eq!(answer.status, status, "{}: {}", answer.what, answer.text);
        answer
    }

    /// Sends and expects that problem, in the shape that every problem has.
    pub(crate) async fn problem(self, status: u16, code: &str) -> Answer {
        let answer = self.send().await;
        answer.is_problem(status, code);
        answer
    }
}

impl Answer {
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        let body = &self.body;
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{}: {}", self.what, self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.what);
        assert_eq!(body["status"], status, "{}", self.what);
        assert_eq!(body["type"], format!("/problems/{code}"), "{}", self.what);
        for field in ["title", "detail", "request_id"] {
            assert!(
                body[field].as_str().is_some_and(|text| !text.is_empty()),
                "{}: no {field}: {}",
                self.what,
                self.text
            );
        }
    }

    /// The pointers of the fields that a problem complains of.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["pointer"].as_str()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("{}: no header {name}", self.what));
        value.to_str().unwrap()
    }

    /// The sequence of a write.
    pub(crate) fn sequence(&self) -> i64 {
        let token = self.header("annals-sequence");
        token.split('@').next().unwrap().parse().unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap_or_else(|| panic!("{}: no id: {}", self.what, self.text))
    }

    /// What a list holds.
    pub(crate) fn data(&self) -> &[Value] {
        self.body["data"].as_array().unwrap_or_else(|| panic!("{}: no list: {}", self.what, self.text))
    }
}
