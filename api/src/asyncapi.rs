//! The AsyncAPI 3 document of the Kafka topic, from the same catalogue of events as everything else. It is committed in
//! `api/asyncapi/asyncapi.json`; a test fails where it drifts, and writes it anew with `ANNALS_UPDATE_OPENAPI=1`.
//!
//! Schemas are those of the events with two differences: what is personal or secret stands in the topic sealed, and the
//! words are those of JSON Schema draft 7, which is what AsyncAPI's own schemas are.

use std::sync::LazyLock;

use domain::EventType;
use domain::names::{STREAM_TYPES, StreamType};
use domain::personal::{ERASED, SEALED, SECRET};
use projections::KafkaConfig;
use projections::feed::{CONTENT_TYPE, HEARTBEAT, MAX_BATCH};
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text + "\n"
});

/// The document as it is served.
pub fn document_text() -> &'static str {
    &DOCUMENT
}

const ABOUT: &str = "Every event of every tenant, in order, as CloudEvents 1.0 in structured JSON.\n\n\
    * The key is the tenant, so each tenant's events are in one partition, in their order. An event may come more than \
    once: drop what is at or below the last `annalsposition` of its `annalsslot`.\n\
    * `annalsprevious` is the position of the event before in the slot. Where it is higher than the last one that you \
    have seen, the topic has lost some: read them from `GET /api/v1/events` of each tenant that you follow in that slot, by \
    `annalssequence`.\n\
    * An event counts only if its `annalsincarnation` is the newest one whose first position is not beyond its \
    `annalsposition`: a log that had to be restored leaves behind what it has lost.\n\
    * An event with `annalsstub` was too large for the topic: read it from `GET /api/v1/events`.\n\
    * Personal values and secrets are sealed, and stay so. Who may see them asks the API.\n\
    * Each partition has a heartbeat about once a second while events come, and every 30 seconds without: how far the topic \
    has come.\n\
    * Numbers of 64 bits are strings of digits, for CloudEvents has none of that size.\n\
    * Types, versions and fields may be added at any time.";

/// The document.
pub fn document() -> Value {
    let kafka = KafkaConfig::new("");
    let mut schemas = envelope();
    let mut messages = Map::new();
    for kind in domain::catalogue() {
        for version in 1..=kind.schema_version {
            if let Some(message) = message(kind, version, &mut schemas) {
                messages.insert(name(kind, version), message);
            }
        }
    }
    messages.insert(HEARTBEAT.into(), heartbeat());
    schemas.sort_keys();
    let named = |base: &str| {
        let reference = |name: &String| (name.clone(), json!({ "$ref": format!("{base}/{name}") }));
        messages.keys().map(reference).collect::<Map<_, _>>()
    };
    let sent: Vec<Value> = named("#/channels/events/messages").into_iter().map(|(_, reference)| reference).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Annals",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "kafka": {
                "host": "{brokers}",
                "protocol": "kafka",
                "description": "The brokers that the operator has set.",
                "variables": { "brokers": { "default": "localhost:9092", "description": "`ANNALS_KAFKA_BROKERS`" } },
            },
        },
        "channels": {
            "events": {
                "address": kafka.topic,
                "description": "The operator may have given it another name (`ANNALS_KAFKA_TOPIC`).",
                "messages": named("#/components/messages"),
                "bindings": { "kafka": {
                    "partitions": kafka.partitions,
                    "topicConfiguration": {
                        "cleanup.policy": ["delete"],
                        "retention.ms": u64::try_from(kafka.retention.as_millis()).unwrap_or_default(),
                        "max.message.bytes": MAX_BATCH,
                    },
                    "bindingVersion": "0.5.0",
                } },
            },
        },
        "operations": {
            "publish": {
                "action": "send",
                "channel": { "$ref": "#/channels/events" },
                "summary": "Annals publishes what its log has.",
                "messages": sent,
            },
        },
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// A type of event in one version.
fn name(kind: &EventType, version: i32) -> String {
    format!("{}.v{version}", kind.name)
}

fn stream(kind: &EventType) -> Option<&'static StreamType> {
    STREAM_TYPES.iter().find(|stream| stream.events.contains(&kind.name))
}

