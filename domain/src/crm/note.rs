//! A note about a customer, in free text: `Active -> Archived`. The text is the customer's personal data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::Payload;
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
    /// What it is about. Left out where it is general: so the states of notes that were written before there were kinds
    /// are what they were.
    #[serde(default, skip_serializing_if = "NoteKind::is_general")]
    pub kind: NoteKind,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// Nothing in particular.
    #[default]
    General,
    /// What was said on the telephone.
    Call,
    /// What was said when they met.
    Meeting,
    /// What they are not content with.
    Complaint,
}

impl NoteKind {
    fn is_general(&self) -> bool {
        *self == Self::General
    }
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
        /// What it is about.
        kind: NoteKind,
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
    #[event(version = 2, upcast(1 = without_a_kind))]
    Written {
        /// Whom it is about.
        customer: CustomerId,
        /// What it is about.
        kind: NoteKind,
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

/// In version 1 of `note.written` there were no kinds of notes.
fn without_a_kind(mut payload: Payload) -> Payload {
    payload.insert("kind".into(), "general".into());
    payload
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
            (S::None, C::Write { customer, text, kind }) => {
                vec![E::Written { customer, kind, text: Personal::open(customer.uuid(), text) }]
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
            NoteEvent::Written { customer, kind, text } => {
                *self = Self { status: NoteStatus::Active, customer, text: Some(text), kind };
            }
            NoteEvent::Rewritten { text } => self.text = Some(text),
            NoteEvent::Archived => self.status = NoteStatus::Archived,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeError;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn text() -> Prose {
        "likes jazz".parse().unwrap()
    }

    fn customer() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn written() -> NoteEvent {
        let text = Personal::open(customer().uuid(), text());
        NoteEvent::Written { customer: customer(), kind: NoteKind::Complaint, text }
    }

    fn given(events: impl IntoIterator<Item = NoteEvent>) -> Given<Note> {
        Given::events(ctx(), events)
    }

    #[test]
    fn a_note_is_written_once_about_a_customer() {
        let write = || NoteCommand::Write { customer: customer(), text: text(), kind: NoteKind::Complaint };
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
    #[test]
    fn a_note_of_the_first_version_is_a_general_one_and_its_text_stays_sealed() {
        let v1 = r#"{"customer":"cus_01h455vb4pex5vsknk084sn02q","text":{"$sealed":"AQA"}}"#;
        let read = NoteEvent::decode("note.written", 1, v1).unwrap();
        let v2 = r#"{"customer":"cus_01h455vb4pex5vsknk084sn02q","kind":"general","text":{"$sealed":"AQA"}}"#;
        assert_eq!((read.event_type().schema_version, read.payload().unwrap().as_str()), (2, v2));
        assert!(matches!(NoteEvent::decode("note.written", 2, v1), Err(DecodeError::Malformed { .. })));
        for unknown in [0, 3] {
            assert!(matches!(NoteEvent::decode("note.written", unknown, v2), Err(DecodeError::Unknown { .. })));
        }
    }
}
