//! A person's request, filed by one principal and approved by another:
//! `Pending -> Approved -> InProgress -> Complete`, or `Cancelled` before it begins.

use chrono::{DateTime, Datelike, Days, Months, TimeDelta, Utc, Weekday};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::personal::Support;
use crate::text::Prose;
use crate::{
    Aggregate, AnyId, Context, CustomerId, Event, Personal, PrivacyRequestId, RetentionClass, StreamType, TypedId,
    names,
};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrivacyRequest {
    /// Where it stands.
    pub status: PrivacyRequestStatus,
    /// Whom it is about.
    pub customer: CustomerId,
    /// What is asked.
    pub kind: RequestKind,
    /// Why, in free text.
    pub reason: Option<Personal<Prose, Support>>,
    /// Who filed it.
    #[schemars(with = "Option<String>")]
    pub requested_by: Option<AnyId>,
    /// When the law wants it done: one month after it was received (GDPR, Art. 12(3)).
    pub due_at: Option<DateTime<Utc>>,
    /// Who approved it.
    #[schemars(with = "Option<String>")]
    pub approved_by: Option<AnyId>,
    /// When it begins, once approved; until then it can be called off.
    pub execute_after: Option<DateTime<Utc>>,
    /// What was done.
    pub receipt: Option<Receipt>,
}

/// `none -> pending -> approved -> in_progress -> complete`, or `cancelled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyRequestStatus {
    /// Not there.
    #[default]
    None,
    /// Waits for approval.
    Pending,
    /// Waits for its moment.
    Approved,
    /// Being carried out; can't be called off.
    InProgress,
    /// Done.
    Complete,
    /// Called off.
    Cancelled,
}

/// What a person may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// That personal data be erased (GDPR, Art. 17).
    #[default]
    Erasure,
}

/// What a completed erasure did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// Whose data is gone.
    pub customer: CustomerId,
    /// The retention classes whose keys were destroyed.
    #[schemars(with = "Vec<String>")]
    pub keys_destroyed: Vec<RetentionClass>,
    /// When the last process that could open anything had forgotten the keys.
    pub destroyed_at: DateTime<Utc>,
}

/// What can be asked of a request.
#[derive(Clone, Debug)]
pub enum PrivacyRequestCommand {
    /// File it.
    Receive {
        /// Whom it is about.
        customer: CustomerId,
        /// What is asked.
        kind: RequestKind,
        /// Why.
        reason: Option<Prose>,
    },
    /// Let it be carried out, after a delay.
    Approve {
        /// How long it can still be called off.
        delay: TimeDelta,
    },
    /// Call it off.
    Cancel,
    /// Begin.
    Start,
    /// Be done.
    Complete {
        /// What was done.
        receipt: Receipt,
    },
}

/// What can have happened to a request.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "privacy_request")]
pub enum PrivacyRequestEvent {
    /// The request was filed.
    Received {
        /// Whom it is about.
        customer: CustomerId,
        /// What is asked.
        kind: RequestKind,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Personal<Prose, Support>>,
        /// Who filed it.
        #[schemars(with = "String")]
        requested_by: AnyId,
        /// When the law wants it done.
        due_at: DateTime<Utc>,
    },
    /// A second principal approved it.
    Approved {
        /// Who.
        #[schemars(with = "String")]
        approved_by: AnyId,
        /// When it begins.
        execute_after: DateTime<Utc>,
    },
    /// It was called off.
    Cancelled,
    /// It is being carried out.
    Started,
    /// It was carried out.
    Completed {
        /// What was done.
        receipt: Receipt,
    },
}

/// Why a request refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivacyRequestError {
    /// No such request.
    #[error("there is no such request")]
    NotFound,
    /// It is there already.
    #[error("the request exists already")]
    AlreadyExists,
    /// Whoever filed it approves it.
    #[error("another principal than the one that filed the request must approve it")]
    SamePrincipal,
    /// It was called off.
    #[error("the request was cancelled")]
    Cancelled,
    /// It is being carried out, or was.
    #[error("the request is being carried out and can no longer be called off")]
    Begun,
    /// It was not approved, or not begun.
    #[error("the request has not been approved")]
    NotApproved,
}

