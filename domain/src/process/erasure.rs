//! Carries an approved erasure out: wait, begin, tombstone, destroy the keys, confirm, complete.
//! `Idle -> Waiting -> Starting -> Beginning -> Destroying -> Confirming -> Completing -> Done`.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Input, Outcome, Process, Send};
use crate::aggregate::AT_ONCE;
use crate::privacy::{PrivacyRequestEvent, Receipt};
use crate::{Aggregate, Context, CustomerId, ErasureId, Event, PrivacyRequestId, StreamType, TypedId, names};

/// Where an erasure stands, and what it remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErasureProcess {
    /// Where it stands.
    pub phase: ErasurePhase,
    /// The last sequence that it heard of: what is at or below it is old news.
    pub heard: i64,
    /// The request that it carries out, and whom that is about.
    pub task: Option<(PrivacyRequestId, CustomerId)>,
    /// When the erasure may begin.
    pub wait_until: Option<DateTime<Utc>>,
    /// What was done to the keys.
    pub receipt: Option<Receipt>,
    /// The command without an outcome.
    pub pending: Option<Send>,
}

/// The steps of an erasure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasurePhase {
    /// The request was filed; nothing to do before it is approved.
    #[default]
    Idle,
    /// Approved; it can still be called off.
    Waiting,
    /// The request is told that it begins.
    Starting,
    /// The customer gets its tombstone.
    Beginning,
    /// The keys are being destroyed.
    Destroying,
    /// The customer is told that the keys are gone.
    Confirming,
    /// The request gets its receipt.
    Completing,
    /// Nothing is left to do.
    Done,
    /// A command was refused that no rule should refuse; somebody must look.
    Failed,
}

/// What can have happened to an erasure.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "erasure")]
pub enum ErasureProcessEvent {
    /// The process went on: what it heard, where it stands, what it wants done.
    Stepped {
        /// The sequence that it heard, where an event of the log made it go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heard: Option<i64>,
        /// Where it stands now.
        phase: ErasurePhase,
        /// The request and whom it is about, once that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<(PrivacyRequestId, CustomerId)>,
        /// The moment that it waits for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_until: Option<DateTime<Utc>>,
        /// What it wants done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        send: Option<Send>,
    },
    /// The command that it wanted done has its outcome.
    Settled {
        /// How it went.
        outcome: Outcome,
    },
}

/// A process hears everything and refuses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Never {}

impl ErasureProcess {
    /// The id of the process for a request: made from the request's, so that a request has one process, and another
    /// UUID than the request's, for streams of all kinds share one name space.
    pub fn id(request: PrivacyRequestId) -> ErasureId {
        ErasureId::from(Uuid::new_v5(&request.uuid(), names::ERASURE.name.as_bytes()))
    }

    fn hear(&self, sequence: i64, stream: Uuid, event: &PrivacyRequestEvent) -> Option<ErasureProcessEvent> {
        use {ErasurePhase as P, PrivacyRequestEvent as E};
        let (phase, task, wait_until) = match (self.phase, event) {
            (P::Idle, E::Received { customer, .. }) => {
                (P::Idle, Some((PrivacyRequestId::from(stream), *customer)), None)
            }
            (P::Idle, E::Approved { execute_after, .. }) => (P::Waiting, None, Some(*execute_after)),
            (P::Idle | P::Waiting, E::Cancelled) => (P::Done, None, None),
            _ => return None,
        };
        Some(ErasureProcessEvent::Stepped { heard: Some(sequence), phase, task, wait_until, send: None })
    }

    fn settle(&self, outcome: &Outcome) -> Option<ErasureProcessEvent> {
        use {ErasurePhase as P, Outcome as O};
        let (request, customer) = self.task?;
        self.pending.as_ref()?;
        let (phase, send) = match (self.phase, outcome) {
            (P::Starting, O::Done) => (P::Beginning, Some(Send::BeginErasure { customer, request })),
            (P::Beginning, O::Done) => (P::Destroying, Some(Send::DestroyKeys { customer })),
            (P::Destroying, O::KeysDestroyed { .. }) => (P::Confirming, Some(Send::CompleteErasure { customer })),
            (P::Confirming, O::Done) => {
                let receipt = self.receipt.clone()?;
                (P::Completing, Some(Send::CompleteRequest { request, receipt }))
            }
            // Refused at the start means that the request was called off at the last moment.
            (P::Completing, O::Done) | (P::Starting, O::Refused { .. }) => (P::Done, None),
            _ => (P::Failed, None),
        };
        Some(stepped(phase, send))
    }
}

fn stepped(phase: ErasurePhase, send: Option<Send>) -> ErasureProcessEvent {
    ErasureProcessEvent::Stepped { heard: None, phase, task: None, wait_until: None, send }
}

impl Aggregate for ErasureProcess {
    const STREAM: StreamType = names::ERASURE;
    const REVISION: i32 = 1;
    const WAKES: bool = true;
    type Id = ErasureId;
    type Command = Input<PrivacyRequestEvent>;
    type Event = ErasureProcessEvent;
    type Error = Never;

    fn decide(&self, input: Self::Command, ctx: &Context) -> Result<Vec<ErasureProcessEvent>, Never> {
        Ok(match input {
            Input::Heard { sequence, .. } if sequence <= self.heard => Vec::new(),
            Input::Heard { sequence, stream, event } => self.hear(sequence, stream, &event).into_iter().collect(),
            Input::Due => match (self.phase, self.wait_until, self.task) {
                (ErasurePhase::Waiting, Some(at), Some((request, _))) if at <= ctx.now => {
                    vec![stepped(ErasurePhase::Starting, Some(Send::StartRequest { request }))]
                }
                _ => Vec::new(),
            },
            Input::Settled(outcome) => match self.settle(&outcome) {
                Some(next) => vec![ErasureProcessEvent::Settled { outcome }, next],
                None => Vec::new(),
            },
        })
    }

