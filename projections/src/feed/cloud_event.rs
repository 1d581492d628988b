//! Events on their way through Kafka: CloudEvents 1.0, structured JSON. These bytes can never change: see the golden
//! vectors.
//!
//! | attribute | what |
//! |---|---|
//! | `id`, `type`, `time` | the event's id, its type as stored, when it happened (microseconds) |
//! | `source` | `/tenants/ten_…`: with `id` unique in the world |
//! | `subject` | the stream, a TypeID |
//! | `dataschema` | `/schemas/events/<type>/<schema version>` |
//! | `data` | the stored payload, byte for byte; absent once it is redacted, and in a stub |
//! | `annalsposition`, `annalssequence`, `annalsversion` | dense numbers in the house's log, the tenant's, the stream's |
//! | `annalsprevious` | position of the event before it in its slot, 0 for none |
//! | `annalsslot`, `annalsincarnation`, `annalsschemaversion` | as they are called |
//! | `annalsstreamtype`, `annalsactor`, `annalsrecordedat`, `annalsmetadata` | as stored |
//! | `annalssubjects` | UUIDs parted by commas; absent where there are none |
//! | `annalsstub` | `true` where the event can't go this way, being too large: read it from the log |
//!
//! Integers of CloudEvents have 32 bits, so ours are decimal strings. The salt of an event never leaves the log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use domain::{AnyId, TenantId, TypedId, names};
use eventstore::{RecordedEvent, bytes::slot};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Message;
use super::log::Slotted;

/// The content type of every message.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";

/// The type of heartbeats; no event of the house begins so.
pub const HEARTBEAT: &str = "annals.heartbeat";

/// The most bytes of a message; a topic that is as we make it takes them.
pub(crate) const MAX_BYTES: usize = 900 * 1024;

/// The attributes of an event's message, all but `data`, which is written as it is stored.
#[derive(Serialize, Deserialize)]
struct Attributes<'a> {
    specversion: Cow<'a, str>,
    id: Uuid,
    source: String,
    #[serde(rename = "type")]
    event_type: Cow<'a, str>,
    subject: String,
    #[serde(with = "time")]
    time: DateTime<Utc>,
    datacontenttype: Cow<'a, str>,
    dataschema: String,
    #[serde(with = "decimal")]
    annalsposition: i64,
    #[serde(with = "decimal")]
    annalssequence: i64,
    #[serde(with = "decimal")]
    annalsprevious: i64,
    #[serde(with = "decimal")]
    annalsslot: i64,
    #[serde(with = "decimal")]
    annalsincarnation: i64,
    annalsstreamtype: Cow<'a, str>,
    #[serde(with = "decimal")]
    annalsversion: i64,
    #[serde(with = "decimal")]
    annalsschemaversion: i64,
    annalsactor: Cow<'a, str>,
    #[serde(with = "time")]
    annalsrecordedat: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annalssubjects: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annalsmetadata: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annalsstub: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing)]
    data: Option<&'a RawValue>,
}

/// A heartbeat: the last position of each slot of one partition, and the position up to which that holds.
#[derive(Serialize, Deserialize)]
struct Heartbeat<'a> {
    specversion: Cow<'a, str>,
    id: String,
    source: Cow<'a, str>,
    #[serde(rename = "type")]
    event_type: Cow<'a, str>,
    datacontenttype: Cow<'a, str>,
    #[serde(with = "decimal")]
    annalsincarnation: i64,
    data: HeartbeatData,
}

#[derive(Serialize, Deserialize)]
struct HeartbeatData {
    covered: String,
    /// By slot.
    lasts: BTreeMap<u8, String>,
}

/// What tells the two kinds of message apart.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
}

