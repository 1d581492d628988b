//! What is stored for good: the schema of every event in every version, and what each aggregate makes of its events.
//! Both are committed in `schemas/`. What is missing there is written with `ANNALS_UPDATE_SCHEMAS=1`. A schema that was
//! committed never changes: another one is another version, and its upcaster reads the events of the version before. A
//! fold that has changed is never written anew either, for states are kept by [`Aggregate::REVISION`].

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::{
    Aggregate, Event, StreamType, agents, audit, billing, commerce, crm, identity, names, privacy, process, tenancy,
};
use serde_json::{Value, json};

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn updating() -> bool {
    std::env::var_os("ANNALS_UPDATE_SCHEMAS").is_some()
}

/// The JSON files of a folder by name.
fn committed(folder: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), value);
        }
    }
    found
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
}

#[test]
fn the_schema_of_every_stored_event_is_committed() {
    let folder = schemas();
    let mut expected = BTreeSet::new();
    for kind in domain::catalogue() {
        let name = |version: i32| format!("{}.v{version}.json", kind.name);
        // What was written in an earlier version is still in the log, and so its schema stays.
        expected.extend((1..=kind.schema_version).map(name));
        let newest = folder.join(name(kind.schema_version));
        if updating() && !newest.exists() {
            write(&newest, (kind.schema)().as_value());
        }
    }
    let found = committed(&folder);
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), expected, "one file an event and version");
    for kind in domain::catalogue() {
        let same = found[&format!("{}.v{}.json", kind.name, kind.schema_version)] == *(kind.schema)().as_value();
        assert!(
            same,
            "the schema of {kind:?} has changed: raise its version and write an upcaster; where it was never released, \
             delete its file and run with ANNALS_UPDATE_SCHEMAS=1"
        );
        for upcaster in kind.upcasters {
            let name = format!("{}.v{}.json", kind.name, upcaster.from);
            assert_eq!(kind.schema_of(upcaster.from).as_ref(), Some(&found[&name]), "{name} is in the program");
        }
    }
}

/// Checks that a payload fits the schema of the version that it was stored in, as it is in the program.
fn fits(kind: &str, version: i32, payload: &Value) {
    let schema = domain::event_type(kind).unwrap().schema_of(version).unwrap();
    let mut seen = payload.clone();
    domain::personal::masked(&mut seen).unwrap();
    let told = jsonschema::validator_for(&schema).unwrap().validate(&seen).map_err(|error| error.to_string());
    assert_eq!(told, Ok(()), "{kind} v{version} does not fit its schema: {payload}");
}

#[test]
fn a_schema_refuses_what_its_version_never_had() {
    let schema = domain::event_type("note.written").unwrap().schema_of(2).unwrap();
    let v1 = json!({"customer": "cus_01h455vb4pex5vsknk084sn02q", "text": null});
    assert!(!jsonschema::is_valid(&schema, &v1), "version 2 has a kind");
}

/// A stored event as a fold's file has it, and the state after it.
struct Step<'a> {
    kind: &'a str,
    version: i32,
    payload: &'a Value,
    state: Option<&'a Value>,
}

impl<'a> Step<'a> {
    fn of(value: &'a Value) -> Self {
        Self {
            kind: value["type"].as_str().unwrap(),
            version: value["schema_version"].as_i64().unwrap().try_into().unwrap(),
            payload: &value["payload"],
            state: value.get("state"),
        }
    }
}