    fn apply(&mut self, event: ErasureProcessEvent) {
        match event {
            ErasureProcessEvent::Stepped { heard, phase, task, wait_until, send } => {
                self.phase = phase;
                self.heard = heard.unwrap_or(self.heard);
                self.task = task.or(self.task);
                self.wait_until = wait_until.or(self.wait_until);
                self.pending = send;
            }
            ErasureProcessEvent::Settled { outcome } => {
                self.pending = None;
                if let (Outcome::KeysDestroyed { classes, at }, Some((_, customer))) = (outcome, self.task) {
                    self.receipt = Some(Receipt { customer, keys_destroyed: classes, destroyed_at: at });
                }
            }
        }
    }

    fn wakes_at(&self) -> Option<DateTime<Utc>> {
        let waits = self.wait_until.filter(|_| self.phase == ErasurePhase::Waiting);
        if self.pending.is_some() { Some(AT_ONCE) } else { waits }
    }
}

impl Process for ErasureProcess {
    type Hears = PrivacyRequestEvent;

    fn concerned(_: &PrivacyRequestEvent, stream: Uuid) -> Option<ErasureId> {
        Some(Self::id(PrivacyRequestId::from(stream)))
    }

    fn pending(&self) -> Option<&Send> {
        self.pending.as_ref()
    }

    fn failed(&self) -> bool {
        self.phase == ErasurePhase::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RetentionClass;
    use crate::privacy::RequestKind;
    use crate::test_support::ctx;

    fn request() -> PrivacyRequestId {
        PrivacyRequestId::from(Uuid::from_u128(5))
    }

    fn customer() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn heard(sequence: i64, event: PrivacyRequestEvent) -> Input<PrivacyRequestEvent> {
        Input::Heard { sequence, stream: request().uuid(), event }
    }

    fn received() -> PrivacyRequestEvent {
        let (requested_by, due_at) = (ctx().actor, ctx().now);
        PrivacyRequestEvent::Received {
            customer: customer(),
            kind: RequestKind::Erasure,
            reason: None,
            requested_by,
            due_at,
        }
    }

    fn approved() -> PrivacyRequestEvent {
        PrivacyRequestEvent::Approved { approved_by: ctx().actor, execute_after: ctx().now }
    }

    /// Feeds the inputs one after the other and gives the command that is pending after each.
    fn run(inputs: Vec<Input<PrivacyRequestEvent>>) -> (ErasureProcess, Vec<Option<Send>>) {
        let mut process = ErasureProcess::default();
        let mut pending = Vec::new();
        for input in inputs {
            let Ok(events) = process.decide(input, &ctx());
            events.into_iter().for_each(|event| process.apply(event));
            pending.push(process.pending.clone());
        }
        (process, pending)
    }

    #[test]
    fn an_erasure_goes_its_whole_way() {
        let destroyed = Outcome::KeysDestroyed { classes: RetentionClass::ALL.to_vec(), at: ctx().now };
        let receipt =
            Receipt { customer: customer(), keys_destroyed: RetentionClass::ALL.to_vec(), destroyed_at: ctx().now };
        let (process, pending) = run(vec![
            heard(1, received()),
            heard(2, approved()),
            Input::Due,
            Input::Settled(Outcome::Done),
            Input::Settled(Outcome::Done),
            Input::Settled(destroyed),
            Input::Settled(Outcome::Done),
            Input::Settled(Outcome::Done),
        ]);
        let expected = [
            None,
            None,
            Some(Send::StartRequest { request: request() }),
            Some(Send::BeginErasure { customer: customer(), request: request() }),
            Some(Send::DestroyKeys { customer: customer() }),
            Some(Send::CompleteErasure { customer: customer() }),
            Some(Send::CompleteRequest { request: request(), receipt }),
            None,
        ];
        assert_eq!(pending, expected);
        assert_eq!(process.phase, ErasurePhase::Done);
    }

    #[test]
    fn a_process_has_an_id_of_its_own() {
        let id = ErasureProcess::id(request());
        assert_ne!(id.uuid(), request().uuid());
        assert_eq!(ErasureProcess::concerned(&received(), request().uuid()), Some(id));
    }

    #[test]
    fn old_news_and_outcomes_without_a_command_change_nothing() {
        let (process, _) =
            run(vec![heard(1, received()), heard(2, approved()), heard(2, PrivacyRequestEvent::Cancelled)]);
        assert_eq!(process.phase, ErasurePhase::Waiting);
        let (process, _) = run(vec![heard(1, received()), Input::Settled(Outcome::Done), Input::Due]);
        assert_eq!(process.phase, ErasurePhase::Idle);
    }

    #[test]
    fn a_cancelled_request_ends_the_process_before_and_at_its_start() {
        let (process, _) =
            run(vec![heard(1, received()), heard(2, approved()), heard(3, PrivacyRequestEvent::Cancelled)]);
        assert_eq!((process.phase, process.wakes_at()), (ErasurePhase::Done, None));
        let refused = Outcome::Refused { code: "privacy-request-cancelled".into() };
        let (process, _) = run(vec![heard(1, received()), heard(2, approved()), Input::Due, Input::Settled(refused)]);
        assert_eq!(process.phase, ErasurePhase::Done);
    }
}
