//! The files and the manifest of a replay, made from the log while they are read.
//!
//! The log is read page by page, each in a transaction that ends before anything is sent, and only when the reader has
//! taken what came before: a slow one costs some pages of memory. Nothing is kept, so any process can serve any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method};
use domain::TypedId;
use domain::audit::{Replay, ReplayFormat};
use domain::names::{AUDIT_READ, PERSONAL_READ};
use eventstore::Loaded;
use futures::{StreamExt, stream};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument;

use super::streams::Seat;
use crate::call::Call;
use crate::extract::query::Nothing;
use crate::operation::{Answer, Operation};
use crate::problem::{Code, Problem, codes};
use crate::replay::{Block, Condition, Count, Manifest, Personal, Place, Range, ReplayError, Selection, Sink, Written};
use crate::resource::to_json;

/// The most events, and bytes of them, that are read at a time; the last one may go beyond.
const PAGE: (i64, i64) = (1_000, 1024 * 1024);
/// How many sequences are searched in one statement.
const SPAN: i64 = 20_000;
/// How long the log may take over a page: one that hangs must not keep places, and the turns to read.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How many pieces of a file may wait for its reader.
const WAITING: usize = 1;
/// How long an answer waits for its first bytes: what goes wrong until then is told as a problem.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// After how long without a byte of a manifest a line end is sent, which means nothing in JSON.
const QUIET: Duration = Duration::from_secs(5);
/// What says that a file is whole.
const END: Bytes = Bytes::new();
/// The one file of lines.
const LINES: &str = "events";

const UNDECIDED: Code = Code::rule(
    "replay-undecided",
    "The expression is neither true nor false of an event",
    "The detail names the event. Ask first for what has the field (`type == …` or `has(data.country)`), in another replay.",
);

/// The type of files of a format.
pub(super) fn media(format: ReplayFormat) -> &'static str {
    match format {
        ReplayFormat::Jsonl => "application/x-ndjson",
        ReplayFormat::Csv => "text/csv",
        ReplayFormat::Parquet => "application/vnd.apache.parquet",
    }
}

/// The names of all files that there may be: a table of each type that is wanted, or one of lines.
pub(super) fn names(format: ReplayFormat, types: Option<Vec<String>>) -> Vec<String> {
    if format != ReplayFormat::Parquet {
        return vec![name_of(None, format)];
    }
    let all = || domain::catalogue().iter().map(|kind| kind.name.to_owned()).collect::<BTreeSet<_>>();
    let types = types.map_or_else(all, |types| types.into_iter().collect());
    types.iter().map(|name| name_of(Some(name), format)).collect()
}

fn name_of(kind: Option<&str>, format: ReplayFormat) -> String {
    format!("{}.{}", kind.unwrap_or(LINES), format.name())
}

/// The operations.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, "/replays/{id}/files/{name}", "audit.replay.file", AUDIT_READ)
            .about(
                "Read a file of a replay",
                "It is made while it is read, from the log as it stands: the same bytes each time, unless something in it was \
                 erased or removed meanwhile. What breaks off is not whole, whatever has come: begin again. The manifest has \
                 the size and the hash of what is whole. A table of a type that does not occur has no rows. Needs \
                 `personal:read` where personal values are opened.",
            )
            .of_media(&["application/x-ndjson", "text/csv", "application/vnd.apache.parquet"])
            .refuses(&[codes::RATE_LIMITED, UNDECIDED])
            .answers(|_| json_schema!({ "type": "string", "format": "binary" }))
            .handled(file),
        Operation::query(Method::GET, "/replays/{id}/manifest", "audit.replay.manifest", AUDIT_READ)
            .about(
                "Read the manifest of a replay",
                "What was asked for, how many events of which types and versions there are, and the name, size and SHA-256 of \
                 each file that has any. All files are made for it, so it takes as long as they do: line ends come before it \
                 meanwhile. Needs `personal:read` where personal values are opened.",
            )
            .refuses(&[codes::RATE_LIMITED, UNDECIDED])
            .answers(manifest_schema)
            .handled(manifest),
    ]
}

fn manifest_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Manifest>()
}

/// A replay that is read.
struct Reading {
    call: Call,
    selection: Arc<Selection>,
    range: Range,
    format: ReplayFormat,
    /// Up to here everything was read.
    stands: i64,
    seat: Arc<Seat>,
}

