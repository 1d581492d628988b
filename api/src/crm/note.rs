//! `/notes`.

use domain::NoteId;
use domain::commerce::Customer;
use domain::crm::{Note, NoteCommand, NoteError, NoteKind, NoteStatus};
use domain::names::{CRM_READ, CRM_WRITE, Scope};
use domain::text::Prose;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::{Ref, Referent};
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Code, Problem, codes};
use crate::resource::{Beside, Filter, Resource, resource, to_json};

const ARCHIVED: Code = Code::rule("note-archived", "The note is archived", "It stays as it is. Write a new note.");

impl Resource for Note {
    const OBJECT: &'static str = "note";
    const PATH: &'static str = "/notes";
    const READ: Scope = CRM_READ;
    const WRITE: Scope = CRM_WRITE;
    const FILTERS: &'static [Filter] = &[
        Filter::id::<Customer>("customer", "customer_id"),
        Filter::word::<NoteKind>("kind"),
        Filter::word::<NoteStatus>("status"),
    ];
    const BESIDE: &'static [Beside] = &[Beside {
        name: "kind",
        schema: |generator| generator.subschema_for::<NoteKind>(),
        // The state of a general note does not say so.
        value: |state, _| state.get("kind").cloned().unwrap_or_else(|| to_json(NoteKind::General)),
    }];

    fn problem(error: NoteError) -> Problem {
        match error {
            NoteError::NotFound => Problem::not_found(),
            NoteError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            NoteError::Archived => Problem::of(ARCHIVED),
        }
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let notes = resource::<Note>();
    vec![
        notes
            .create::<WriteNote>("Write a note about a customer", "Its text is the customer's personal data.")
            .refuses(&[codes::SUBJECT_ERASED]),
        notes.get(),
        notes.list(),
        notes.history(),
        notes
            .change::<RewriteNote>("Rewrite a note", "What it said before stays in its history.")
            .refuses(&[ARCHIVED, codes::SUBJECT_ERASED]),
        notes.verb("archive", "Put a note away", "It can still be read.", |_| NoteCommand::Archive),
    ]
}

/// What is noted about whom.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteNote {
    /// Whom it is about: `cus_…` or `ext:…`.
    customer: Ref<Customer>,
    /// What it is about; `general` if absent.
    #[serde(default)]
    kind: NoteKind,
    /// What it says. Personal.
    text: Prose,
}

impl Intent<Note> for WriteNote {
    fn example() -> Value {
        json!({ "customer": "ext:crm-1815", "kind": "call", "text": "Asks for engines." })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        vec![("/customer", &mut self.customer)]
    }

    fn command(self, _: NoteId, _: &Call) -> Result<NoteCommand, Problem> {
        Ok(NoteCommand::Write { customer: self.customer.id()?, text: self.text, kind: self.kind })
    }
}

/// Other words.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RewriteNote {
    /// What it says from now on. Personal.
    text: Prose,
}

impl Intent<Note> for RewriteNote {
    fn example() -> Value {
        json!({ "text": "Asks for looms." })
    }

    fn command(self, _: NoteId, _: &Call) -> Result<NoteCommand, Problem> {
        Ok(NoteCommand::Rewrite { text: self.text })
    }
}