/// Why a message can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is no message of ours")]
    Json(#[from] serde_json::Error),
    #[error("its `{0}` is not what it should be")]
    Attribute(&'static str),
}

/// The message of an event; a stub where it would have more bytes than that, or would not come out as it went in.
pub(crate) fn write(
    event: &RecordedEvent,
    previous: i64,
    incarnation: i64,
    max_bytes: usize,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut attributes = attributes(event, previous, incarnation);
    let mut bytes = serde_json::to_vec(&attributes)?;
    let data = event.payload.as_deref().unwrap_or_default();
    // A reader of JSON gives neither the space around a value back nor a null apart from nothing.
    let changes = data != data.trim() || data == "null";
    if changes || bytes.len() + r#","data":"#.len() + data.len() > max_bytes {
        attributes.annalsmetadata = None;
        attributes.annalsstub = Some("true".into());
        return serde_json::to_vec(&attributes);
    }
    if event.payload.is_some() {
        // The payload is JSON already: it goes in as it is, in place of the closing brace.
        bytes.pop();
        bytes.extend_from_slice(br#","data":"#);
        bytes.extend_from_slice(data.as_bytes());
        bytes.push(b'}');
    }
    Ok(bytes)
}

fn attributes(event: &RecordedEvent, previous: i64, incarnation: i64) -> Attributes<'_> {
    let subject = match names::stream_type(&event.stream_type) {
        Some(kind) => AnyId::new(kind.prefix, event.stream_id).to_string(),
        // A newer binary wrote it; that one also knows its prefix.
        None => event.stream_id.to_string(),
    };
    let subjects = event.subjects.as_ref();
    Attributes {
        specversion: "1.0".into(),
        id: event.event_id,
        source: format!("/tenants/{}", TenantId::from(event.tenant_id)),
        event_type: event.event_type.as_str().into(),
        subject,
        time: event.occurred_at,
        datacontenttype: "application/json".into(),
        dataschema: format!("/schemas/events/{}/{}", event.event_type, event.schema_version),
        annalsposition: event.position,
        annalssequence: event.sequence,
        annalsprevious: previous,
        annalsslot: event.slot().into(),
        annalsincarnation: incarnation,
        annalsstreamtype: event.stream_type.as_str().into(),
        annalsversion: event.version,
        annalsschemaversion: event.schema_version.into(),
        annalsactor: event.actor.as_str().into(),
        annalsrecordedat: event.recorded_at,
        annalssubjects: subjects.map(|ids| ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")),
        annalsmetadata: event.metadata.as_deref().map(Cow::from),
        annalsstub: None,
        data: None,
    }
}

/// The heartbeat of one partition.
pub(crate) fn write_beat(
    partition: i32,
    lasts: &[(u8, i64)],
    covered: i64,
    incarnation: i64,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Heartbeat {
        specversion: "1.0".into(),
        id: format!("{incarnation}-{covered}-{partition}"),
        source: "/relay".into(),
        event_type: HEARTBEAT.into(),
        datacontenttype: "application/json".into(),
        annalsincarnation: incarnation,
        data: HeartbeatData {
            covered: covered.to_string(),
            lasts: lasts.iter().map(|(slot, last)| (*slot, last.to_string())).collect(),
        },
    })
}

/// What a message says.
pub(crate) fn read(bytes: &[u8]) -> Result<Message, Unreadable> {
    let kind: Kind<'_> = serde_json::from_slice(bytes)?;
    if kind.event_type == HEARTBEAT { read_beat(bytes) } else { read_event(bytes) }
}

fn read_event(bytes: &[u8]) -> Result<Message, Unreadable> {
    let read: Attributes<'_> = serde_json::from_slice(bytes)?;
    let tenant = read.source.strip_prefix("/tenants/").and_then(|id| id.parse::<TenantId>().ok());
    let tenant_id = tenant.ok_or(Unreadable::Attribute("source"))?.uuid();
    let slot = slot(tenant_id);
    if read.annalsslot != i64::from(slot) {
        return Err(Unreadable::Attribute("annalsslot"));
    }
    let (position, previous, incarnation) = (read.annalsposition, read.annalsprevious, read.annalsincarnation);
    let event = match read.annalsstub {
        Some(_) => None,
        None => Some(Slotted { slot, event: recorded(read, tenant_id)?.into() }),
    };
    Ok(Message::Event { incarnation, slot, position, previous, event })
}

fn recorded(read: Attributes<'_>, tenant_id: Uuid) -> Result<RecordedEvent, Unreadable> {
    let typed = read.subject.parse::<AnyId>().map(|id| id.uuid()).ok();
    let stream_id = typed.or_else(|| read.subject.parse().ok()).ok_or(Unreadable::Attribute("subject"))?;
    let subjects = read
        .annalssubjects
        .map(|ids| ids.split(',').filter(|id| !id.is_empty()).map(str::parse::<Uuid>).collect::<Result<Vec<_>, _>>());
    Ok(RecordedEvent {
        position: read.annalsposition,
        tenant_id,
        sequence: read.annalssequence,
        stream_id,
        stream_type: read.annalsstreamtype.into_owned(),
        version: read.annalsversion,
        event_id: read.id,
        event_type: read.event_type.into_owned(),
        schema_version: read
            .annalsschemaversion
            .try_into()
            .map_err(|_| Unreadable::Attribute("annalsschemaversion"))?,
        subjects: subjects.transpose().map_err(|_| Unreadable::Attribute("annalssubjects"))?,
        actor: read.annalsactor.into_owned(),
        occurred_at: read.time,
        recorded_at: read.annalsrecordedat,
        payload: read.data.map(|data| data.get().to_owned()),
        metadata: read.annalsmetadata.map(Cow::into_owned),
    })
}

fn read_beat(bytes: &[u8]) -> Result<Message, Unreadable> {
    let read: Heartbeat<'_> = serde_json::from_slice(bytes)?;
    let covered = read.data.covered.parse().map_err(|_| Unreadable::Attribute("data"))?;
    let lasts = read.data.lasts.into_iter().map(|(slot, last)| Ok((slot, last.parse()?)));
    let lasts: Result<_, std::num::ParseIntError> = lasts.collect();
    let lasts = lasts.map_err(|_| Unreadable::Attribute("data"))?;
    Ok(Message::Beat { incarnation: read.annalsincarnation, lasts, covered })
}

