//! What an event is: a permanent name, a schema version, a payload. `#[derive(Event)]` writes the implementation.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;

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
    /// How what was written in earlier versions is read, from version 1 on: one for each.
    pub upcasters: &'static [Upcaster],
    /// Whether a payload of some version can be read.
    pub check: fn(i32, &str) -> Result<(), DecodeError>,
}

/// A payload as JSON, whose fields an upcaster moves, adds and takes away. What is sealed is moved as it is.
pub type Payload = serde_json::Map<String, Value>;

/// How the payload of one version becomes that of the next. One event stays one event: its position is its identity.
#[derive(Clone, Copy)]
pub struct Upcaster {
    /// The version that it reads; it gives the next one.
    pub from: i32,
    /// The function's name.
    pub named: &'static str,
    /// The committed JSON schema of the version that it reads.
    pub schema: &'static str,
    /// What it does.
    pub apply: fn(Payload) -> Payload,
}

impl fmt::Debug for Upcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{} by {}", self.from, self.named)
    }
}

/// The catalogue's entry of a stored name.
pub fn event_type(name: &str) -> Option<&'static EventType> {
    static TYPES: LazyLock<HashMap<&'static str, &'static EventType>> =
        LazyLock::new(|| crate::catalogue().into_iter().map(|kind| (kind.name, kind)).collect());
    TYPES.get(name).copied()
}

impl EventType {
    /// The JSON schema of the payload in a version; none where there is no such version.
    pub fn schema_of(&self, version: i32) -> Option<Value> {
        if version == self.schema_version {
            return Some((self.schema)().to_value());
        }
        let earlier = self.upcasters.iter().find(|upcaster| upcaster.from == version)?;
        serde_json::from_str(earlier.schema).ok()
    }

    /// Reads a payload of an earlier version as one of the newest; called by what the derive writes.
    pub fn upcast<P: DeserializeOwned>(&self, version: i32, payload: &str) -> Result<P, DecodeError> {
        let malformed = |source| DecodeError::Malformed { name: self.name, source };
        let payload = self.upcast_json(version, serde_json::from_str(payload).map_err(malformed)?);
        serde_json::from_value(Value::Object(payload)).map_err(malformed)
    }

    /// A payload of an earlier version as one of the newest.
    pub fn upcast_json(&self, version: i32, payload: Payload) -> Payload {
        let later = self.upcasters.iter().filter(|upcaster| upcaster.from >= version);
        later.fold(payload, |payload, upcaster| (upcaster.apply)(payload))
    }
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

    /// The event behind a stored type, version and payload. What was stored in an earlier version is read as if it had
    /// been stored in the newest.
    fn decode(name: &str, schema_version: i32, payload: &str) -> Result<Self, DecodeError>;
}
