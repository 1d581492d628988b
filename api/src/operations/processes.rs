//! `/admin/processes`: what waits for a moment, of a key's tenant: erasures, renewals, runs, test clocks. Each stands where
//! its stream says, so it is read from there, whatever the table of what is due says of it.

use axum::http::Method;
use chrono::{DateTime, TimeZone, Utc};
use commands::Executor;
use domain::agents::{Run, RunStatus};
use domain::aggregate::is_at_once;
use domain::billing::Subscription;
use domain::names::OPERATIONS_READ;
use domain::process::{ErasurePhase, ErasureProcess, Process, Send};
use domain::tenancy::TestClock;
use domain::{Aggregate, AnyId, PrivacyRequestId, StreamType, TenantId, TypedId};
use eventstore::{Loaded, StoreError, Waiting, WaitingFilter};
use projections::documents::word;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::steps::{Step, steps};
use crate::call::{Call, page_of};
use crate::extract::query::Nothing;
use crate::operation::{Answer, Operation};
use crate::problem::{Problem, codes};
use crate::resource::to_json;
use crate::schema;

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let read = |path, name| Operation::upkeep(Method::GET, path, name, OPERATIONS_READ);
    vec![
        read("/admin/processes", "operations.process.list")
            .about(
                "List what waits for a moment, the longest due first",
                "Erasures, subscriptions, runs and test clocks of the key's tenant: where each stands, what it waits for, \
                 and who is at it.",
            )
            .takes::<ProcessesQuery>()
            .paged()
            .answers(|generator| schema::list(generator.subschema_for::<ProcessReport>()))
            .handled(list),
        read("/admin/processes/{id}", "operations.process.get")
            .about(
                "Read a process, with its last steps",
                "By its own id, also when it waits for nothing any more; an erasure also by its request's.",
            )
            .answers(described)
            .handled(get),
    ]
}

/// What kind of process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ProcessKind {
    /// It carries an approved erasure out.
    Erasure,
    /// It renews a subscription, or ends it.
    Subscription,
    /// It has an agent work.
    Run,
    /// It advances the clock of a test tenant.
    TestClock,
}

impl ProcessKind {
    const ALL: [Self; 4] = [Self::Erasure, Self::Subscription, Self::Run, Self::TestClock];

    /// Its streams.
    pub fn stream(self) -> StreamType {
        match self {
            Self::Erasure => ErasureProcess::STREAM,
            Self::Subscription => Subscription::STREAM,
            Self::Run => Run::STREAM,
            Self::TestClock => TestClock::STREAM,
        }
    }

    /// The kinds of streams that are asked for: this one's, or all.
    pub fn wanted(kind: Option<Self>) -> Vec<&'static str> {
        let all = Self::ALL.into_iter().filter(|known| kind.is_none_or(|kind| kind == *known));
        all.map(|kind| kind.stream().name).collect()
    }

    fn find(wanted: impl Fn(StreamType) -> bool) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| wanted(kind.stream()))
    }
}

/// Which processes are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProcessesQuery {
    /// Only of this kind.
    kind: Option<ProcessKind>,
    /// Only those whose moment has come and whom nobody is at.
    overdue: Option<bool>,
}

/// A process, and what it waits for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessEntry")]
pub struct ProcessReport {
    /// Its id.
    pub id: String,
    /// Always `process`.
    pub object: &'static str,
    /// What kind it is.
    pub kind: ProcessKind,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it stands, in its own words.
    pub status: Option<String>,
    /// What it waits for; null where it waits for nothing.
    pub waits_for: Option<String>,
    /// Until when, in the tenant's time; null where it is to be done at once, or waits for no moment.
    pub due_at: Option<DateTime<Utc>>,
    /// Whether its moment has come and nobody is at it.
    pub overdue: bool,
    /// The host that is at it.
    pub holder: Option<Uuid>,
    /// Until when that host has it, unless it renews its claim; without a host, until when it is left alone after it
    /// failed.
    pub held_until: Option<DateTime<Utc>>,
}