async fn file(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let head = call.head().await?;
    let loaded = load(&call).await?;
    let format = loaded.state.format;
    let name = call.path_name.clone().unwrap_or_default();
    if !names(format, loaded.state.types.clone()).contains(&name) {
        return Err(Problem::not_found());
    }
    // A table of one type needs no other.
    let only = if format == ReplayFormat::Parquet { name.strip_suffix(".parquet") } else { None };
    let sees_personal = call.principal.sees_personal();
    let reading = Reading::begin(call, &loaded, only).await?;
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let tasks = reading.call.state.requests.clone();
    let sending = async move {
        let end = reading.send(&sender).await.map(|()| END);
        if let Err(error) = &end {
            error.log("a file of a replay ends before its end");
        }
        let _ = sender.send(end).await;
    };
    tasks.spawn(sending.in_current_span());
    let first = match tokio::time::timeout(BEGINS_WITHIN, receiver.recv()).await {
        Ok(Some(Err(error))) => return Err(problem(error, sees_personal)),
        Ok(first) => Some(first.unwrap_or(Err(ReplayError::Closing))),
        Err(_) => None,
    };
    // What is only cut off must not look whole: that it is, is said.
    let rest = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await.unwrap_or(Err(ReplayError::Closing));
        Some((piece, receiver))
    });
    let pieces = stream::iter(first).chain(rest);
    let pieces = pieces.take_while(|piece| std::future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty)));
    let answer = Answer::streaming(Body::from_stream(pieces)).has_seen(head, 0.0);
    let text = |text: &str| HeaderValue::from_str(text).map_err(|error| Problem::internal(&error));
    let answer = answer.with("content-disposition", text(&format!("attachment; filename=\"{name}\""))?);
    Ok(answer.with("content-type", HeaderValue::from_static(media(format))))
}

async fn manifest(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let head = call.head().await?;
    let loaded = load(&call).await?;
    let sees_personal = call.principal.sees_personal();
    let mut made = Box::pin(Reading::begin(call, &loaded, None).await?.manifest());
    let body = match tokio::time::timeout(BEGINS_WITHIN, &mut made).await {
        Ok(made) => Body::from(made.map_err(|error| problem(error, sees_personal))?),
        // What is not polled to its end is dropped, and so ends with the connection.
        Err(_) => Body::from_stream(stream::unfold(Some(made), |made| async move {
            let mut made = made?;
            match tokio::time::timeout(QUIET, &mut made).await {
                Ok(text) => {
                    if let Err(error) = &text {
                        error.log("a manifest of a replay ends before its end");
                    }
                    Some((text, None))
                }
                Err(_) => Some((Ok(Bytes::from_static(b"\n")), Some(made))),
            }
        })),
    };
    Ok(Answer::streaming(body).has_seen(head, 0.0))
}

async fn load(call: &Call) -> Result<Loaded<Replay>, Problem> {
    let id = call.target::<Replay>().await?;
    let loaded = call.state.executor.load::<Replay>(call.tenant(), id).await?;
    if loaded.exists() { Ok(loaded) } else { Err(Problem::not_found()) }
}

/// The problem behind what went wrong before anything was sent. What is wrong may quote the expression, and so persons.
fn problem(error: ReplayError, sees_personal: bool) -> Problem {
    match error {
        ReplayError::Condition { .. } if sees_personal => Problem::new(UNDECIDED, format!("`where` {error}.")),
        ReplayError::Condition { sequence, .. } => Problem::new(
            UNDECIDED,
            format!("`where` at sequence {sequence}: a key with `personal:read` is told what is wrong."),
        ),
        ReplayError::Store(error) => error.into(),
        ReplayError::Vault(error) => error.into(),
        error => {
            error.log("a replay can't be made");
            match error {
                ReplayError::Event { .. } => {
                    let detail = format!("{error}. The process that answers can make no row of a table of it.");
                    Problem::new(codes::UNAVAILABLE, detail).retry_after(5)
                }
                _ => Problem::unavailable(),
            }
        }
    }
}

/// What whoever works on a replay has until it is done.
type Turn = (Option<OwnedSemaphorePermit>, Arc<Seat>);

