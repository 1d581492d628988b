//! What one event says by itself: its payload fits its schema and can be read, nothing personal stands open, its hash can
//! be made.

use std::collections::HashMap;

use domain::{AnyId, EventType, names, personal};
use jsonschema::Validator;
use serde_json::Value;

use super::Violation;
use crate::bytes;
use crate::event::{MAX_EVENT_BYTES, Metadata, RecordedEvent};
use crate::ranges::Row;

/// What can be known of payloads: the schema of each type in each version that this program knows.
pub(super) struct Bodies {
    known: HashMap<&'static str, Known>,
}

struct Known {
    kind: &'static EventType,
    /// By version, from 1 on.
    schemas: Vec<Option<Validator>>,
}

/// What came of a range.
pub(super) struct Checked {
    pub(super) events: Vec<RecordedEvent>,
    /// The leaf hash of each, where it has one.
    pub(super) leaves: Vec<[u8; 32]>,
    pub(super) violations: Vec<Violation>,
}

impl Bodies {
    pub(super) fn new() -> Self {
        let known = domain::catalogue().into_iter().map(|kind| {
            let schema = |version| jsonschema::validator_for(&kind.schema_of(version)?).ok();
            (kind.name, Known { kind, schemas: (1..=kind.schema_version).map(schema).collect() })
        });
        Self { known: known.collect() }
    }

    /// Checks a range of events, each by itself.
    pub(super) fn check(&self, rows: Vec<Row>) -> Checked {
        let mut checked = Checked {
            events: Vec::with_capacity(rows.len()),
            leaves: Vec::with_capacity(rows.len()),
            violations: Vec::new(),
        };
        for row in rows {
            let mut wrong = Vec::new();
            envelope(&row.event, &mut wrong);
            match (&row.event.payload, &row.event.metadata) {
                (Some(payload), Some(metadata)) => {
                    self.payload(&row.event, payload, &mut wrong);
                    self::metadata(metadata, &mut wrong);
                    if payload.len() + metadata.len() > MAX_EVENT_BYTES {
                        wrong.push(format!("it has more than {MAX_EVENT_BYTES} bytes"));
                    }
                }
                (None, None) => {}
                _ => wrong.push("of payload and metadata one is missing".to_owned()),
            }
            match body_hash(&row) {
                Ok(hash) => checked.leaves.push(bytes::leaf_hash(&bytes::header(&row.event), &hash)),
                Err(why) => wrong.push(why.to_owned()),
            }
            let event = row.event;
            checked.violations.extend(wrong.into_iter().map(|what| violation(&event, what)));
            checked.events.push(event);
        }
        checked
    }

    fn payload(&self, event: &RecordedEvent, payload: &str, wrong: &mut Vec<String>) {
        let (name, version) = (&event.event_type, event.schema_version);
        let Ok(mut json) = serde_json::from_str::<Value>(payload) else {
            wrong.push("its payload is not JSON".to_owned());
            return;
        };
        if personal::masked(&mut json).is_err() {
            wrong.push("a personal value stands open in its payload".to_owned());
            return;
        }
        if event.subjects.is_none() && payload.contains("{\"$sealed\":") {
            wrong.push("its payload has a sealed value, and it names no person".to_owned());
        }
        let known = self.known.get(name.as_str());
        let schema = known.zip(usize::try_from(version - 1).ok()).and_then(|(known, at)| known.schemas.get(at));
        let (Some(known), Some(Some(schema))) = (known, schema) else {
            wrong.push(format!("this program does not know `{name}` in version {version}"));
            return;
        };
        // The first place that does not fit is told, and never what stands there.
        if let Some(error) = schema.iter_errors(&json).next() {
            let place = error.instance_path().to_string();
            wrong.push(format!("its payload does not fit the schema of `{name}` in version {version}, at `{place}`"));
        }
        if (known.kind.check)(version, payload).is_err() {
            wrong.push(format!("its payload can't be read as `{name}` in version {version}"));
        }
    }
}

pub(super) fn violation(event: &RecordedEvent, what: String) -> Violation {
    let (position, tenant, sequence) = (Some(event.position), Some(event.tenant_id), Some(event.sequence));
    Violation { position, tenant, sequence, what }
}

fn envelope(event: &RecordedEvent, wrong: &mut Vec<String>) {
    if event.event_id.get_version_num() != 7 {
        wrong.push("its event_id is no UUIDv7".to_owned());
    }
    if event.actor.parse::<AnyId>().is_err() {
        wrong.push("its actor is no TypeID".to_owned());
    }
    if event.subjects.as_ref().is_some_and(|subjects| subjects.is_empty() || !subjects.is_sorted_by(|a, b| a < b)) {
        wrong.push("its subjects are not in order, each once".to_owned());
    }
    match names::stream_type(&event.stream_type) {
        None => wrong.push(format!("this program does not know streams of type `{}`", event.stream_type)),
        Some(stream) if !stream.events.contains(&event.event_type.as_str()) => {
            wrong.push(format!("`{}` does not belong into a stream of type `{}`", event.event_type, stream.name));
        }
        Some(_) => {}
    }
}

fn metadata(text: &str, wrong: &mut Vec<String>) {
    match serde_json::from_str::<Value>(text) {
        Ok(mut json) if json.is_object() => {
            if personal::masked(&mut json).is_err() {
                wrong.push("a personal value stands open in its metadata".to_owned());
            } else if serde_json::from_value::<Metadata>(json).is_err() {
                wrong.push("its metadata can't be read".to_owned());
            }
        }
        _ => wrong.push("its metadata is no JSON object".to_owned()),
    }
}

/// The hash that the leaf is made of: of the body, or what a redaction left of it.
fn body_hash(row: &Row) -> Result<[u8; 32], &'static str> {
    match (&row.event.payload, &row.event.metadata, &row.salt, &row.body_hash) {
        (Some(payload), Some(metadata), Some(salt), None) => {
            let salt = salt.as_slice().try_into().map_err(|_| "its salt does not have 16 bytes")?;
            Ok(bytes::body_hash(salt, payload, metadata))
        }
        (None, None, None, Some(hash)) => {
            hash.as_slice().try_into().map_err(|_| "its body_hash does not have 32 bytes")
        }
        _ => Err("it has neither a whole body nor the hash of one that was redacted"),
    }
}