/// The same with its last steps.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Process")]
pub struct ProcessHistory {
    #[serde(flatten)]
    report: ProcessReport,
    /// The newest first, at most twenty.
    steps: Vec<Step>,
}

fn described(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<ProcessHistory>()
}

/// A process, by kind and stream.
#[derive(Clone, Copy, Debug)]
pub struct ProcessId {
    /// What kind it is.
    pub kind: ProcessKind,
    /// Its stream.
    pub stream: Uuid,
}

impl ProcessId {
    /// The process that an id names: its own, or the request's that an erasure carries out.
    pub fn of(id: &AnyId) -> Option<Self> {
        if id.prefix() == PrivacyRequestId::PREFIX {
            let erasure = ErasureProcess::id(PrivacyRequestId::from(id.uuid()));
            return Some(Self { kind: ProcessKind::Erasure, stream: erasure.uuid() });
        }
        let kind = ProcessKind::find(|stream| stream.prefix == id.prefix())?;
        Some(Self { kind, stream: id.uuid() })
    }
}

/// Where a process stands and what it waits for.
struct Stand {
    exists: bool,
    status: Option<String>,
    waits_for: Option<String>,
    due_at: Option<DateTime<Utc>>,
}

impl Stand {
    fn of<A: Aggregate>(loaded: &Loaded<A>, status: Option<String>, waits_for: Option<String>) -> Self {
        Self { exists: loaded.exists(), status, waits_for, due_at: loaded.state.wakes_at() }
    }

    async fn load(executor: &Executor, tenant: TenantId, id: ProcessId) -> Result<Self, StoreError> {
        let stream = id.stream;
        Ok(match id.kind {
            ProcessKind::Erasure => {
                let loaded = executor.load::<ErasureProcess>(tenant, stream.into()).await?;
                let waits_for = match (loaded.state.pending(), loaded.state.phase) {
                    (Some(send), _) => Some(sent(send).0.to_owned()),
                    (None, ErasurePhase::Idle) => Some("approval".to_owned()),
                    (None, ErasurePhase::Waiting) => Some("the end of the delay".to_owned()),
                    (None, ErasurePhase::Failed) => Some("an operator".to_owned()),
                    (None, _) => None,
                };
                Self::of(&loaded, word(&loaded.state.phase), waits_for)
            }
            ProcessKind::Subscription => {
                let loaded = executor.load::<Subscription>(tenant, stream.into()).await?;
                let what = if loaded.state.cancel_at.is_some() { "cancellation" } else { "renewal" };
                let waits_for = loaded.state.wakes_at().map(|_| what.to_owned());
                Self::of(&loaded, word(&loaded.state.status), waits_for)
            }
            ProcessKind::Run => {
                let loaded = executor.load::<Run>(tenant, stream.into()).await?;
                let waits_for = match (loaded.state.status, loaded.state.attempts) {
                    (RunStatus::Pending, attempts) => Some(format!("attempt {}", attempts + 1)),
                    (RunStatus::Running, attempts) => Some(format!("the answer to attempt {attempts}")),
                    _ => None,
                };
                Self::of(&loaded, word(&loaded.state.status), waits_for)
            }
            ProcessKind::TestClock => {
                let loaded = executor.load::<TestClock>(tenant, stream.into()).await?;
                let waits_for = loaded.state.wakes_at().map(|_| "what is due on its way".to_owned());
                Self::of(&loaded, word(&loaded.state.status), waits_for)
            }
        })
    }
}

/// What an erasure wants done, and to which stream.
pub(super) fn sent(send: &Send) -> (&'static str, AnyId) {
    match send {
        Send::StartRequest { request } => ("start_request", (*request).into()),
        Send::BeginErasure { customer, .. } => ("begin_erasure", (*customer).into()),
        Send::DestroyKeys { customer } => ("destroy_keys", (*customer).into()),
        Send::CompleteErasure { customer } => ("complete_erasure", (*customer).into()),
        Send::CompleteRequest { request, .. } => ("complete_request", (*request).into()),
    }
}