impl Reading {
    /// Takes a place, and finds what is asked for; of one type, where one is named.
    async fn begin(call: Call, loaded: &Loaded<Replay>, only: Option<&str>) -> Result<Self, Problem> {
        let Replay { after, until, format, .. } = loaded.state;
        if loaded.state.open_personal {
            call.principal.needs(PERSONAL_READ)?;
        }
        let seat = call.state.replays.take(call.tenant())?;
        let (executor, tenant) = (&call.state.executor, call.tenant());
        let known = |name: &String| domain::event_type(name).map(|kind| kind.name).ok_or_else(Problem::unavailable);
        let types: Option<BTreeSet<&'static str>> = match only {
            Some(name) => Some(std::iter::once(known(&name.to_owned())?).collect()),
            None => loaded.state.types.as_ref().map(|types| types.iter().map(known).collect()).transpose()?,
        };
        // Whom the expression names is sealed; here it is asked, not shown.
        let mut condition = to_json(&loaded.state.condition);
        executor.vault().open_value(tenant.uuid(), &mut condition).await?;
        let condition = match condition {
            Value::String(text) => Some(Condition::compile(&text).map_err(|_| {
                // What is wrong may quote it, and so persons.
                Problem::new(UNDECIDED, "`where` is none that this version takes. Ask for another replay.")
            })?),
            _ => None,
        };
        let personal = match loaded.state.open_personal {
            true => Personal::Opened(executor.vault().clone()),
            false => Personal::Null,
        };
        let incarnation = executor.store().token(tenant.uuid(), until).await?.incarnation;
        let range = Range { after, until, incarnation };
        let selection = Arc::new(Selection { tenant, types, condition, personal });
        Ok(Self { call, selection, range, format, stands: after, seat: Arc::new(seat) })
    }

    /// Reads on, and takes what it finds into the files, until the process shall end.
    async fn step<P>(&mut self, sink: Sink<P>) -> Result<Step<P>, ReplayError>
    where
        P: Place<File: 'static> + Send + 'static,
    {
        let streams = self.call.state.replays.clone();
        let step = async {
            // A reader that goes away does not stop a thread: what it has in hand keeps its turn and its place until then.
            let turn = Arc::new((streams.turn().await, self.seat.clone()));
            let block = self.next(turn.clone()).await?;
            let taken = move || {
                let _turn = turn;
                take(sink, block)
            };
            tokio::task::spawn_blocking(taken).await?
        };
        streams.stop().run_until_cancelled(step).await.unwrap_or(Err(ReplayError::Closing))
    }

    /// The next events, encoded; none behind the last ones.
    async fn next(&mut self, turn: Arc<Turn>) -> Result<Option<Block>, ReplayError> {
        let (store, tenant) = (self.call.state.executor.store(), self.selection.tenant.uuid());
        let Range { until, incarnation, .. } = self.range;
        if self.stands >= until {
            // What was read in another life of the log may not be what it has.
            let token = store.token(tenant, until).await?;
            return if token.incarnation == incarnation { Ok(None) } else { Err(ReplayError::Gone(until)) };
        }
        let filter = self.selection.filter();
        let ends = until.min(self.stands + SPAN);
        let page = store.read_tenant_within(tenant, self.stands, ends, &filter, PAGE);
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the log does not answer");
        let (events, stands) = tokio::time::timeout(ANSWERS_WITHIN, page).await.map_err(late)??;
        // Sequences are dense, unless the log was restored to an earlier moment while it was read.
        if filter.event_type.is_none() && i64::try_from(events.len()).ok() != Some(stands - self.stands) {
            return Err(ReplayError::Gone(stands));
        }
        self.stands = stands;
        let (selection, format, runtime) = (self.selection.clone(), self.format, tokio::runtime::Handle::current());
        let block = move || {
            let _turn = turn;
            runtime.block_on(selection.block(events, format))
        };
        Ok(Some(tokio::task::spawn_blocking(block).await??))
    }

    /// Makes the file and sends it, as fast as it is taken and for as long as somebody takes it.
    async fn send(mut self, reader: &mpsc::Sender<Result<Bytes, ReplayError>>) -> Result<(), ReplayError> {
        let pipe = Pipe { bytes: Arc::default(), format: self.format };
        let mut sink = Some(Sink::open(pipe.clone(), self.format, self.selection.only_type())?);
        while let Some(open) = sink.take() {
            let step = tokio::select! {
                () = reader.closed() => return Ok(()),
                step = self.step(open) => step?,
            };
            sink = match step {
                Step::On(sink) => Some(sink),
                Step::Ended(..) => None,
            };
            let bytes = pipe.take();
            if !bytes.is_empty() && reader.send(Ok(bytes)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes all files, keeps none, and writes the manifest of them.
    async fn manifest(mut self) -> Result<Bytes, ReplayError> {
        let mut sink = Sink::open(Nowhere(self.format), self.format, None)?;
        let (files, counts) = loop {
            sink = match self.step(sink).await? {
                Step::On(sink) => sink,
                Step::Ended(files, counts) => break (files, counts),
            };
        };
        let manifest = Manifest::of(&self.selection, self.range, self.format, counts, files);
        let shown = if self.call.principal.sees_personal() { manifest } else { manifest.without_condition() };
        let mut text = serde_json::to_vec_pretty(&shown)?;
        text.push(b'\n');
        Ok(text.into())
    }
}

/// How far the files have come.
enum Step<P: Place> {
    /// There is more to read.
    On(Sink<P>),
    /// They are whole.
    Ended(Vec<Written>, BTreeMap<String, Count>),
}

fn take<P: Place>(mut sink: Sink<P>, block: Option<Block>) -> Result<Step<P>, ReplayError> {
    let Some(block) = block else {
        let (files, counts) = sink.end()?;
        return Ok(Step::Ended(files, counts));
    };
    sink.take(block)?;
    Ok(Step::On(sink))
}

/// A file on its way to its reader.
#[derive(Clone)]
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    format: ReplayFormat,
}

impl Pipe {
    /// What was written since it was asked last.
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Place for Pipe {
    type File = Self;

    fn create(&mut self, _: Option<&'static str>) -> Result<Self, ReplayError> {
        Ok(self.clone())
    }

    fn keep(&mut self, kind: Option<&'static str>, _: Self) -> Result<String, ReplayError> {
        Ok(name_of(kind, self.format))
    }
}

/// Where files are made to be counted and hashed alone.
struct Nowhere(ReplayFormat);

impl Place for Nowhere {
    type File = io::Sink;

    fn create(&mut self, _: Option<&'static str>) -> Result<io::Sink, ReplayError> {
        Ok(io::sink())
    }

    fn keep(&mut self, kind: Option<&'static str>, _: io::Sink) -> Result<String, ReplayError> {
        Ok(name_of(kind, self.0))
    }
}
