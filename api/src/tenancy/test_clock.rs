//! `/test-clock`: the time of a tenant that was made for tests.

use std::time::Duration;

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use commands::CommandContext;
use domain::TypedId;
use domain::names::{Scope, TENANCY_READ, TENANCY_WRITE};
use domain::tenancy::{TestClock, TestClockCommand, TestClockError, TestClockStatus};
use eventstore::{Loaded, TenantClock};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::Moment;
use crate::extract::query::Nothing;
use crate::operation::{Answer, Operation};
use crate::problem::{Code, Problem, codes};
use crate::resource::{BASE, Beside, Resource, refusal, shown_state, time};
use crate::{schema, strict};

const NOT_FOR_TESTS: Code = Code::rule(
    "not-a-test-tenant",
    "The tenant is not for tests",
    "Only the clock of a tenant that was made with `annals tenants create --test` can be read and advanced.",
);
const ADVANCING: Code = Code::rule(
    "test-clock-advancing",
    "The clock is being advanced",
    "Wait until its `status` is `ready`; then advance it again.",
);
/// Where the clock is.
const PATH: &str = "/test-clock";

impl Resource for TestClock {
    const OBJECT: &'static str = "test_clock";
    const PATH: &'static str = PATH;
    const READ: Scope = TENANCY_READ;
    const WRITE: Scope = TENANCY_WRITE;
    const BESIDE: &'static [Beside] = &[Beside {
        name: "now",
        schema: |generator| generator.subschema_for::<DateTime<Utc>>(),
        value: |_, _| Value::Null,
    }];

    fn problem(error: TestClockError) -> Problem {
        match error {
            TestClockError::NotForTests => Problem::of(NOT_FOR_TESTS),
            TestClockError::AlreadyStarted => Problem::of(codes::ALREADY_EXISTS),
            TestClockError::Advancing { to } => Problem::of(ADVANCING).with("advance_to", time(to)),
            TestClockError::SetBack { now } => {
                Problem::field("/advance_to", format!("must not be before {}, what the clock shows", time(now)))
            }
            TestClockError::TooFar => Problem::field("/advance_to", "must be within ten years of what the clock shows"),
        }
    }
}

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, PATH, "tenancy.test_clock.get", TENANCY_READ)
            .about("Read the clock of a test tenant", "It runs as ours does, ahead of it by what it was advanced.")
            .answers(described)
            .refuses(&[NOT_FOR_TESTS])
            .tagged()
            .handled(get),
        Operation::command(Method::POST, PATH, "tenancy.test_clock.advance", TENANCY_WRITE)
            .about(
                "Advance the clock of a test tenant",
                "What falls due on the way (renewals, ends of subscriptions, attempts of runs, erasures) is done in order, \
                 each at its moment; then `status` is `ready` again.",
            )
            .body::<Advance>(|| json!({ "advance_to": "2027-11-20T10:00:00Z" }))
            .answers(described)
            .refuses(&[NOT_FOR_TESTS, ADVANCING])
            .conditional()
            .waits()
            .handled(advance),
    ]
}

fn described(generator: &mut SchemaGenerator) -> Schema {
    schema::shown::<TestClock>(generator)
}

/// To when.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Advance {
    /// What the clock shall show: not before what it shows, and within ten years of it.
    advance_to: Moment,
}

async fn get(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let head = call.head().await?;
    let loaded = call.state.executor.load::<TestClock>(call.tenant(), TestClock::id(call.tenant())).await?;
    if !loaded.exists() {
        return Err(Problem::of(NOT_FOR_TESTS));
    }
    Ok(answer(&call, &loaded).await?.has_seen(head.max(loaded.sequence), 0.0))
}

/// The clock, and what it shows.
async fn answer(call: &Call, loaded: &Loaded<TestClock>) -> Result<Answer, Problem> {
    let mut shown = shown_state::<TestClock>(TestClock::id(call.tenant()), loaded)?;
    shown["now"] = time(call.state.executor.now(call.tenant()).await?).into();
    Ok(Answer::new(shown).tagged(loaded))
}

async fn advance(call: Call) -> Result<Answer, Problem> {
    let keyed = call.keyed(&call.body).await?;
    let Advance { advance_to } = strict::typed(call.body.clone())?;
    let (executor, id) = (call.state.executor.clone(), TestClock::id(call.tenant()));
    let ahead = executor.store().tenant_clock(call.tenant().uuid()).await?.map(|clock| clock.ahead);
    let clock = TenantClock { ahead: ahead.unwrap_or(TimeDelta::zero()), advancing: true };
    let cc = CommandContext { idempotency: keyed, clock: Some(clock), ..call.command(None) };
    let done = executor.execute::<TestClock>(cc, id, TestClockCommand::Advance { to: advance_to.0 }).await;
    let done = done.map_err(|error| refusal::<TestClock>(&call, error))?;
    let begun = answer(&call, &done.loaded).await?.wrote(done.sequence).at(&format!("{BASE}{PATH}"));
    let begun = if done.replayed { begun.replayed(done.status) } else { begun };
    let Some(wait) = call.headers.wait else { return Ok(begun) };
    Ok(begun.later(wait, async move {
        let arrived = |clock: &TestClock| clock.status == TestClockStatus::Ready;
        let loaded = executor.until::<TestClock>(call.tenant(), id, Duration::from_secs(wait), arrived).await?;
        let sequence = loaded.sequence;
        let arrived = answer(&call, &loaded).await?.wrote(sequence).at(&format!("{BASE}{PATH}"));
        Ok(if done.replayed { arrived.replayed(done.status) } else { arrived })
    }))
}
