//! What a replay was asked for and what it has. Nothing in it but the log and the call: no clock, no paths.

use std::collections::BTreeMap;

use serde::Serialize;

use super::selection::{Personal, Selection};
use super::target::Format;

/// The sequences of a replay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) after: i64,
    pub(super) until: i64,
    /// The life of the log that the last of them belongs to.
    pub(super) incarnation: i64,
}

/// The manifest as it is written.
#[derive(Debug, Serialize)]
pub(super) struct Manifest {
    object: &'static str,
    tenant: String,
    after: i64,
    until: i64,
    incarnation: i64,
    /// The types that were asked for; null where all were.
    types: Option<Vec<&'static str>>,
    #[serde(rename = "where")]
    condition: Option<String>,
    personal: &'static str,
    format: &'static str,
    annals: &'static str,
    /// How many events there are.
    pub(super) events: u64,
    /// How many of them are of each type, and in which versions they were stored.
    pub(super) counts: BTreeMap<String, Count>,
    pub(super) files: Vec<Written>,
}

impl Manifest {
    /// What was asked for.
    pub(super) fn begin(selection: &Selection, range: Range, format: Format) -> Self {
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
            events: 0,
            counts: BTreeMap::new(),
            files: Vec::new(),
        }
    }
}

/// The events of a type.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Count {
    pub(super) events: u64,
    /// The newest version that this program knows.
    pub(super) newest: Option<i32>,
    /// By the version that they were stored in.
    pub(super) schema_versions: BTreeMap<i32, u64>,
}

/// A file.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}
