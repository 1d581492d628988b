//! What an event is: a permanent name, a schema version, a payload. `#[derive(Event)]` writes the implementation.

use std::fmt;

/// Implements [`Event`] for an enum whose variants have named fields or none; see `domain/derive`.
pub use domain_derive::Event;

/// The catalogue entry of one event type in its newest version.
#[derive(Clone, Copy)]
pub struct EventType {
    /// As stored, `noun.past_tense`; never renamed.
    pub name: &'static str,
    /// The version that is written today.
    pub schema_version: i32,
    /// What it says, from the variant's doc comment.
    pub about: &'static str,
    /// The JSON schema (2020-12) of the payload.
    pub schema: fn() -> schemars::Schema,
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name, self.schema_version)
    }
}

/// Why a stored event could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A type or version that this binary does not know: a newer one wrote it. Readers pause; they never skip.
    #[error("unknown event `{name}` in schema version {schema_version}")]
    Unknown {
        /// The stored type.
        name: String,
        /// The stored version.
        schema_version: i32,
    },
    /// The payload is not what its schema says.
    #[error("the payload of `{name}` does not fit its schema")]
    Malformed {
        /// The stored type.
        name: &'static str,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

/// What happened, as an aggregate sees it.
pub trait Event: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The types of this enum, in the order of its variants.
    const TYPES: &'static [EventType];

    /// The type of this event.
    fn event_type(&self) -> &'static EventType;

    /// The payload as JSON text, personal values as they are (open ones still to be sealed).
    fn payload(&self) -> Result<String, serde_json::Error>;

    /// The event behind a stored type, version and payload.
    fn decode(name: &str, schema_version: i32, payload: &str) -> Result<Self, DecodeError>;
}
