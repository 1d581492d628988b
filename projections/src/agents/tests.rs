//! Runs as rows, however their events come, and the figures that are made of them.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::agents::{Cost, Failure, FailureCode, Retry, RunEvent, RunStatus, Usage};
use domain::{AgentId, CustomerId, Personal, RunId, names};
use eventstore::{RecordedEvent, new_id};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::metrics::{AgentFigures, CostSum, Health, LastRuns, MetricsFilter, Queue, RunCounts, RunFigures};
use super::runs::{RunFilter, RunRow, Runs};
use crate::Standpoint;
use crate::test_support::{House, Place, at, recorded};

fn second(seconds: i64) -> DateTime<Utc> {
    at("2026-01-01T00:00:00Z") + TimeDelta::seconds(seconds)
}

/// A tenant's log of runs.
struct Log {
    tenant: Uuid,
    events: Vec<Arc<RecordedEvent>>,
}

impl Log {
    fn new() -> Self {
        Self { tenant: new_id(), events: Vec::new() }
    }

    fn push(&mut self, run: Uuid, event: &RunEvent) {
        let version = self.events.iter().filter(|event| event.stream_id == run).count() as i64 + 1;
        let sequence = self.events.len() as i64 + 1;
        let place = Place { tenant: self.tenant, sequence, stream: run, version };
        self.events.push(recorded(place, names::RUN.name, event, at("2026-01-01T00:00:00Z")));
    }

    /// A run that was requested.
    fn request(&mut self, agent: Uuid, customer: Option<Uuid>, task_type: Option<&str>, at: DateTime<Utc>) -> Uuid {
        let run = new_id();
        let requested = RunEvent::Requested {
            external_id: Some(format!("job-{}", self.events.len()).parse().unwrap()),
            agent: AgentId::from(agent),
            agent_version: 3,
            customer: customer.map(CustomerId::from),
            task_type: task_type.map(|kind| kind.parse().unwrap()),
            input: Personal::open(run, Map::from_iter([("secret".to_owned(), Value::from("input"))])),
            timeout_seconds: 10,
            retry: Retry::default(),
            at,
        };
        self.push(run, &requested);
        run
    }

    fn begin(&mut self, run: Uuid, attempt: i64, at: DateTime<Utc>) {
        self.push(run, &RunEvent::AttemptStarted { attempt, at });
    }

    fn succeed(&mut self, run: Uuid, at: DateTime<Utc>, tokens: Option<(i64, i64)>, cost: Option<(i64, &str)>) {
        let usage = tokens.map(|(prompt_tokens, completion_tokens)| Usage { prompt_tokens, completion_tokens });
        let cost = cost.map(|(amount_micros, code)| Cost { amount_micros, currency: code.parse().unwrap() });
        let result = Personal::open(run, Value::from("secret"));
        self.push(run, &RunEvent::Succeeded { attempt: 1, at, result, usage, cost });
    }

    fn fail(&mut self, run: Uuid, at: DateTime<Utc>) {
        self.push(run, &RunEvent::Failed { attempt: 1, at, error: failure(FailureCode::ProviderStatus) });
    }

    fn time_out(&mut self, run: Uuid, at: DateTime<Utc>) {
        self.push(run, &RunEvent::TimedOut { attempt: 1, at, error: failure(FailureCode::TimedOut) });
    }
}

fn failure(code: FailureCode) -> Failure {
    Failure { code, provider_status: Some(503), detail: None }
}

