//! The clock of a tenant that was made for tests: `Ready <-> Advancing`. It runs as ours does, ahead of it by what it was
//! advanced; what falls due on the way is done in order, as if the time had passed.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::AT_ONCE;
use crate::{Aggregate, Context, Event, StreamType, TenantId, TestClockId, TypedId, names};

/// The furthest that one advance may go: ten years.
pub const FURTHEST: TimeDelta = TimeDelta::days(3_653);

/// All that the resource shows, but for the time itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestClock {
    /// Where it stands.
    pub status: TestClockStatus,
    /// The moment that it is, or was last, advanced to.
    pub advance_to: Option<DateTime<Utc>>,
}

/// `none -> ready <-> advancing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestClockStatus {
    /// The tenant is not for tests.
    #[default]
    None,
    /// It runs.
    Ready,
    /// What falls due on the way is being done.
    Advancing,
}

/// What can be asked of the clock.
#[derive(Clone, Debug)]
pub enum TestClockCommand {
    /// Make the tenant one for tests.
    Start,
    /// Let the time pass until then.
    Advance {
        /// When.
        to: DateTime<Utc>,
    },
    /// All that was due on the way is done.
    Arrive {
        /// When the way ended.
        to: DateTime<Utc>,
    },
}

/// What can have happened to the clock.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "test_clock")]
pub enum TestClockEvent {
    /// The tenant is one for tests.
    Started,
    /// The time begins to pass.
    AdvanceBegun {
        /// What the clock showed.
        from: DateTime<Utc>,
        /// What it shall show.
        to: DateTime<Utc>,
    },
    /// The time has passed, and what fell due is done.
    Advanced {
        /// What the clock shows.
        to: DateTime<Utc>,
    },
}

/// Why the clock refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestClockError {
    /// The tenant was not made for tests.
    #[error("the tenant was not made for tests")]
    NotForTests,
    /// The tenant is one for tests already.
    #[error("the tenant is one for tests already")]
    AlreadyStarted,
    /// It is on its way to another moment.
    #[error("the clock is being advanced to {to}")]
    Advancing {
        /// To which.
        to: DateTime<Utc>,
    },
    /// Time does not go back.
    #[error("the clock shows {now} and can't be set back")]
    SetBack {
        /// What it shows.
        now: DateTime<Utc>,
    },
    /// Further than [`FURTHEST`].
    #[error("the clock can be advanced by ten years at a time")]
    TooFar,
}

impl TestClock {
    /// The clock of a tenant: it has one, whose id follows from its own.
    pub fn id(tenant: TenantId) -> TestClockId {
        TestClockId::from(Uuid::new_v5(&tenant.uuid(), names::TEST_CLOCK.name.as_bytes()))
    }
}

impl Aggregate for TestClock {
    const STREAM: StreamType = names::TEST_CLOCK;
    const REVISION: i32 = 1;
    const WAKES: bool = true;
    type Id = TestClockId;
    type Command = TestClockCommand;
    type Event = TestClockEvent;
    type Error = TestClockError;

    fn decide(&self, command: TestClockCommand, ctx: &Context) -> Result<Vec<TestClockEvent>, TestClockError> {
        use {TestClockCommand as C, TestClockError as Error, TestClockEvent as E, TestClockStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Start) => vec![E::Started],
            (S::None, _) => return Err(Error::NotForTests),
            (_, C::Start) => return Err(Error::AlreadyStarted),
            (S::Advancing, C::Advance { to }) if self.advance_to == Some(to) => vec![],
            (S::Advancing, C::Advance { to }) => {
                return Err(Error::Advancing { to: self.advance_to.unwrap_or(to) });
            }
            (S::Ready, C::Advance { to }) if to < ctx.now => return Err(Error::SetBack { now: ctx.now }),
            (S::Ready, C::Advance { to }) if to - ctx.now > FURTHEST => return Err(Error::TooFar),
            (S::Ready, C::Advance { to }) => vec![E::AdvanceBegun { from: ctx.now, to }],
            (S::Advancing, C::Arrive { to }) if self.advance_to == Some(to) => vec![E::Advanced { to }],
            (S::Ready | S::Advancing, C::Arrive { .. }) => vec![],
        })
    }

    fn apply(&mut self, event: TestClockEvent) {
        match event {
            TestClockEvent::Started => self.status = TestClockStatus::Ready,
            TestClockEvent::AdvanceBegun { to, .. } => {
                self.status = TestClockStatus::Advancing;
                self.advance_to = Some(to);
            }
            TestClockEvent::Advanced { .. } => self.status = TestClockStatus::Ready,
        }
    }

    fn wakes_at(&self) -> Option<DateTime<Utc>> {
        (self.status == TestClockStatus::Advancing).then_some(AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn given(events: impl IntoIterator<Item = TestClockEvent>) -> Given<TestClock> {
        Given::events(ctx(), events)
    }

    fn later(days: i64) -> DateTime<Utc> {
        ctx().now + TimeDelta::days(days)
    }

    fn advance(days: i64) -> TestClockCommand {
        TestClockCommand::Advance { to: later(days) }
    }

    fn begun(days: i64) -> TestClockEvent {
        TestClockEvent::AdvanceBegun { from: ctx().now, to: later(days) }
    }

    #[test]
    fn only_a_tenant_for_tests_has_a_clock() {
        given([]).when_refused(advance(1), TestClockError::NotForTests);
        given([]).when_then(TestClockCommand::Start, [TestClockEvent::Started]);
        given([TestClockEvent::Started]).when_refused(TestClockCommand::Start, TestClockError::AlreadyStarted);
    }

    #[test]
    fn time_passes_forwards_and_not_without_end() {
        let started = || [TestClockEvent::Started];
        given(started()).when_then(advance(30), [begun(30)]);
        given(started()).when_then(advance(0), [begun(0)]);
        given(started()).when_refused(advance(-1), TestClockError::SetBack { now: ctx().now });
        given(started()).when_refused(advance(3_654), TestClockError::TooFar);
    }

    #[test]
    fn one_advance_ends_before_the_next() {
        let advancing = || [TestClockEvent::Started, begun(30)];
        given(advancing()).when_then(advance(30), []);
        given(advancing()).when_refused(advance(31), TestClockError::Advancing { to: later(30) });
        let arrive = || TestClockCommand::Arrive { to: later(30) };
        let advanced = TestClockEvent::Advanced { to: later(30) };
        given(advancing()).when_then(arrive(), [advanced.clone()]);
        given(advancing().into_iter().chain([advanced])).when_then(arrive(), []);
        given(advancing()).when_then(TestClockCommand::Arrive { to: later(29) }, []);
    }
}