fn message(kind: &EventType, version: i32, schemas: &mut Map<String, Value>) -> Option<Value> {
    let (name, stream) = (name(kind, version), stream(kind)?);
    let payload = kind.schema_of(version)?;
    let definitions = payload.get("$defs").cloned().unwrap_or_default();
    let payload = in_topic(&payload, &definitions, schemas);
    schemas.insert(name.clone(), payload);
    let constant = |value: String| json!({ "const": value });
    Some(json!({
        "name": kind.name,
        "title": format!("{}, version {version}", kind.name),
        "summary": kind.about,
        "contentType": CONTENT_TYPE,
        "tags": [{ "name": stream.name }],
        "headers": headers(),
        "payload": {
            "allOf": [{ "$ref": "#/components/schemas/Envelope" }],
            "properties": {
                "type": constant(kind.name.to_owned()),
                "subject": { "pattern": id(stream.prefix) },
                "dataschema": constant(format!("/schemas/events/{}/{version}", kind.name)),
                "annalsstreamtype": constant(stream.name.to_owned()),
                "annalsschemaversion": constant(version.to_string()),
                "data": { "$ref": format!("#/components/schemas/{name}") },
            },
        },
        "bindings": { "kafka": { "key": tenant_key(), "bindingVersion": "0.5.0" } },
    }))
}

fn heartbeat() -> Value {
    json!({
        "name": HEARTBEAT,
        "title": "Heartbeat of a partition",
        "summary": "How far the topic has come, so that what was lost at its end is missed.",
        "contentType": CONTENT_TYPE,
        "headers": headers(),
        "payload": { "$ref": "#/components/schemas/Heartbeat" },
    })
}

fn headers() -> Value {
    json!({ "type": "object", "properties": { "content-type": { "type": "string", "const": CONTENT_TYPE } } })
}

fn id(prefix: &str) -> String {
    format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$")
}

fn tenant_key() -> Value {
    json!({ "type": "string", "pattern": id("ten"), "description": "The tenant." })
}

/// What every message has, whatever it says.
fn envelope() -> Map<String, Value> {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let properties = json!({
        "specversion": { "const": "1.0" },
        "id": { "type": "string", "format": "uuid", "description": "The event's id; with `source` unique in the world." },
        "source": {
            "type": "string",
            "pattern": id("ten").replacen('^', "^/tenants/", 1),
            "description": "The tenant.",
        },
        "type": { "type": "string", "description": "The event's type; permanent." },
        "subject": { "type": "string", "description": "The stream that it is on." },
        "time": { "type": "string", "format": "date-time", "description": "When it happened." },
        "datacontenttype": { "const": "application/json" },
        "dataschema": { "type": "string", "description": "Where its JSON schema is, at the API's address." },
        "annalsposition": reference("Number"),
        "annalssequence": reference("Number"),
        "annalsprevious": reference("Number"),
        "annalsslot": reference("Number"),
        "annalsincarnation": reference("Number"),
        "annalsstreamtype": { "type": "string", "description": "What kind of stream it is on." },
        "annalsversion": reference("Number"),
        "annalsschemaversion": reference("Number"),
        "annalsactor": { "type": "string", "description": "Who did it: a key, or the house." },
        "annalsrecordedat": { "type": "string", "format": "date-time", "description": "When the log took it." },
        "annalssubjects": { "type": "string", "description": "The persons that it is about: UUIDs parted by commas." },
        "annalsmetadata": { "type": "string", "description": "JSON: request, trace, cause and command." },
        "annalsstub": { "const": "true", "description": "The event was too large and must be read from the log." },
        "data": { "description": "Absent in a stub, and once the event is redacted." },
    });
    let optional = ["annalssubjects", "annalsmetadata", "annalsstub", "data"];
    let names = properties.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !optional.contains(&name.as_str())).collect();
    let envelope = json!({ "type": "object", "required": required, "properties": properties });
    let heartbeat = json!({
        "type": "object",
        "properties": {
            "specversion": { "const": "1.0" },
            "id": { "type": "string" },
            "source": { "const": "/relay" },
            "type": { "const": HEARTBEAT },
            "datacontenttype": { "const": "application/json" },
            "annalsincarnation": reference("Number"),
            "data": {
                "type": "object",
                "properties": {
                    "covered": reference("Number"),
                    "lasts": {
                        "type": "object",
                        "propertyNames": { "pattern": "^[0-9]{1,2}$" },
                        "additionalProperties": reference("Number"),
                        "description": "The position of the last event in each slot of the partition, 0 for none.",
                    },
                },
                "required": ["covered", "lasts"],
            },
        },
        "required": ["specversion", "id", "source", "type", "datacontenttype", "annalsincarnation", "data"],
        "examples": [{
            "specversion": "1.0", "id": "1-12-2", "source": "/relay", "type": HEARTBEAT,
            "datacontenttype": "application/json", "annalsincarnation": "1",
            "data": { "covered": "12", "lasts": { "2": "10", "10": "0" } },
        }],
    });
    let number = json!({ "type": "string", "pattern": "^[0-9]{1,19}$", "description": "64 bits as digits." });
    let sealed = json!({
        "description": "A personal value under a key of its own, which is destroyed with the person's erasure.",
        "oneOf": [only(SEALED, &json!({ "type": "string" })), only(ERASED, &json!({ "const": true }))],
    });
    let secret = only(SECRET, &reference("Sealed"));
    let all = [("Envelope", envelope), ("Heartbeat", heartbeat), ("Number", number)];
    let all = all.into_iter().chain([("Sealed", sealed), ("Secret", secret)]);
    all.map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// An object of one field.
