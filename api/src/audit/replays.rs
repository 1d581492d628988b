//! `/replays`: history that somebody takes out as files. What is kept of one is that it was asked for; its files and its
//! manifest are made when they are read ([`super::replay_files`]).

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use domain::ReplayId;
use domain::audit::{Replay, ReplayCommand, ReplayError, ReplayFormat, Requested};
use domain::names::{AUDIT_READ, AUDIT_WRITE, PERSONAL_READ, Scope};
use domain::text::Prose;
use futures::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::replay_files;
use crate::call::Call;
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Problem, codes};
use crate::replay::{Condition, wanted};
use crate::resource::{BASE, Beside, Filter, Resource, resource, to_json};

/// The most types, or beginnings of them, that may be named.
const MOST_TYPES: usize = 100;

impl Resource for Replay {
    const OBJECT: &'static str = "replay";
    const PATH: &'static str = "/replays";
    const READ: Scope = AUDIT_READ;
    const WRITE: Scope = AUDIT_WRITE;
    const FILTERS: &'static [Filter] = &[Filter::word::<ReplayFormat>("format")];
    const BESIDE: &'static [Beside] = &[
        Beside { name: "files", schema: |generator| generator.subschema_for::<Vec<FileLink>>(), value: files },
        Beside {
            name: "manifest",
            schema: |generator| generator.subschema_for::<String>(),
            value: |shown, _| format!("{}/manifest", place(shown)).into(),
        },
    ];

    fn problem(error: ReplayError) -> Problem {
        match error {
            ReplayError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            error @ ReplayError::EndsBefore { .. } => Problem::field("/after", error.to_string()),
        }
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let replays = resource::<Replay>();
    let mut all = vec![
        replays.create::<MakeReplay>(
            "Take history out as files",
            "Which events these are is settled now, for ever: `until` becomes a sequence. That it was asked for is an event, \
             so the trail shows who did. With `open_personal` the key needs `personal:read`, to make it and to read it.",
        ),
        replays.get(),
        replays.list(),
        replays.history(),
    ];
    all.extend(replay_files::operations());
    all
}

/// A file of a replay.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayFile")]
struct FileLink {
    /// Its name.
    name: String,
    /// What it is.
    media_type: &'static str,
    /// Where it is.
    href: String,
}

fn place(shown: &Map<String, Value>) -> String {
    format!("{BASE}{}/{}", Replay::PATH, shown.get("id").and_then(Value::as_str).unwrap_or_default())
}

/// All that there may be: which types occur is not known before the events are read.
fn files(shown: &Map<String, Value>, _: DateTime<Utc>) -> Value {
    let read = |name: &str| shown.get(name).cloned().unwrap_or_default();
    let (Ok(format), Ok(types)) =
        (serde_json::from_value::<ReplayFormat>(read("format")), serde_json::from_value(read("types")))
    else {
        return Value::Null;
    };
    let link = |name: String| {
        let href = format!("{}/files/{name}", place(shown));
        FileLink { name, media_type: replay_files::media(format), href }
    };
    to_json(replay_files::names(format, types).into_iter().map(link).collect::<Vec<_>>())
}

/// A moment of the log as it was written: a sequence or a time.
#[derive(Debug)]
struct Moment(String);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Moment;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence, or a time of RFC 3339 such as 2026-11-20T10:00:00Z")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Moment, E> {
                Ok(Moment(number.to_string()))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                Ok(Moment(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LogMoment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": crate::extract::headers::TOKEN },
            { "type": "string", "format": "date-time" },
        ] })
    }
}

/// One name or more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Types {
    One(String),
    Many(Vec<String>),
}

/// Which events, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MakeReplay {
    /// Only what came after this: a sequence, or a time (the last one that was recorded by then). From the beginning, if
    /// absent.
    after: Option<Moment>,
    /// Only what came up to and with this; up to now, if absent.
    until: Option<Moment>,
    /// Only these types of events: `order.placed`, or `order.` for all that begin so; one, or a list.
    #[serde(rename = "type")]
    types: Option<Types>,
    /// Only those of which this expression of CEL is true: `data != null && has(data.total) && data.total.amount >= 1000`.
    /// It sees what `GET /events` shows, personal values null unless they are opened. It is shown to those alone who have
    /// `personal:read`.
    #[serde(rename = "where")]
    condition: Option<Prose>,
    /// What the files are.
    format: ReplayFormat,
    /// Whether personal values are opened; null, if not. What was erased is null either way.
    #[serde(default)]
    open_personal: bool,
    /// What all that comes to.
    #[serde(skip)]
    settled: Option<Requested>,
}

impl Intent<Replay> for MakeReplay {
    fn example() -> Value {
        let condition = "data != null && has(data.total) && data.total.amount >= 1000";
        json!({ "type": "order.", "where": condition, "format": "parquet" })
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let condition = self.condition.take();
            if let Some(Err(wrong)) = condition.as_ref().map(|text| Condition::compile(text.as_str())) {
                return Err(Problem::field("/where", wrong));
            }
            let types = self.types()?;
            if self.open_personal {
                call.principal.needs(PERSONAL_READ)?;
            }
            let after = match &self.after {
                Some(Moment(after)) => call.sequence_of("/after", after).await?,
                None => 0,
            };
            let until = match &self.until {
                Some(Moment(until)) => call.sequence_of("/until", until).await?,
                None => call.head().await?,
            };
            let (format, open_personal) = (self.format, self.open_personal);
            self.settled = Some(Requested { after, until, types, condition, format, open_personal });
            Ok(())
        })
    }

    fn command(self, id: ReplayId, _: &Call) -> Result<ReplayCommand, Problem> {
        let request = self.settled.ok_or_else(Problem::unavailable)?;
        Ok(ReplayCommand::Request { id, request })
    }
}

impl MakeReplay {
    /// The types that are meant; whoever names some wants some.
    fn types(&self) -> Result<Option<Vec<String>>, Problem> {
        let names = match &self.types {
            None => return Ok(None),
            Some(Types::One(name)) => std::slice::from_ref(name),
            Some(Types::Many(names)) => names,
        };
        if !(1..=MOST_TYPES).contains(&names.len()) {
            return Err(Problem::field("/type", format!("must name 1 to {MOST_TYPES} types")));
        }
        let types = wanted(names)
            .map_err(|_| Problem::field("/type", "names what is no type of event; `GET /event-types` lists them"))?;
        Ok(types.map(|types| types.into_iter().map(str::to_owned).collect()))
    }
}
