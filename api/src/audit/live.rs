//! `/events/stream`: the tenant's log as it grows, as Server-Sent Events.
//!
//! A stream reads the log when its reader has taken what it got before and something was appended for the tenant, so it
//! holds one page at most, and an idle one costs nothing. Whatever ends it, a reader that comes back with the last `id`
//! goes on right behind it.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method};
use domain::TypedId;
use domain::names::AUDIT_READ;
use eventstore::{Follower, Heard, Token};
use futures::stream;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::events::{EventsQuery, ShownEvent, Wanted, shown_event};
use super::streams::Seat;
use crate::call::Call;
use crate::operation::{Answer, Operation};
use crate::problem::{Code, Problem, codes};

/// After how long without anything to say a stream says how far it has come.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader may take over what it was given.
const TAKES_WITHIN: Duration = Duration::from_secs(10);
/// After how many milliseconds a client shall come back.
const RETRY: u32 = 1_000;
/// The most events, and bytes of them, that are read at a time; the last one may go beyond.
const PAGE: (i64, i64) = (100, 64 * 1024);
/// How long the log may take over what it is asked: one that hangs must not keep streams, and the turns to read.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How many sequences are searched in one statement.
const SPAN: i64 = 5_000;

/// The operation.
pub(super) fn operation() -> Operation {
    Operation::query(Method::GET, "/events/stream", "audit.event.stream", AUDIT_READ)
        .about(
            "Follow the tenant's history as it grows",
            "Server-Sent Events: the `data` of a message is an `Event` as `GET /events` lists it, its `id` a sequence as \
             `Annals-Read-Sequence` has it. Without `Last-Event-ID` or `after` it begins with what comes next; `after=0` \
             begins at the beginning. Both are refused (409 `log-restored`) where they stand for what was lost when the \
             log was restored, and (422) beyond the log's end. After 15 seconds without a message comes a comment, with \
             the `id` up to which nothing else fits the filters. The last message is named `end`; its `data` has the \
             `reason`, a `detail` that says what to do, and the `sequence` to come back with: `slow` (what was sent was \
             not taken for ten seconds), `closing` (this process ends), `unavailable`, `log-restored`, `invalid-api-key` \
             and `api-key-expired`. Whoever comes back with the last `id` misses nothing and gets nothing twice.",
        )
        .takes::<EventsQuery>()
        .streams()
        .answers(described)
        .handled(open)
}

fn described(generator: &mut SchemaGenerator) -> Schema {
    let event = generator.subschema_for::<ShownEvent<'static, Value>>();
    json_schema!({
        "type": "string",
        "description": "Messages of the event stream format; the `data` of each that has no name is one line of JSON.",
        "x-data": event,
    })
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    reason: &'static str,
    detail: &'static str,
}

const SLOW: End = End {
    reason: "slow",
    detail: "What was sent was not taken for ten seconds. Come back with `sequence` as `Last-Event-ID`, and take what \
        comes faster, or ask for less of it.",
};
const CLOSING: End = End {
    reason: "closing",
    detail: "This process ends. Come back with `sequence` as `Last-Event-ID`; another one answers.",
};

impl End {
    /// For a reason that requests are refused for, too.
    const fn of(code: Code) -> Self {
        Self { reason: code.code, detail: code.about }
    }
}

/// A stream that is open.
struct Live {
    call: Call,
    wanted: Wanted,
    follower: Follower,
    _seat: Seat,
    /// The tenant's last sequence, as far as this stream knows.
    head: i64,
    /// Up to here everything that is wanted was handed over.
    stands: i64,
    /// The same, as the reader holds it.
    token: Token,
    /// The last that was heard of the tenant's keys when this one was confirmed.
    confirmed: i64,
    /// When the reader's key expires.
    expires: Option<Instant>,
    /// When something was handed over last.
    handed: Instant,
    begun: bool,
    end: Option<End>,
}

async fn open(call: Call) -> Result<Answer, Problem> {
    let wanted = Wanted::of(&call)?;
    let place = match &call.headers.last_event_id {
        Some(text) => Some(("Last-Event-ID", Wanted::token("Last-Event-ID", text)?)),
        None => wanted.after.map(|token| ("?after", token)),
    };
    let seat = call.state.streams.take(call.tenant())?;
    // First this, so that nothing comes between.
    let mut follower = call.state.executor.store().follow(call.tenant().uuid());
    let confirmed = follower.heard().map_or(0, |heard| heard.of_keys);
    call.state.keys.confirm(&call.principal).await?;
    let head = call.head().await?;
    let begin = match place {
        Some((name, token)) => {
            call.stands(token).await?;
            if token.number > head {
                return Err(Problem::field(name, format!("is beyond {head}, the last sequence of this tenant")));
            }
            token.number
        }
        None => head,
    };
    let token = call.state.executor.store().token(call.tenant().uuid(), begin).await?;
    let left = call.principal.expires_at().map(|at| (at - commands::clock::now()).to_std().unwrap_or_default());
    let live = Live {
        wanted,
        follower,
        _seat: seat,
        head,
        stands: begin,
        token,
        confirmed,
        expires: left.and_then(|left| Instant::now().checked_add(left)),
        handed: Instant::now(),
        begun: false,
        end: None,
        call,
    };
    let chunks = stream::unfold(live, |mut live| async move {
        let chunk = live.next().await?;
        Some((Ok::<_, Infallible>(chunk), live))
    });
    let answer = Answer::streaming(Body::from_stream(chunks)).has_seen(begin, 0.0);
    // Proxies that gather what they pass on would hold events back.
    Ok(answer.with("x-accel-buffering", HeaderValue::from_static("no")))
}