fn only(field: &str, schema: &Value) -> Value {
    json!({ "type": "object", "properties": { field: schema }, "required": [field], "additionalProperties": false })
}

/// A schema as the topic has what it describes. What it refers to goes to the named schemas.
fn in_topic(schema: &Value, definitions: &Value, schemas: &mut Map<String, Value>) -> Value {
    let Value::Object(fields) = schema else {
        return match schema {
            Value::Array(all) => all.iter().map(|one| in_topic(one, definitions, schemas)).collect(),
            other => other.clone(),
        };
    };
    let hidden = [("x-personal", "Sealed"), ("x-secret", "Secret")];
    if let Some((mark, name)) = hidden.into_iter().find(|(mark, _)| fields.contains_key(*mark)) {
        let choices = json!([{ "$ref": format!("#/components/schemas/{name}") }, { "type": "null" }]);
        let kept = fields.iter().filter(|(word, _)| [mark, "description"].contains(&word.as_str()));
        let kept = kept.map(|(word, value)| (word.clone(), value.clone()));
        return [("anyOf".to_owned(), choices)].into_iter().chain(kept).collect::<Map<_, _>>().into();
    }
    let mut shown = Map::new();
    for (word, value) in fields {
        match (word.as_str(), value.as_str().and_then(|to| to.strip_prefix("#/$defs/"))) {
            ("$schema" | "$defs", _) => {}
            ("$ref", Some(name)) => {
                if !schemas.contains_key(name) {
                    // Its place is taken first: it may refer to itself.
                    schemas.insert(name.to_owned(), Value::Null);
                    let named = definitions.get(name).cloned().unwrap_or_default();
                    let named = in_topic(&named, definitions, schemas);
                    schemas.insert(name.to_owned(), named);
                }
                shown.insert("$ref".into(), format!("#/components/schemas/{name}").into());
            }
            ("prefixItems", _) => drop(shown.insert("items".into(), in_topic(value, definitions, schemas))),
            _ => drop(shown.insert(word.clone(), in_topic(value, definitions, schemas))),
        }
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/asyncapi/asyncapi.json");

    #[test]
    fn the_committed_document_is_that_of_the_catalogue() {
        if std::env::var_os("ANNALS_UPDATE_OPENAPI").is_some() {
            std::fs::write(COMMITTED, document_text()).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(committed == document_text(), "the topic has changed: run the tests with ANNALS_UPDATE_OPENAPI=1");
    }

    #[test]
    fn the_document_is_asyncapi() {
        let specification = include_str!("../asyncapi/specification-3.0.0.json");
        let specification: Value = serde_json::from_str(specification).unwrap();
        let validator = jsonschema::validator_for(&specification).unwrap();
        let mut document = document();
        let told: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(told.is_empty(), "{told:?}");
        document["channels"]["events"]["bindings"]["kafka"]["partitions"] = json!(0);
        assert!(!validator.is_valid(&document), "a fault is seen");
    }

    #[test]
    fn every_event_in_every_version_is_a_message_whose_references_lead_somewhere() {
        let document = document();
        let messages = document["components"]["messages"].as_object().unwrap();
        let versions: i32 = domain::catalogue().iter().map(|kind| kind.schema_version).sum();
        assert_eq!(messages.len(), usize::try_from(versions).unwrap() + 1, "and the heartbeat");
        let mut found = BTreeMap::new();
        references(&document, &mut found);
        for reference in found.keys() {
            let to = document.pointer(reference.trim_start_matches('#'));
            assert!(to.is_some_and(Value::is_object), "{reference} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains_key(&format!("#/components/schemas/{name}")), "{name} is of no use");
        }
    }

    #[test]
    fn what_events_share_by_name_is_the_same_in_all_of_them() {
        let mut named = BTreeMap::<String, Value>::new();
        for kind in domain::catalogue() {
            for schema in (1..=kind.schema_version).filter_map(|version| kind.schema_of(version)) {
                for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
                    let known = named.entry(name.clone()).or_insert_with(|| definition.clone());
                    assert_eq!(known, definition, "{name} has two forms: name one of them otherwise");
                }
            }
        }
        let own = envelope();
        assert!(named.keys().all(|name| !own.contains_key(name)), "a name that the envelope has");
    }

    fn references(value: &Value, found: &mut BTreeMap<String, usize>) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            *found.entry(reference.to_owned()).or_default() += 1;
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|value| references(value, found)),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
}
