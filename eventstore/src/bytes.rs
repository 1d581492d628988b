//! The bytes that are hashed or that decide where an event goes. They can never change: see the golden vectors.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::RecordedEvent;

/// How many slots there are, for ever; Kafka's number of partitions divides it.
pub const SLOTS: u8 = 64;

/// Format byte of the header.
const HEADER_FORMAT: u8 = 1;

/// The slot of a tenant: the first 8 bytes (big-endian) of the SHA-256 of its UUID, mod 64.
pub fn slot(tenant: Uuid) -> u8 {
    let hash: [u8; 32] = Sha256::digest(tenant.as_bytes()).into();
    // A number below 2^64 mod 64 is its last six bits: those of the eighth byte.
    hash[7] % SLOTS
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Bounded far below u32 by the size of an event.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_time(out: &mut Vec<u8>, time: DateTime<Utc>) {
    put_i64(out, time.timestamp_micros());
}

/// The header of an event: format byte 1, then `tenant_id`, `sequence`, `stream_type`, `stream_id`, `version`,
/// `event_id`, `event_type`, `schema_version`, `subjects`, `actor`, `occurred_at`, `recorded_at`. UUIDs have 16 bytes,
/// integers are i64 big-endian, times i64 microseconds, strings and lists have a u32 length before them, and `subjects`
/// a presence byte.
pub fn header(event: &RecordedEvent) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(HEADER_FORMAT);
    out.extend_from_slice(event.tenant_id.as_bytes());
    put_i64(&mut out, event.sequence);
    put_text(&mut out, &event.stream_type);
    out.extend_from_slice(event.stream_id.as_bytes());
    put_i64(&mut out, event.version);
    out.extend_from_slice(event.event_id.as_bytes());
    put_text(&mut out, &event.event_type);
    put_i64(&mut out, i64::from(event.schema_version));
    match &event.subjects {
        None => out.push(0),
        Some(subjects) => {
            out.push(1);
            put_len(&mut out, subjects.len());
            for subject in subjects {
                out.extend_from_slice(subject.as_bytes());
            }
        }
    }
    put_text(&mut out, &event.actor);
    put_time(&mut out, event.occurred_at);
    put_time(&mut out, event.recorded_at);
    out
}

/// SHA-256(salt ‖ len payload ‖ payload ‖ len metadata ‖ metadata), lengths as u32 big-endian.
pub fn body_hash(salt: &[u8; 16], payload: &str, metadata: &str) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(24 + payload.len() + metadata.len());
    bytes.extend_from_slice(salt);
    put_text(&mut bytes, payload);
    put_text(&mut bytes, metadata);
    Sha256::digest(&bytes).into()
}

/// The leaf of the tenant's tree (RFC 6962): SHA-256(0x00 ‖ header ‖ body hash).
pub fn leaf_hash(header: &[u8], body_hash: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(header);
    hasher.update(body_hash);
    hasher.finalize().into()
}

/// The id of a command that a process sends: UUIDv8 of SHA-256(process stream ‖ version ‖ index), integers as i64
/// big-endian.
pub fn command_id(process_stream: Uuid, version: i64, index: i64) -> Uuid {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(process_stream.as_bytes());
    put_i64(&mut bytes, version);
    put_i64(&mut bytes, index);
    let hash: [u8; 32] = Sha256::digest(&bytes).into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn event() -> RecordedEvent {
        RecordedEvent {
            position: 42,
            tenant_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
            sequence: 7,
            stream_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002),
            stream_type: "commerce.customer".into(),
            version: 3,
            event_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0003),
            event_type: "customer.changed".into(),
            schema_version: 1,
            subjects: Some(vec![Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002)]),
            actor: "key_01j00000000000000000000000".into(),
            occurred_at: DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap(),
            recorded_at: DateTime::from_timestamp_micros(1_800_000_000_000_002).unwrap(),
            payload: Some(r#"{"country":null}"#.into()),
            metadata: Some("{}".into()),
        }
    }

    #[test]
    fn the_header_is_these_bytes() {
        // Computed apart, in another language, from the words of the doc comment.
        let expected = concat!(
            "0101900000000070008000000000000001000000000000000700000011636f6d6d657263652e637573746f6d65720190",
            "000000007000800000000000000200000000000000030190000000007000800000000000000300000010637573746f6d",
            "65722e6368616e67656400000000000000010100000001019000000000700080000000000000020000001e6b65795f30",
            "316a303030303030303030303030303030303030303030303000060a24181e40010006651728988002",
        );
        assert_eq!(hex(&header(&event())), expected);
        let none = RecordedEvent { subjects: None, ..event() };
        assert_eq!(header(&none).len(), header(&event()).len() - 20);
    }

    #[test]
    fn hashes_are_these_values() {
        let body = body_hash(&[7; 16], r#"{"country":null}"#, "{}");
        assert_eq!(hex(&body), "22cc0c70f98078c757cc1691c345ff2546005c5a69603c954e318c61cdc636ad");
        assert_eq!(
            hex(&leaf_hash(&header(&event()), &body)),
            "b73a22b71f54ac04d04125f8f4c4b2e9e4cc185f500c86d84148377b8abaabc5"
        );
        assert_ne!(body, body_hash(&[7; 16], r#"{"country":null}{"#, "}"), "lengths keep the two apart");
    }

    #[test]
    fn slots_and_command_ids_are_these_values() {
        let of = |n: u128| slot(Uuid::from_u128(n));
        assert_eq!([of(0), of(1), of(2), of(3)], [21, 59, 40, 38]);
        let id = command_id(Uuid::from_u128(1), 2, 3);
        assert_eq!((id.to_string().as_str(), id.get_version_num()), ("c4c96cd7-1102-846c-a1ec-8326b2566d9e", 8));
    }
}
