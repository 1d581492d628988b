//! Process managers: events, due timers and outcomes in; commands and timers out. Pure like every aggregate: a process
//! is an aggregate whose commands are what it hears, and whose stream is its memory.

mod erasure;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use erasure::{ErasurePhase, ErasureProcess, ErasureProcessEvent};

use crate::privacy::Receipt;
use crate::{Aggregate, CustomerId, PrivacyRequestId, RetentionClass};

/// What a process hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<E> {
    /// An event of the tenant's log that the process is interested in.
    Heard {
        /// Its sequence in the tenant's log.
        sequence: i64,
        /// The stream that it happened to.
        stream: Uuid,
        /// What it was.
        event: E,
    },
    /// The moment that the process waited for has come.
    Due,
    /// How the command that it sent went.
    Settled(Outcome),
}

/// How a command of a process went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out, now or by an earlier attempt.
    Done,
    /// The keys of a person are gone, and no process holds a copy.
    KeysDestroyed {
        /// The classes whose keys were destroyed.
        #[schemars(with = "Vec<String>")]
        classes: Vec<RetentionClass>,
        /// When the last copy was forgotten.
        at: DateTime<Utc>,
    },
    /// A rule of its target forbids it; trying again is of no use.
    Refused {
        /// The rule, as a problem code.
        code: String,
    },
}

/// What a process may want done, one at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Send {
    /// Begin a privacy request.
    StartRequest {
        /// Which.
        request: PrivacyRequestId,
    },
    /// Let nothing more be written about a person.
    BeginErasure {
        /// Whom.
        customer: CustomerId,
        /// Why.
        request: PrivacyRequestId,
    },
    /// Destroy a person's keys.
    DestroyKeys {
        /// Whose.
        customer: CustomerId,
    },
    /// Confirm that a person's keys are gone.
    CompleteErasure {
        /// Whose.
        customer: CustomerId,
    },
    /// End a privacy request.
    CompleteRequest {
        /// Which.
        request: PrivacyRequestId,
        /// What was done.
        receipt: Receipt,
    },
}

/// A process manager: an aggregate that hears events and asks for commands and timers.
pub trait Process: Aggregate<Command = Input<Self::Hears>> {
    /// The events that it listens to.
    type Hears: crate::Event;

    /// The process that an event of stream `stream` concerns, if any.
    fn concerned(event: &Self::Hears, stream: Uuid) -> Option<Self::Id>;

    /// The command that is still without an outcome; while there is one, it wakes at once.
    fn pending(&self) -> Option<&Send>;

    /// Whether it can't go on by itself: somebody must look.
    fn failed(&self) -> bool;
}
