//! A note about a customer, in free text: `Active -> Archived`. The text is the customer's personal data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::personal::Support;
use crate::text::Prose;
use crate::{Aggregate, Context, CustomerId, Event, NoteId, Personal, StreamType, TypedId, names};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Note {
    /// Where it stands.
    pub status: NoteStatus,
    /// Whom it is about.
    pub customer: CustomerId,
    /// What it says.
    pub text: Option<Personal<Prose, Support>>,
}

/// `none -> active -> archived`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoteStatus {
    /// Not there.
    #[default]
    None,
    /// Holds.
    Active,
    /// Put away.
    Archived,
}

/// What can be asked of a note.
#[derive(Clone, Debug)]
pub enum NoteCommand {
    /// Write it.
    Write {
        /// Whom it is about.
        customer: CustomerId,
        /// What it says.
        text: Prose,
    },
    /// Say it in other words.
    Rewrite {
        /// What it says now.
        text: Prose,
    },
    /// Put it away.
    Archive,
}

/// What can have happened to a note.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "note")]
pub enum NoteEvent {
    /// The note was written.
    Written {
        /// Whom it is about.
        customer: CustomerId,
        /// What it says.
        text: Personal<Prose, Support>,
    },
    /// The note says something else.
    Rewritten {
        /// What it says now.
        text: Personal<Prose, Support>,
    },
    /// The note was put away.
    Archived,
}

/// Why a note refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// No such note.
    #[error("there is no such note")]
    NotFound,
    /// It is there already.
    #[error("the note exists already")]
    AlreadyExists,
    /// It was put away.
    #[error("the note is archived")]
    Archived,
}

impl Aggregate for Note {
    const STREAM: StreamType = names::NOTE;
    const REVISION: i32 = 1;
    type Id = NoteId;
    type Command = NoteCommand;
    type Event = NoteEvent;
    type Error = NoteError;

    fn about(command: &NoteCommand) -> Vec<Uuid> {
        match command {
            NoteCommand::Write { customer, .. } => vec![customer.uuid()],
            NoteCommand::Rewrite { .. } | NoteCommand::Archive => Vec::new(),
        }
    }

    fn decide(&self, command: NoteCommand, _ctx: &Context) -> Result<Vec<NoteEvent>, NoteError> {
        use {NoteCommand as C, NoteError as Error, NoteEvent as E, NoteStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Write { customer, text }) => {
                vec![E::Written { customer, text: Personal::open(customer.uuid(), text) }]
            }
            (_, C::Write { .. }) => return Err(Error::AlreadyExists),
            (S::None, _) => return Err(Error::NotFound),
            (S::Active, C::Rewrite { text }) => vec![E::Rewritten { text: Personal::open(self.customer.uuid(), text) }],
            (S::Archived, C::Rewrite { .. }) => return Err(Error::Archived),
            (S::Active, C::Archive) => vec![E::Archived],
            (S::Archived, C::Archive) => vec![],
        })
    }

    fn apply(&mut self, event: NoteEvent) {
        match event {
            NoteEvent::Written { customer, text } => {
                *self = Self { status: NoteStatus::Active, customer, text: Some(text) };
            }
            NoteEvent::Rewritten { text } => self.text = Some(text),
            NoteEvent::Archived => self.status = NoteStatus::Archived,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn text() -> Prose {
        "likes jazz".parse().unwrap()
    }

    fn customer() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn written() -> NoteEvent {
        NoteEvent::Written { customer: customer(), text: Personal::open(customer().uuid(), text()) }
    }

    fn given(events: impl IntoIterator<Item = NoteEvent>) -> Given<Note> {
        Given::events(ctx(), events)
    }

    #[test]
    fn a_note_is_written_once_about_a_customer() {
        let write = || NoteCommand::Write { customer: customer(), text: text() };
        given([]).when_then(write(), [written()]);
        given([written()]).when_refused(write(), NoteError::AlreadyExists);
    }

    #[test]
    fn a_note_is_rewritten_until_it_is_archived() {
        let rewrite = || NoteCommand::Rewrite { text: text() };
        let rewritten = NoteEvent::Rewritten { text: Personal::open(customer().uuid(), text()) };
        given([written()]).when_then(rewrite(), [rewritten]);
        given([written()]).when_then(NoteCommand::Archive, [NoteEvent::Archived]);
        given([written(), NoteEvent::Archived]).when_then(NoteCommand::Archive, []);
        given([written(), NoteEvent::Archived]).when_refused(rewrite(), NoteError::Archived);
        given([]).when_refused(rewrite(), NoteError::NotFound);
    }
}