/// A process as it is shown: `waiting` is what the table of what is due says of it. None where there is no such process.
async fn report(
    executor: &Executor,
    tenant: TenantId,
    id: ProcessId,
    waiting: Option<Waiting>,
) -> Result<Option<ProcessReport>, StoreError> {
    let stand = Stand::load(executor, tenant, id).await?;
    Ok(stand.exists.then(|| ProcessReport {
        id: AnyId::new(id.kind.stream().prefix, id.stream).to_string(),
        object: "process",
        kind: id.kind,
        tenant,
        status: stand.status,
        waits_for: stand.waits_for,
        due_at: stand.due_at.filter(|due_at| !is_at_once(*due_at)),
        overdue: waiting.as_ref().is_some_and(|waiting| waiting.overdue),
        holder: waiting.as_ref().and_then(|waiting| waiting.holder),
        held_until: waiting.and_then(|waiting| waiting.until),
    }))
}

/// What waits, the longest due first, after a place in that order; with each its place.
pub async fn waiting(
    executor: &Executor,
    filter: &WaitingFilter,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<(ProcessReport, (DateTime<Utc>, Uuid))>, StoreError> {
    let mut reports = Vec::new();
    for waiting in executor.store().waiting(filter, after, limit).await? {
        let place = (waiting.due_at, waiting.stream);
        let Some(kind) = ProcessKind::find(|stream| stream.name == waiting.stream_type) else { continue };
        let (tenant, id) = (TenantId::from(waiting.tenant), ProcessId { kind, stream: waiting.stream });
        reports.extend(report(executor, tenant, id, Some(waiting)).await?.map(|report| (report, place)));
    }
    Ok(reports)
}

/// A process of a tenant with its last steps; none where there is no such process.
pub async fn show(executor: &Executor, tenant: TenantId, id: ProcessId) -> Result<Option<ProcessHistory>, StoreError> {
    let filter = WaitingFilter {
        tenant: Some(tenant.uuid()),
        kinds: vec![id.kind.stream().name],
        stream: Some(id.stream),
        overdue: false,
    };
    let waiting = executor.store().waiting(&filter, None, 1).await?.pop();
    let Some(report) = report(executor, tenant, id, waiting).await? else { return Ok(None) };
    let steps = steps(executor.store(), tenant, id).await?;
    Ok(Some(ProcessHistory { report, steps }))
}

async fn list(call: Call) -> Result<Answer, Problem> {
    let ProcessesQuery { kind, overdue } = call.query.clone().typed()?;
    let after = call.cursor().await?.map(|bytes| place(&bytes).ok_or_else(|| Problem::of(codes::INVALID_CURSOR)));
    let filter = WaitingFilter {
        tenant: Some(call.tenant().uuid()),
        kinds: ProcessKind::wanted(kind),
        stream: None,
        overdue: overdue.unwrap_or_default(),
    };
    let limit = call.page.limit as i64 + 1;
    let found = waiting(&call.state.executor, &filter, after.transpose()?, limit).await?;
    let bytes = |(_, (due_at, stream)): &(ProcessReport, (DateTime<Utc>, Uuid))| {
        [&due_at.timestamp_micros().to_be_bytes()[..], &stream.as_bytes()[..]].concat()
    };
    Ok(Answer::new(page_of(&call, found, bytes, |(report, _)| to_json(report)).await?))
}

/// The place in a cursor.
fn place(bytes: &[u8]) -> Option<(DateTime<Utc>, Uuid)> {
    let (due_at, stream) = bytes.split_at_checked(8)?;
    let due_at = Utc.timestamp_micros(i64::from_be_bytes(due_at.try_into().ok()?)).single()?;
    Some((due_at, Uuid::from_slice(stream).ok()?))
}

async fn get(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let id = call.path_id.as_deref().and_then(|text| text.parse::<AnyId>().ok());
    let id = id.as_ref().and_then(ProcessId::of).ok_or_else(Problem::not_found)?;
    let shown = show(&call.state.executor, call.tenant(), id).await?.ok_or_else(Problem::not_found)?;
    Ok(Answer::new(to_json(shown)))
}
