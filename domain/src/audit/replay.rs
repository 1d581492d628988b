//! A replay of the history as files: who takes which events out, in which form. What it has follows from the log and from
//! this alone, so nothing is kept of it but that it was asked for: `Requested`, for ever.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::personal::Support;
use crate::text::Prose;
use crate::{Aggregate, AnyId, Context, Event, Personal, ReplayId, StreamType, TypedId, names};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Replay {
    /// Where it stands.
    pub status: ReplayStatus,
    /// Who asked for it.
    #[schemars(with = "Option<String>")]
    pub requested_by: Option<AnyId>,
    /// Only what came after this sequence.
    pub after: i64,
    /// Only what came up to and with this sequence.
    pub until: i64,
    /// Only these types of events; null where all are wanted.
    pub types: Option<Vec<String>>,
    /// Only those of which this expression of CEL is true; it may name persons.
    #[serde(rename = "where")]
    pub condition: Option<Personal<Prose, Support>>,
    /// What the files are.
    pub format: ReplayFormat,
    /// Whether personal values are opened, as far as there are keys; otherwise they are null.
    pub open_personal: bool,
}

/// `none -> ready`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStatus {
    /// Not there.
    #[default]
    None,
    /// Its files can be read.
    Ready,
}

/// What a replay is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayFormat {
    /// A line of JSON an event, as `GET /events` shows it.
    #[default]
    Jsonl,
    /// A line an event, what it says as JSON in the last column.
    Csv,
    /// A file a type, with the columns of its schema.
    Parquet,
}

impl ReplayFormat {
    /// Its name, as it stands in manifests and at the end of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// Which events are taken out, and how.
#[derive(Clone, Debug)]
pub struct Requested {
    /// Only what came after this sequence.
    pub after: i64,
    /// Only what came up to and with this sequence.
    pub until: i64,
    /// Only these types; all, if none are named.
    pub types: Option<Vec<String>>,
    /// Only those of which this is true.
    pub condition: Option<Prose>,
    /// What the files are.
    pub format: ReplayFormat,
    /// Whether personal values are opened.
    pub open_personal: bool,
}

/// What can be asked of a replay.
#[derive(Clone, Debug)]
pub enum ReplayCommand {
    /// Make it.
    Request {
        /// Its own id: the subject of its expression.
        id: ReplayId,
        /// What is wanted.
        request: Requested,
    },
}

/// What can have happened to a replay.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "replay")]
pub enum ReplayEvent {
    /// Somebody takes these events out.
    Requested {
        /// Who does.
        #[schemars(with = "String")]
        requested_by: AnyId,
        /// Only what came after this sequence.
        after: i64,
        /// Only what came up to and with this sequence.
        until: i64,
        /// Only these types; all, if none are named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        types: Option<Vec<String>>,
        /// Only those of which this expression is true.
        #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
        condition: Option<Personal<Prose, Support>>,
        /// What the files are.
        format: ReplayFormat,
        /// Whether personal values are opened.
        open_personal: bool,
    },
}

/// Why a replay refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It is there already.
    #[error("the replay exists already")]
    AlreadyExists,
    /// It would end before it begins.
    #[error("is sequence {after}, which lies behind `until`, {until}")]
    EndsBefore {
        /// Where it would begin.
        after: i64,
        /// Where it would end.
        until: i64,
    },
}

impl Aggregate for Replay {
    const STREAM: StreamType = names::REPLAY;
    const REVISION: i32 = 1;
    type Id = ReplayId;
    type Command = ReplayCommand;
    type Event = ReplayEvent;
    type Error = ReplayError;

    fn decide(&self, command: ReplayCommand, ctx: &Context) -> Result<Vec<ReplayEvent>, ReplayError> {
        let ReplayCommand::Request { id, request } = command;
        let Requested { after, until, types, condition, format, open_personal } = request;
        if self.status != ReplayStatus::None {
            return Err(ReplayError::AlreadyExists);
        }
        if after > until {
            return Err(ReplayError::EndsBefore { after, until });
        }
        // Whom an expression names is not known, so it is sealed for the replay itself.
        let condition = condition.map(|text| Personal::open(id.uuid(), text));
        let requested_by = ctx.actor;
        Ok(vec![ReplayEvent::Requested { requested_by, after, until, types, condition, format, open_personal }])
    }

    fn apply(&mut self, event: ReplayEvent) {
        let ReplayEvent::Requested { requested_by, after, until, types, condition, format, open_personal } = event;
        let (status, requested_by) = (ReplayStatus::Ready, Some(requested_by));
        *self = Self { status, requested_by, after, until, types, condition, format, open_personal };
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn request(after: i64, until: i64) -> ReplayCommand {
        let (types, condition) = (Some(vec!["order.placed".into()]), Some("data.total.amount > 5".parse().unwrap()));
        let request = Requested { after, until, types, condition, format: ReplayFormat::Parquet, open_personal: true };
        ReplayCommand::Request { id: ReplayId::from(Uuid::from_u128(9)), request }
    }

    fn requested() -> ReplayEvent {
        ReplayEvent::Requested {
            requested_by: ctx().actor,
            after: 3,
            until: 7,
            types: Some(vec!["order.placed".into()]),
            condition: Some(Personal::open(Uuid::from_u128(9), "data.total.amount > 5".parse().unwrap())),
            format: ReplayFormat::Parquet,
            open_personal: true,
        }
    }

    #[test]
    fn a_replay_says_who_takes_out_what_and_never_changes() {
        let given = |events: &[ReplayEvent]| Given::<Replay>::events(ctx(), events.to_vec());
        given(&[]).when_then(request(3, 7), [requested()]);
        given(&[]).when_refused(request(8, 7), ReplayError::EndsBefore { after: 8, until: 7 });
        given(&[requested()]).when_refused(request(3, 7), ReplayError::AlreadyExists);
    }
}
