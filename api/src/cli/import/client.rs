//! Sends batches to a running Annals, as any consumer would; repeats what could not be answered yet.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::cli::Failure;

/// How often a batch is repeated, and the longest pause between.
const ATTEMPTS: u32 = 60;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A connection to the API.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// How an item of a batch went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was created.
    Created,
    /// It was there already.
    Existing,
    /// It was refused: the pointers of its fields without the item's own, and why.
    Refused { pointer: String, why: String },
}

#[derive(Serialize)]
struct Batch<'a, T> {
    items: &'a [&'a T],
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    status: u16,
    problem: Option<ItemProblem>,
}

#[derive(Deserialize)]
struct ItemProblem {
    code: String,
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Deserialize)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl Client {
    pub(super) fn new(url: &str, key: &str) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// Sends a batch until each of its items is answered for good; the outcomes are in the items' order.
    pub(super) async fn send<T: Serialize + Sync>(&self, path: &str, items: &[T]) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
        for attempt in 0..ATTEMPTS {
            let waiting: Vec<usize> = (0..items.len()).filter(|index| outcomes[*index].is_none()).collect();
            if waiting.is_empty() {
                break;
            }
            let batch: Vec<&T> = waiting.iter().map(|index| &items[*index]).collect();
            match self.post(path, &batch).await? {
                Ok(answer) => {
                    for (place, (index, item)) in waiting.into_iter().zip(answer.data).enumerate() {
                        outcomes[index] = outcome(place, item);
                    }
                }
                Err(pause) => tokio::time::sleep(pause.unwrap_or_else(|| backoff(attempt))).await,
            }
        }
        let outcomes: Option<Vec<Outcome>> = outcomes.into_iter().collect();
        outcomes.ok_or_else(|| format!("{}{path} does not answer; run the import again later", self.url).into())
    }

    /// One attempt; the inner error says how long to wait before the next.
    async fn post<T: Serialize + Sync>(
        &self,
        path: &str,
        items: &[&T],
    ) -> Result<Result<Answer, Option<Duration>>, Failure> {
        let url = format!("{}/api/v1{path}", self.url);
        let sent = self.http.post(url).bearer_auth(&self.key).json(&Batch { items }).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Err(error.into()),
            Err(_) => return Ok(Err(None)),
        };
        match response.status() {
            StatusCode::OK => Ok(response.json().await.map_err(|_| None)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => {
                Ok(Err(retry_after(&response)))
            }
            status => Err(refused(status, response).await),
        }
    }
}

/// None where it must be sent again.
fn outcome(place: usize, item: Item) -> Option<Outcome> {
    if item.status < 300 {
        return Some(Outcome::Created);
    }
    if matches!(item.status, 408 | 429 | 503) {
        return None;
    }
    let problem = item.problem?;
    if problem.code == "already-exists" {
        return Some(Outcome::Existing);
    }
    let prefix = format!("/items/{place}");
    let field = problem.errors.into_iter().next();
    let (pointer, why) = field.map_or((String::new(), problem.detail), |field| (field.pointer, field.detail));
    let pointer = pointer.strip_prefix(&prefix).map(str::to_owned).unwrap_or(pointer);
    Some(Outcome::Refused { pointer, why })
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(50 << attempt.min(7)).min(LONGEST_PAUSE)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

async fn refused(status: StatusCode, response: Response) -> Failure {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let detail = response.json::<Problem>().await.map(|problem| problem.detail).unwrap_or_default();
    format!("the API answered {status}: {detail}").into()
}
