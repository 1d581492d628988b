//! What a tenant's people note about customers.

mod note;

pub use note::{Note, NoteCommand, NoteError, NoteEvent, NoteKind, NoteStatus};
