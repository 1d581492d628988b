use serde_json::json;

use super::*;
use crate::cqrs::Given;
use crate::test_support::ctx;

fn id() -> RunId {
    RunId::from(Uuid::from_u128(9))
}

fn customer() -> CustomerId {
    CustomerId::from(Uuid::from_u128(7))
}

fn input() -> Map<String, Value> {
    Map::from_iter([("question".to_owned(), json!("why?"))])
}

fn wanted(customer: Option<CustomerId>, input: Map<String, Value>) -> RunCommand {
    RunCommand::Request(Box::new(Request {
        id: id(),
        external_id: None,
        agent: AgentId::from(Uuid::from_u128(5)),
        agent_version: 2,
        customer,
        task_type: None,
        input,
        timeout_seconds: 10,
        retry: Retry { attempts: 2, initial_seconds: 4.0, factor: 2.0 },
    }))
}

fn requested(customer: Option<CustomerId>) -> RunEvent {
    Run::default().decide(wanted(customer, input()), &ctx()).unwrap().remove(0)
}

fn started(attempt: i64) -> RunEvent {
    RunEvent::AttemptStarted { attempt, at: ctx().now }
}

fn failed_with(code: FailureCode, retryable: bool, retry_after: Option<TimeDelta>) -> AttemptOutcome {
    AttemptOutcome::Failed { code, provider_status: Some(503), detail: Some("no".into()), retryable, retry_after }
}

fn answer(attempt: i64, outcome: AttemptOutcome) -> RunCommand {
    RunCommand::Answer { id: id(), attempt, outcome }
}

fn failure(code: FailureCode) -> Failure {
    Failure { code, provider_status: Some(503), detail: Some(Personal::open(id().uuid(), "no".into())) }
}

fn failed_once() -> RunEvent {
    let next_attempt_at = ctx().now + TimeDelta::seconds(4);
    RunEvent::AttemptFailed { attempt: 1, error: failure(FailureCode::Connection), next_attempt_at }
}

fn succeeded(attempt: i64) -> RunEvent {
    let result = Personal::open(id().uuid(), json!({"answer": 42}));
    RunEvent::Succeeded { attempt, at: ctx().now, result, usage: None, cost: None }
}

fn success() -> AttemptOutcome {
    AttemptOutcome::Succeeded { result: json!({"answer": 42}), usage: None, cost: None }
}

fn given(events: impl IntoIterator<Item = RunEvent>) -> Given<Run> {
    Given::events(ctx(), events)
}

fn state(events: impl IntoIterator<Item = RunEvent>) -> Run {
    let mut run = Run::default();
    events.into_iter().for_each(|event| run.apply(event));
    run
}

#[test]
fn input_is_about_the_customer_else_about_the_run() {
    let subject = |customer| match requested(customer) {
        RunEvent::Requested { input, .. } => input.subject().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(subject(Some(customer())), customer().uuid());
    assert_eq!(subject(None), id().uuid());
    assert_eq!(Run::about(&wanted(Some(customer()), input())), [customer().uuid()]);
    let large = Map::from_iter([("text".to_owned(), json!("x".repeat(MAX_BYTES)))]);
    let bytes = MAX_BYTES + r#"{"text":""}"#.len();
    given([]).when_refused(wanted(None, large), RunError::InputTooLarge { bytes });
    given([requested(None)]).when_refused(wanted(None, input()), RunError::AlreadyExists);
    given([]).when_refused(RunCommand::Begin, RunError::NotFound);
}

#[test]
fn an_attempt_begins_when_it_is_due_and_is_answered_once() {
    given([requested(None)]).when_then(RunCommand::Begin, [started(1)]);
    given([requested(None), started(1)]).when_then(RunCommand::Begin, []);
    given([requested(None), started(1)]).when_then(answer(1, success()), [succeeded(1)]);
    given([requested(None), started(1), succeeded(1)]).when_then(answer(1, success()), []);
    given([requested(None), started(1)]).when_then(answer(2, success()), []);
    given([requested(None), started(1), failed_once()]).when_then(RunCommand::Begin, []);
    given([requested(None), started(1), failed_once()]).when_then(answer(1, success()), []);
}

#[test]
fn what_may_go_better_is_repeated_while_attempts_are_left() {
    let connection = || failed_with(FailureCode::Connection, true, None);
    let error = || failure(FailureCode::Connection);
    given([requested(None), started(1)]).when_then(answer(1, connection()), [failed_once()]);
    let second = [requested(None), started(1), failed_once(), started(2)];
    given(second.clone())
        .when_then(answer(2, connection()), [RunEvent::Failed { attempt: 2, at: ctx().now, error: error() }]);
    let timed_out = RunEvent::TimedOut { attempt: 2, at: ctx().now, error: failure(FailureCode::TimedOut) };
    given(second).when_then(answer(2, failed_with(FailureCode::TimedOut, true, None)), [timed_out]);
    let for_good = RunEvent::Failed { attempt: 1, at: ctx().now, error: failure(FailureCode::ProviderStatus) };
    given([requested(None), started(1)])
        .when_then(answer(1, failed_with(FailureCode::ProviderStatus, false, None)), [for_good]);
}

#[test]
fn a_provider_that_wants_to_be_left_alone_is_within_reason() {
    let next = |asked: TimeDelta| {
        let outcome = failed_with(FailureCode::ProviderBusy, true, Some(asked));
        let events = state([requested(None), started(1)]).decide(answer(1, outcome), &ctx()).unwrap();
        match events.as_slice() {
            [RunEvent::AttemptFailed { next_attempt_at, .. }] => *next_attempt_at - ctx().now,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next(TimeDelta::seconds(1)), TimeDelta::seconds(4), "our own wait is longer");
    assert_eq!(next(TimeDelta::seconds(90)), TimeDelta::seconds(90));
    assert_eq!(next(TimeDelta::days(9)), MAX_RETRY_AFTER);
}

#[test]
fn a_run_can_be_called_off_until_it_ends() {
    let cancelled = || RunEvent::Cancelled { at: ctx().now };
    given([requested(None)]).when_then(RunCommand::Cancel, [cancelled()]);
    given([requested(None), started(1)]).when_then(RunCommand::Cancel, [cancelled()]);
    given([requested(None), cancelled()]).when_refused(RunCommand::Cancel, RunError::Ended);
    given([requested(None), started(1), succeeded(1)]).when_refused(RunCommand::Cancel, RunError::Ended);
    given([requested(None), started(1), cancelled()]).when_then(answer(1, success()), []);
}

#[test]
fn a_result_beyond_the_bound_is_a_failure() {
    let large = AttemptOutcome::Succeeded { result: json!("x".repeat(MAX_BYTES)), usage: None, cost: None };
    let events = state([requested(None), started(1)]).decide(answer(1, large), &ctx()).unwrap();
    assert!(
        matches!(
            events.as_slice(),
            [RunEvent::Failed { error: Failure { code: FailureCode::ResultTooLarge, .. }, .. }]
        ),
        "{events:?}"
    );
}

#[test]
fn it_wakes_for_its_next_attempt_and_for_whoever_takes_over() {
    let wakes = |events: Vec<RunEvent>| state(events).wakes_at();
    assert_eq!(wakes(vec![requested(None)]), Some(ctx().now));
    assert_eq!(wakes(vec![requested(None), started(1)]), Some(AT_ONCE));
    assert_eq!(wakes(vec![requested(None), started(1), failed_once()]), Some(ctx().now + TimeDelta::seconds(4)));
    assert_eq!(wakes(vec![requested(None), started(1), succeeded(1)]), None);
}
