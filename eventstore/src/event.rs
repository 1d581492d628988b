//! An event as it is handed over, and as it stands in the log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most bytes that payload and metadata of one event may have together; larger content is a reference.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// An event that is about to be appended. Times have microseconds, personal values are sealed.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// UUIDv7; what a resubmission is recognised by.
    pub event_id: Uuid,
    /// `noun.past_tense`.
    pub event_type: &'static str,
    /// Version of the payload's schema.
    pub schema_version: i32,
    /// The persons that sealed values in it are about, sorted.
    pub subjects: Vec<Uuid>,
    /// TypeID of the key, user or process behind it.
    pub actor: String,
    /// When it happened in the business.
    pub occurred_at: DateTime<Utc>,
    /// JSON text, stored as it is.
    pub payload: String,
    /// JSON text, stored as it is; see [`Metadata`].
    pub metadata: String,
    /// Random bytes that keep the body hash of a short payload from being guessed.
    pub salt: [u8; 16],
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// Dense number in the whole log; internal, never shown to a tenant.
    pub position: i64,
    /// Whose log it stands in.
    pub tenant_id: Uuid,
    /// Dense number in the tenant's log.
    pub sequence: i64,
    /// Its stream.
    pub stream_id: Uuid,
    /// `context.noun`.
    pub stream_type: String,
    /// Dense number in its stream.
    pub version: i64,
    /// UUIDv7.
    pub event_id: Uuid,
    /// `noun.past_tense`.
    pub event_type: String,
    /// Version of the payload's schema.
    pub schema_version: i32,
    /// The persons that sealed values in it are about; none where there are none.
    pub subjects: Option<Vec<Uuid>>,
    /// TypeID of the key, user or process behind it.
    pub actor: String,
    /// When it happened in the business.
    pub occurred_at: DateTime<Utc>,
    /// When the log took it, by Postgres' clock.
    pub recorded_at: DateTime<Utc>,
    /// JSON text; none once it is redacted.
    pub payload: Option<String>,
    /// JSON text; none once it is redacted.
    pub metadata: Option<String>,
}

impl RecordedEvent {
    /// 0 to 63: where its tenant's events go in Kafka.
    pub fn slot(&self) -> u8 {
        crate::bytes::slot(self.tenant_id)
    }

    /// The event as its aggregate sees it; `None` where its body was redacted.
    pub fn decode<E: domain::Event>(&self) -> Result<Option<E>, domain::DecodeError> {
        self.payload.as_deref().map(|payload| E::decode(&self.event_type, self.schema_version, payload)).transpose()
    }

    /// The open part of the metadata; empty where it was redacted or cannot be read.
    pub fn metadata(&self) -> Metadata {
        self.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// What a fold sees of an event, read in passing: nothing of who was behind it, why, and when the log took it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fact<'a> {
    /// Dense number in the whole log.
    pub position: i64,
    /// Whose log it stands in.
    pub tenant_id: Uuid,
    /// Dense number in the tenant's log.
    pub sequence: i64,
    /// Its stream.
    pub stream_id: Uuid,
    /// Dense number in its stream.
    pub version: i64,
    /// `noun.past_tense`.
    pub event_type: &'a str,
    /// Version of the payload's schema.
    pub schema_version: i32,
    /// When it happened in the business.
    pub occurred_at: DateTime<Utc>,
    /// JSON text; none once it is redacted.
    pub payload: Option<&'a str>,
}

impl Fact<'_> {
    /// The event as its aggregate sees it; `None` where its body was redacted.
    pub fn decode<E: domain::Event>(&self) -> Result<Option<E>, domain::DecodeError> {
        self.payload.map(|payload| E::decode(self.event_type, self.schema_version, payload)).transpose()
    }
}

/// Where an event came from. All that could be about a person (address, user agent) would stand sealed beside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The request that it was asked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The event or command that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// What all that follows from one cause has in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// `context.aggregate.command`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
}
