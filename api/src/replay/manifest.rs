//! What a replay was asked for and what it has. Nothing in it but the log and the call: no clock, no paths.

use std::collections::BTreeMap;

use domain::audit::ReplayFormat;
use schemars::JsonSchema;
use serde::Serialize;

use super::selection::{Personal, Selection};

/// The sequences of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Only what came after this.
    pub after: i64,
    /// Only what came up to and with this.
    pub until: i64,
    /// The life of the log that the last of them belongs to.
    pub incarnation: i64,
}

/// The manifest as it is written.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayManifest")]
pub struct Manifest {
    /// Always `replay`.
    object: &'static str,
    /// Whose history.
    tenant: String,
    /// Only what came after this sequence.
    after: i64,
    /// Only what came up to and with this one.
    until: i64,
    /// The life of the log that the last of them belongs to.
    incarnation: i64,
    /// The types that were asked for; null where all were.
    types: Option<Vec<&'static str>>,
    /// The expression that is true of them; null over HTTP without `personal:read`.
    #[serde(rename = "where")]
    condition: Option<String>,
    /// What became of personal values: `null` or `opened`.
    personal: &'static str,
    /// What the files are.
    format: &'static str,
    /// The version of the program that made it.
    annals: &'static str,
    /// How many events there are.
    events: u64,
    /// How many of them are of each type, and in which versions they were stored.
    counts: BTreeMap<String, Count>,
    /// The files that there are.
    pub files: Vec<Written>,
}

impl Manifest {
    /// What was asked for and what came of it.
    pub fn of(
        selection: &Selection,
        range: Range,
        format: ReplayFormat,
        mut counts: BTreeMap<String, Count>,
        files: Vec<Written>,
    ) -> Self {
        for (name, count) in &mut counts {
            count.newest = domain::event_type(name).map(|kind| kind.schema_version);
        }
        Self {
            object: "replay",
            tenant: selection.tenant.to_string(),
            after: range.after,
            until: range.until,
            incarnation: range.incarnation,
            types: selection.types.as_ref().map(|types| types.iter().copied().collect()),
            condition: selection.condition.as_ref().map(|condition| condition.text.clone()),
            personal: match selection.personal {
                Personal::Null => "null",
                Personal::Opened(_) => "opened",
            },
            format: format.name(),
            annals: env!("CARGO_PKG_VERSION"),
            events: counts.values().map(|count| count.events).sum(),
            counts,
            files,
        }
    }

    /// Without what was asked of the events: it may name persons.
    pub fn without_condition(self) -> Self {
        Self { condition: None, ..self }
    }
}

/// The events of a type.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "ReplayCount")]
pub struct Count {
    /// How many there are.
    pub events: u64,
    /// The newest version that this program knows.
    newest: Option<i32>,
    /// By the version that they were stored in.
    schema_versions: BTreeMap<i32, u64>,
}

impl Count {
    /// Counts some more of a version.
    pub(super) fn add(&mut self, schema_version: i32, events: u64) {
        self.events += events;
        *self.schema_versions.entry(schema_version).or_default() += events;
    }

    /// Counts what another has counted.
    pub(super) fn add_all(&mut self, other: Self) {
        other.schema_versions.into_iter().for_each(|(version, events)| self.add(version, events));
    }
}

/// A file.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayFileWritten")]
pub struct Written {
    /// Its name.
    pub name: String,
    /// How many events it has.
    pub events: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}