/// One month later, the day clamped to the month's end (GDPR, Art. 12(3)); an end on a weekend moves to Monday
/// (Regulation 1182/71, Art. 3(4); public holidays are not known here).
pub fn due_at(received: DateTime<Utc>) -> DateTime<Utc> {
    let due = received.checked_add_months(Months::new(1)).unwrap_or(received);
    let days = match due.weekday() {
        Weekday::Sat => 2,
        Weekday::Sun => 1,
        _ => 0,
    };
    due.checked_add_days(Days::new(days)).unwrap_or(due)
}

impl Aggregate for PrivacyRequest {
    const STREAM: StreamType = names::PRIVACY_REQUEST;
    const REVISION: i32 = 1;
    type Id = PrivacyRequestId;
    type Command = PrivacyRequestCommand;
    type Event = PrivacyRequestEvent;
    type Error = PrivacyRequestError;

    fn about(command: &PrivacyRequestCommand) -> Vec<uuid::Uuid> {
        match command {
            PrivacyRequestCommand::Receive { customer, .. } => vec![customer.uuid()],
            PrivacyRequestCommand::Approve { .. }
            | PrivacyRequestCommand::Cancel
            | PrivacyRequestCommand::Start
            | PrivacyRequestCommand::Complete { .. } => Vec::new(),
        }
    }

    fn decide(
        &self,
        command: PrivacyRequestCommand,
        ctx: &Context,
    ) -> Result<Vec<PrivacyRequestEvent>, PrivacyRequestError> {
        use {
            PrivacyRequestCommand as C, PrivacyRequestError as Error, PrivacyRequestEvent as E,
            PrivacyRequestStatus as S,
        };
        Ok(match (self.status, command) {
            (S::None, C::Receive { customer, kind, reason }) => vec![E::Received {
                customer,
                kind,
                reason: reason.map(|reason| Personal::open(customer.uuid(), reason)),
                requested_by: ctx.actor,
                due_at: due_at(ctx.occurred_at),
            }],
            (_, C::Receive { .. }) => return Err(Error::AlreadyExists),
            (S::None, _) => return Err(Error::NotFound),
            (S::Pending, C::Approve { .. }) if self.requested_by == Some(ctx.actor) => {
                return Err(Error::SamePrincipal);
            }
            (S::Pending, C::Approve { delay }) => {
                let execute_after = ctx.now.checked_add_signed(delay).unwrap_or(ctx.now);
                vec![E::Approved { approved_by: ctx.actor, execute_after }]
            }
            (S::Approved, C::Approve { .. }) => vec![],
            (S::Pending | S::Approved, C::Cancel) => vec![E::Cancelled],
            (S::Cancelled, C::Cancel) | (S::InProgress | S::Complete, C::Start) | (S::Complete, C::Complete { .. }) => {
                vec![]
            }
            (S::Cancelled, _) => return Err(Error::Cancelled),
            (S::InProgress | S::Complete, C::Approve { .. } | C::Cancel) => return Err(Error::Begun),
            (S::Pending, C::Start) | (S::Pending | S::Approved, C::Complete { .. }) => return Err(Error::NotApproved),
            (S::Approved, C::Start) => vec![E::Started],
            (S::InProgress, C::Complete { receipt }) => vec![E::Completed { receipt }],
        })
    }