/// What the log answers, if it does so in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::time::timeout(ANSWERS_WITHIN, answer).await.unwrap_or_else(|_| Err(Problem::unavailable()))
}

/// What a stream comes to.
enum Step {
    /// Something to hand over.
    Chunk(String),
    /// The end.
    End(End),
}

impl Live {
    /// What is handed over next. It is asked for when the reader has taken what came before.
    async fn next(&mut self) -> Option<Bytes> {
        if self.end.is_some() {
            return None;
        }
        let step = if !std::mem::replace(&mut self.begun, true) {
            Step::Chunk(format!("retry: {RETRY}\nid: {}\n\n", self.token))
        } else if self.handed.elapsed() > TAKES_WITHIN {
            Step::End(SLOW)
        } else {
            let stop = self.call.state.streams.stop().clone();
            stop.run_until_cancelled(self.go_on()).await.unwrap_or(Step::End(CLOSING))
        };
        let text = match step {
            Step::Chunk(text) => text,
            Step::End(end) => self.last_words(end),
        };
        self.handed = Instant::now();
        Some(text.into())
    }

    /// Waits for events that are wanted, or for the time to say how far it has come, or for a reason to end. What it has
    /// read it gives in the same breath, so it can be left off anywhere.
    async fn go_on(&mut self) -> Step {
        let heartbeat = self.handed + HEARTBEAT;
        loop {
            if let Err(end) = self.may_go_on().await {
                return Step::End(end);
            }
            if self.stands < self.head {
                match self.read().await {
                    Ok(text) if !text.is_empty() => return Step::Chunk(text),
                    Ok(_) => {}
                    Err(end) => return Step::End(end),
                }
            }
            if Instant::now() >= heartbeat {
                return Step::Chunk(format!(": up to here\nid: {}\n\n", self.token));
            }
            if self.stands >= self.head {
                let wakes = self.expires.map_or(heartbeat, |expires| expires.min(heartbeat));
                let _ = tokio::time::timeout_at(wakes, self.follower.changed()).await;
            }
        }
    }

    /// Takes over what was heard, unless it is a reason to end.
    async fn may_go_on(&mut self) -> Result<(), End> {
        let Some(Heard { sequence, of_keys }) = self.follower.heard() else {
            return Err(End::of(codes::LOG_RESTORED));
        };
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            return Err(End::of(codes::API_KEY_EXPIRED));
        }
        if of_keys > self.confirmed {
            let confirmed = self.call.state.keys.confirm(&self.call.principal);
            in_time(confirmed).await.map_err(|problem| End::of(problem.code()))?;
            self.confirmed = of_keys;
        }
        self.head = self.head.max(sequence);
        Ok(())
    }

    /// Reads on, and gives the messages of what it finds.
    async fn read(&mut self) -> Result<String, End> {
        let found = in_time(self.found()).await.map_err(|problem| {
            tracing::warn!(code = problem.code().code, "a stream of events can't be read on");
            End::of(codes::UNAVAILABLE)
        });
        let (text, stands, token) = found?;
        // In another life of the log what was found may not be what follows.
        if self.follower.heard().is_none() {
            return Err(End::of(codes::LOG_RESTORED));
        }
        (self.stands, self.token) = (stands, token);
        Ok(text)
    }

    async fn found(&self) -> Result<(String, i64, Token), Problem> {
        let (store, tenant) = (self.call.state.executor.store(), self.call.tenant().uuid());
        let _turn = self.call.state.streams.turn().await;
        let until = self.head.min(self.stands + SPAN);
        let (events, stands) = store.read_tenant_within(tenant, self.stands, until, &self.wanted.filter, PAGE).await?;
        let events: Vec<_> = events.into_iter().filter(|event| self.wanted.takes(event)).collect();
        let mut shown = Value::Array(events.iter().map(shown_event).collect());
        self.call.show(&mut shown).await?;
        let mut text = String::new();
        for (event, shown) in events.iter().zip(shown.as_array().into_iter().flatten()) {
            let token = store.token(tenant, event.sequence).await?;
            let _ = write!(text, "id: {token}\ndata: {shown}\n\n");
        }
        Ok((text, stands, store.token(tenant, stands).await?))
    }

    fn last_words(&mut self, end: End) -> String {
        self.end = Some(end);
        let End { reason, detail } = end;
        let told = json!({ "object": "end", "reason": reason, "detail": detail, "sequence": self.token.to_string() });
        format!("event: end\nid: {}\ndata: {told}\n\n", self.token)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let reason = self.end.map_or("gone", |end| end.reason);
        metrics::counter!("annals_event_streams_ended_total", "reason" => reason).increment(1);
        tracing::debug!(tenant = %self.call.tenant(), reason, sequence = self.stands, "a stream of events ended");
    }
}