/// Two runs, their events mixed: one succeeds with its second attempt, one is called off while it waits.
fn two(agent: Uuid, customer: Uuid) -> (Log, [Uuid; 2]) {
    let mut log = Log::new();
    let one = log.request(agent, Some(customer), Some("summarise"), second(0));
    log.begin(one, 1, second(1));
    let other = log.request(agent, None, None, second(2));
    let error = failure(FailureCode::ProviderBusy);
    log.push(one, &RunEvent::AttemptFailed { attempt: 1, error: error.clone(), next_attempt_at: second(9) });
    log.begin(other, 1, second(3));
    log.begin(one, 2, second(9));
    log.push(other, &RunEvent::AttemptFailed { attempt: 1, error, next_attempt_at: second(20) });
    log.succeed(one, second(11), Some((100, 20)), Some((12_345_678, "USD")));
    log.push(other, &RunEvent::Cancelled { at: second(12) });
    (log, [one, other])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_the_same_row_however_its_events_are_split() {
    let Some(house) = House::open().await else { return };
    let (agent, customer) = (new_id(), new_id());
    let expected = |[one, other]: [Uuid; 2]| {
        let row = RunRow {
            id: RunId::from(one),
            agent: AgentId::from(agent),
            agent_version: 3,
            customer: Some(CustomerId::from(customer)),
            task_type: Some("summarise".into()),
            external_id: Some("job-0".into()),
            status: RunStatus::Succeeded,
            attempts: 2,
            error_code: None,
            requested_at: second(0),
            started_at: Some(second(1)),
            ended_at: Some(second(11)),
            next_attempt_at: None,
            usage: Some(Usage { prompt_tokens: 100, completion_tokens: 20 }),
            cost: Some(Cost { amount_micros: 12_345_678, currency: domain::Currency::USD }),
            version: 5,
            sequence: 8,
            changed_at: second(0),
        };
        let cancelled = RunRow {
            id: RunId::from(other),
            customer: None,
            task_type: None,
            external_id: Some("job-2".into()),
            status: RunStatus::Cancelled,
            attempts: 1,
            error_code: Some(FailureCode::ProviderBusy),
            requested_at: second(2),
            started_at: Some(second(3)),
            ended_at: Some(second(12)),
            usage: None,
            cost: None,
            version: 4,
            sequence: 9,
            ..row.clone()
        };
        [cancelled, row]
    };
    // Each bit says whether a batch ends after that event.
    for split in 0_u32..1 << 8 {
        let (log, ids) = two(agent, customer);
        let mut place = 0;
        let batches = log.events.chunk_by(|_, _| {
            place += 1;
            split >> (place - 1) & 1 == 0
        });
        house.take(&Runs, &batches.collect::<Vec<_>>()).await;
        let rows = house.reads.runs(log.tenant, &RunFilter::default(), None, 10).await.unwrap();
        assert_eq!(rows, expected(ids), "{split:b}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_listed_by_agent_customer_status_and_kind_of_work() {
    let Some(house) = House::open().await else { return };
    let (agent, other, customer) = (new_id(), new_id(), new_id());
    let mut log = Log::new();
    let first = log.request(agent, Some(customer), Some("a"), second(0));
    let second_run = log.request(other, Some(customer), Some("b"), second(1));
    let third = log.request(agent, None, Some("b"), second(2));
    log.begin(first, 1, second(3));
    // What was redacted counts, and changes nothing.
    log.push(third, &RunEvent::Cancelled { at: second(4) });
    let redacted = RecordedEvent { payload: None, ..log.events.pop().unwrap().as_ref().clone() };
    log.events.push(Arc::new(redacted));
    house.take(&Runs, &[&log.events]).await;
    let list = async |filter: RunFilter, before, limit| {
        let rows = house.reads.runs(log.tenant, &filter, before, limit).await.unwrap();
        rows.iter().map(|row| domain::TypedId::uuid(&row.id)).collect::<Vec<_>>()
    };
    assert_eq!(list(RunFilter::default(), None, 2).await, [third, second_run]);
    assert_eq!(list(RunFilter::default(), Some(second_run), 2).await, [first]);
    assert_eq!(list(RunFilter { agent: Some(agent), ..RunFilter::default() }, None, 9).await, [third, first]);
    assert_eq!(
        list(RunFilter { customer: Some(customer), ..RunFilter::default() }, None, 9).await,
        [second_run, first]
    );
    assert_eq!(list(RunFilter { status: Some(RunStatus::Running), ..RunFilter::default() }, None, 9).await, [first]);
    let kind = |kind: &str| RunFilter { task_type: Some(kind.into()), ..RunFilter::default() };
    assert_eq!(list(kind("b"), None, 9).await, [third, second_run]);
    assert_eq!(list(RunFilter { agent: Some(other), ..kind("a") }, None, 9).await, [] as [Uuid; 0]);
    let rows = house.reads.runs(log.tenant, &RunFilter::default(), None, 1).await.unwrap();
    assert_eq!((rows[0].status, rows[0].version, rows[0].sequence), (RunStatus::Pending, 2, 5));
    assert!(house.reads.runs(new_id(), &RunFilter::default(), None, 9).await.unwrap().is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_agents_are_these() {
    let Some(house) = House::open().await else { return };
    let (agent, other) = (new_id().min(new_id()), Uuid::max());
    let mut log = Log::new();
    // 1, 2, 3 and 4 seconds; the third failed, the fourth took too long.
    for seconds in 1..=4 {
        let run = log.request(agent, None, None, second(0));
        log.begin(run, 1, second(10));
        let end = second(10 + seconds);
        match seconds {
            3 => log.fail(run, end),
            4 => log.time_out(run, end),
            _ => log.succeed(run, end, Some((100 * seconds, 10)), Some((1_000_000, "USD"))),
        }
    }
    let called_off = log.request(agent, None, None, second(0));
    log.begin(called_off, 1, second(10));
    log.push(called_off, &RunEvent::Cancelled { at: second(500) });
    log.request(agent, None, None, second(60));
    let running = log.request(agent, None, None, second(61));
    log.begin(running, 1, second(61));
    let elsewhere = log.request(other, None, None, second(30));
    log.begin(elsewhere, 1, second(30));
    log.succeed(elsewhere, second(40), Some((7, 8)), Some((5, "EUR")));
    house.take(&Runs, &[&log.events]).await;

    let now = Standpoint::now(second(100));
    let metrics = async |filter: MetricsFilter| house.reads.agent_metrics(log.tenant, &filter, &now).await.unwrap();
    let all = metrics(MetricsFilter::default()).await;
    assert_eq!(all.sequence, log.events.len() as i64);
    let usd = CostSum { amount_micros: 2_000_000, currency: "USD".parse().unwrap() };
    let eur = CostSum { amount_micros: 5, currency: "EUR".parse().unwrap() };
    let figures = RunFigures {
        runs: RunCounts { pending: 1, running: 1, succeeded: 2, failed: 1, timed_out: 1, cancelled: 1 },
        success_rate: Some(0.5),
        attempts: 6,
        p50_seconds: Some(2.5),
        p95_seconds: Some(3.85),
        prompt_tokens: 300,
        completion_tokens: 20,
        costs: vec![usd],
    };
    let of_other = RunFigures {
        runs: RunCounts { succeeded: 1, ..RunCounts::default() },
        success_rate: Some(1.0),
        attempts: 1,
        p50_seconds: Some(10.0),
        p95_seconds: Some(10.0),
        prompt_tokens: 7,
        completion_tokens: 8,
        costs: vec![eur],
    };
    let total = RunFigures {
        runs: RunCounts { succeeded: 3, ..figures.runs },
        success_rate: Some(0.6),
        attempts: 7,
        p50_seconds: Some(3.0),
        p95_seconds: Some(8.8),
        prompt_tokens: 307,
        completion_tokens: 28,
        costs: vec![eur, usd],
    };
    let rounded = |mut figures: RunFigures| {
        figures.p95_seconds = figures.p95_seconds.map(|seconds| (seconds * 1e6).round() / 1e6);
        figures
    };
    assert_eq!(rounded(all.total), total);
    let agents: Vec<_> = all.agents.into_iter().map(|of| (of.agent, rounded(of.figures))).collect();
    assert_eq!(agents, [(AgentId::from(agent), figures), (AgentId::from(other), of_other.clone())]);

    let one = metrics(MetricsFilter { agent: Some(other), ..MetricsFilter::default() }).await;
    assert_eq!(one.total, of_other);
    assert_eq!(one.agents, [AgentFigures { agent: AgentId::from(other), figures: of_other }]);
    // By when they were requested.
    let some = metrics(MetricsFilter { from: Some(second(30)), to: Some(second(61)), agent: None }).await;
    assert_eq!(some.total.runs, RunCounts { pending: 1, succeeded: 1, ..RunCounts::default() });
    let none = metrics(MetricsFilter { from: Some(second(62)), ..MetricsFilter::default() }).await;
    assert_eq!((none.total, none.agents), (RunFigures::default(), vec![]));
    let kpis = house.reads.kpis(log.tenant, &Standpoint::now(second(100))).await.unwrap();
    assert_eq!((kpis.runs.value, kpis.runs.sequence), (total.runs, all.sequence));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_as_well_as_its_last_twenty_runs() {
    let Some(house) = House::open().await else { return };
    let now = Standpoint::now(second(3_000));
    // How many of the last 20 failed, after older ones that all did.
    for (failed, health) in [
        (0, Health::Healthy),
        (2, Health::Healthy),
        (3, Health::Degraded),
        (10, Health::Degraded),
        (11, Health::Failing),
    ] {
        let agent = new_id();
        let mut log = Log::new();
        for n in 0..25 {
            let run = log.request(agent, None, None, second(n));
            log.begin(run, 1, second(n));
            // Which of them are within the last 20 is a matter of when they ended, not of when they were requested.
            let end = second(1_000 - n);
            match n {
                20.. => log.fail(run, end),
                n if n < failed => log.time_out(run, end),
                _ => log.succeed(run, end, None, None),
            }
        }
        let cancelled = log.request(agent, None, None, second(30));
        log.push(cancelled, &RunEvent::Cancelled { at: second(2_000) });
        log.request(agent, None, None, second(50));
        log.request(agent, None, None, second(40));
        let running = log.request(agent, None, None, second(35));
        log.begin(running, 1, second(36));
        house.take(&Runs, &[&log.events]).await;
        let status = house.reads.agent_status(log.tenant, agent, &now).await.unwrap();
        assert_eq!((status.sequence, status.health), (log.events.len() as i64, health), "{failed}");
        assert_eq!(status.last_runs, LastRuns { succeeded: 20 - failed, failed: 0, timed_out: failed });
        assert_eq!((status.last_run_at, status.last_success_at), (Some(second(1_000)), Some(second(1_000 - failed))));
        assert_eq!(status.queue, Queue { pending: 2, running: 1, oldest_pending_at: Some(second(40)) });

        let nobody = house.reads.agent_status(log.tenant, new_id(), &now).await.unwrap();
        assert_eq!((nobody.health, nobody.last_run_at, nobody.queue), (Health::Unknown, None, Queue::default()));
    }
    house.close().await;
}