    fn apply(&mut self, event: PrivacyRequestEvent) {
        use {PrivacyRequestEvent as E, PrivacyRequestStatus as S};
        match event {
            E::Received { customer, kind, reason, requested_by, due_at } => {
                let requested_by = Some(requested_by);
                *self = Self {
                    status: S::Pending,
                    customer,
                    kind,
                    reason,
                    requested_by,
                    due_at: Some(due_at),
                    ..Self::default()
                };
            }
            E::Approved { approved_by, execute_after } => {
                self.status = S::Approved;
                self.approved_by = Some(approved_by);
                self.execute_after = Some(execute_after);
            }
            E::Cancelled => self.status = S::Cancelled,
            E::Started => self.status = S::InProgress,
            E::Completed { receipt } => {
                self.status = S::Complete;
                self.reason = self.reason.take().map(|_| Personal::erased());
                self.receipt = Some(receipt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn customer() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn received(by: AnyId) -> PrivacyRequestEvent {
        let due_at = due_at(ctx().now);
        PrivacyRequestEvent::Received {
            customer: customer(),
            kind: RequestKind::Erasure,
            reason: None,
            requested_by: by,
            due_at,
        }
    }

    fn other() -> AnyId {
        AnyId::new("key", Uuid::from_u128(99))
    }

    fn approved() -> PrivacyRequestEvent {
        PrivacyRequestEvent::Approved { approved_by: ctx().actor, execute_after: ctx().now + TimeDelta::hours(24) }
    }

    fn given(events: impl IntoIterator<Item = PrivacyRequestEvent>) -> Given<PrivacyRequest> {
        Given::events(ctx(), events)
    }

    #[test]
    fn the_law_gives_one_month_clamped_and_never_ends_on_a_weekend() {
        let due = |text: &str| due_at(text.parse().unwrap()).to_rfc3339();
        assert_eq!(due("2023-01-31T10:00:00Z"), "2023-02-28T10:00:00+00:00");
        assert_eq!(due("2024-01-31T10:00:00Z"), "2024-02-29T10:00:00+00:00");
        assert_eq!(due("2026-02-14T10:00:00Z"), "2026-03-16T10:00:00+00:00", "a Saturday moves to Monday");
        assert_eq!(due("2026-02-15T10:00:00Z"), "2026-03-16T10:00:00+00:00", "a Sunday moves to Monday");
    }

    #[test]
    fn a_request_is_approved_by_another_principal_after_a_delay() {
        let approve = || PrivacyRequestCommand::Approve { delay: TimeDelta::hours(24) };
        given([received(other())]).when_then(approve(), [approved()]);
        given([received(ctx().actor)]).when_refused(approve(), PrivacyRequestError::SamePrincipal);
        given([received(other()), approved()]).when_then(approve(), []);
        given([]).when_refused(approve(), PrivacyRequestError::NotFound);
    }

    #[test]
    fn a_request_can_be_called_off_until_it_begins() {
        use PrivacyRequestCommand as C;
        use PrivacyRequestEvent as E;
        given([received(other())]).when_then(C::Cancel, [E::Cancelled]);
        given([received(other()), approved()]).when_then(C::Cancel, [E::Cancelled]);
        given([received(other()), E::Cancelled]).when_then(C::Cancel, []);
        given([received(other()), E::Cancelled]).when_refused(C::Start, PrivacyRequestError::Cancelled);
        given([received(other()), approved(), E::Started]).when_refused(C::Cancel, PrivacyRequestError::Begun);
        given([received(other())]).when_refused(C::Start, PrivacyRequestError::NotApproved);
    }

    #[test]
    fn a_request_ends_with_its_receipt() {
        use PrivacyRequestEvent as E;
        let receipt =
            Receipt { customer: customer(), keys_destroyed: RetentionClass::ALL.to_vec(), destroyed_at: ctx().now };
        let complete = || PrivacyRequestCommand::Complete { receipt: receipt.clone() };
        let done = E::Completed { receipt: receipt.clone() };
        given([received(other()), approved(), E::Started]).when_then(complete(), [done.clone()]);
        given([received(other()), approved()]).when_refused(complete(), PrivacyRequestError::NotApproved);
        given([received(other()), approved(), E::Started, done]).when_then(complete(), []);
    }
}