/// 64 bits in a string of digits.
mod decimal {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// RFC 3339 in UTC with microseconds.
mod time {
    use super::*;

    pub(super) fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            recorded_at: DateTime::from_timestamp_micros(1_800_000_000_000_000).unwrap(),
            payload: Some("{\"country\" :null,\n \"n\":1.50}".into()),
            metadata: Some(r#"{"request_id":"r\"1"}"#.into()),
        }
    }

    fn again(bytes: &[u8]) -> (i64, i64, i64, RecordedEvent) {
        let Message::Event { incarnation, slot, position, previous, event: Some(event) } = read(bytes).unwrap() else {
            panic!("no event")
        };
        assert_eq!((slot, position), (event.slot, event.event.position));
        (incarnation, position, previous, (*event.event).clone())
    }

    #[test]
    fn a_message_is_these_bytes() {
        let expected = concat!(
            r#"{"specversion":"1.0","id":"01900000-0000-7000-8000-000000000003","#,
            r#""source":"/tenants/ten_01j0000000e008000000000001","type":"customer.changed","#,
            r#""subject":"cus_01j0000000e008000000000002","time":"2023-11-14T22:13:20.000001Z","#,
            r#""datacontenttype":"application/json","dataschema":"/schemas/events/customer.changed/1","#,
            r#""annalsposition":"42","annalssequence":"7","annalsprevious":"41","annalsslot":"31","#,
            r#""annalsincarnation":"1","annalsstreamtype":"commerce.customer","annalsversion":"3","#,
            r#""annalsschemaversion":"1","annalsactor":"key_01j00000000000000000000000","#,
            r#""annalsrecordedat":"2027-01-15T08:00:00.000000Z","#,
            r#""annalssubjects":"01900000-0000-7000-8000-000000000002","#,
            r#""annalsmetadata":"{\"request_id\":\"r\\\"1\"}","data":{"country" :null,"#,
            "\n \"n\":1.50}}",
        );
        let bytes = write(&event(), 41, 1, MAX_BYTES).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let whole = event();
        let redacted = RecordedEvent { payload: None, metadata: None, ..event() };
        let of_nobody = RecordedEvent { subjects: None, ..event() };
        let of_an_empty_list = RecordedEvent { subjects: Some(Vec::new()), ..event() };
        let of_a_newer_binary = RecordedEvent { stream_type: "new.kind".into(), ..event() };
        for event in [whole, redacted, of_nobody, of_an_empty_list, of_a_newer_binary] {
            let bytes = write(&event, 5, 2, MAX_BYTES).unwrap();
            assert_eq!(again(&bytes), (2, 42, 5, event));
        }
    }

    #[test]
    fn an_event_that_is_too_large_goes_as_a_stub() {
        for payload in [format!("\"{}\"", "x".repeat(MAX_BYTES)), " {}".to_owned(), "null".to_owned()] {
            let bytes = write(&RecordedEvent { payload: Some(payload), ..event() }, 41, 1, MAX_BYTES).unwrap();
            assert!(bytes.len() < 2_000);
            let Message::Event { position, previous, event, .. } = read(&bytes).unwrap() else { panic!() };
            assert_eq!((position, previous, event.is_none()), (42, 41, true));
        }
        let whole = write(&event(), 41, 1, MAX_BYTES).unwrap();
        assert_eq!(write(&event(), 41, 1, whole.len()).unwrap(), whole, "what just fits goes whole");
        assert!(write(&event(), 41, 1, whole.len() - 1).unwrap() != whole, "what does not is never sent");
    }

    #[test]
    fn a_heartbeat_says_the_last_of_each_slot() {
        let bytes = write_beat(2, &[(2, 10), (10, 0)], 12, 1).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"specversion":"1.0","id":"1-12-2","source":"/relay","type":"annals.heartbeat","datacontenttype":"application/json","annalsincarnation":"1","data":{"covered":"12","lasts":{"2":"10","10":"0"}}}"#
        );
        let Message::Beat { incarnation, lasts, covered } = read(&bytes).unwrap() else { panic!() };
        assert_eq!((incarnation, lasts, covered), (1, vec![(2, 10), (10, 0)], 12));
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is() {
        let bytes = String::from_utf8(write(&event(), 41, 1, MAX_BYTES).unwrap()).unwrap();
        for (from, to) in [("/tenants/ten_", "/tenants/cus_"), ("\"annalsposition\":\"42\"", "\"annalsposition\":42")] {
            assert!(read(bytes.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        for garbage in ["", "{}", "[]", "null", r#"{"type":"annals.heartbeat"}"#] {
            assert!(read(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