/// Folds the events of a file, checks every state that it has, and gives the file with all states.
fn fold<A: Aggregate>(file: &str, committed: &Value) -> Value {
    let mut state = A::default();
    let mut steps = Vec::new();
    let mut kinds = BTreeSet::new();
    let mut versions = BTreeSet::new();
    for (at, step) in committed.as_array().unwrap().iter().map(Step::of).enumerate() {
        let event = A::Event::decode(step.kind, step.version, &step.payload.to_string()).unwrap();
        let stored: Value = serde_json::from_str(&event.payload().unwrap()).unwrap();
        fits(step.kind, step.version, step.payload);
        let newest = event.event_type().schema_version;
        if step.version == newest {
            assert_eq!(stored, *step.payload, "{file}, event {at}: it would be stored otherwise today");
        } else {
            fits(step.kind, newest, &stored);
        }
        versions.insert((step.kind, step.version));
        state.apply(event);
        let now = serde_json::to_value(&state).unwrap();
        let before = step.state.unwrap_or(&now);
        assert_eq!(*before, now, "{file}, event {at}: the fold gives another state: raise the REVISION");
        kinds.insert(step.kind);
        let (kind, version, payload) = (step.kind, step.version, step.payload);
        steps.push(json!({ "type": kind, "schema_version": version, "payload": payload, "state": now }));
    }
    assert_eq!(kinds, A::STREAM.events.iter().copied().collect(), "{file} has every event of its stream");
    let all = A::Event::TYPES.iter().flat_map(|kind| (1..=kind.schema_version).map(|version| (kind.name, version)));
    assert_eq!(versions, all.collect(), "{file} has every event in every version");
    let kept: A = serde_json::from_value(serde_json::to_value(&state).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(kept).unwrap(), serde_json::to_value(state).unwrap(), "{file}: a state survives");
    steps.into()
}

/// One aggregate's stream, revision and fold.
type Fold = (StreamType, i32, fn(&str, &Value) -> Value);

fn of<A: Aggregate>() -> Fold {
    (A::STREAM, A::REVISION, fold::<A>)
}

#[test]
fn what_was_folded_once_is_folded_alike_until_the_revision_is_raised() {
    let folds = [
        of::<tenancy::Tenant>(),
        of::<identity::ApiKey>(),
        of::<commerce::Customer>(),
        of::<commerce::Order>(),
        of::<privacy::PrivacyRequest>(),
        of::<crm::Note>(),
        of::<process::ErasureProcess>(),
        of::<tenancy::TestClock>(),
        of::<agents::Agent>(),
        of::<agents::Run>(),
        of::<billing::Plan>(),
        of::<billing::Subscription>(),
        of::<audit::Replay>(),
    ];
    assert_eq!(folds.map(|(stream, ..)| stream), *names::STREAM_TYPES);
    let folder = schemas().join("folds");
    let mut expected = BTreeSet::new();
    for (stream, revision, fold) in folds {
        let file = |revision: i32| format!("{}.r{revision}.json", stream.name);
        let (now, before) = (folder.join(file(revision)), folder.join(file(revision - 1)));
        if updating() {
            if before.exists() && !now.exists() {
                begin_revision(&before, &now);
            }
            let steps: Value = serde_json::from_str(&std::fs::read_to_string(&now).unwrap()).unwrap();
            write(&now, &fold(&file(revision), &steps));
        }
        expected.insert(file(revision));
    }
    let found = committed(&folder);
    assert_eq!(
        found.keys().cloned().collect::<BTreeSet<_>>(),
        expected,
        "one file an aggregate, named by its REVISION: run with ANNALS_UPDATE_SCHEMAS=1 after raising one"
    );
    for (stream, revision, fold) in folds {
        let file = format!("{}.r{revision}.json", stream.name);
        assert_eq!(fold(&file, &found[&file]), found[&file], "{file} lacks a state: run with ANNALS_UPDATE_SCHEMAS=1");
    }
}

/// The same events, their states left out.
fn begin_revision(before: &Path, now: &Path) {
    let mut steps: Value = serde_json::from_str(&std::fs::read_to_string(before).unwrap()).unwrap();
    for step in steps.as_array_mut().unwrap() {
        step.as_object_mut().unwrap().remove("state");
    }
    write(now, &steps);
    std::fs::remove_file(before).unwrap();
}
