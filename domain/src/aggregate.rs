//! What an aggregate is: a pure decision and a pure fold.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Event, StreamType, TypedId};

/// One kind of stream with its rules. The state is all that the resource shows, also after its end.
pub trait Aggregate: Default + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its permanent names.
    const STREAM: StreamType;
    /// Raised whenever `apply` gives another state for the same events: what was folded before is folded again.
    const REVISION: i32;
    /// Whether a stream of this kind is a person, whose data its UUID is the subject of.
    const IS_A_PERSON: bool = false;
    /// Whether streams of this kind may wait for a moment; see [`Aggregate::wakes_at`].
    const WAKES: bool = false;
    /// Its id.
    type Id: TypedId;
    /// What can be asked of it.
    type Command: Clone + Send + Sync;
    /// What can have happened to it.
    type Event: Event;
    /// Why it may refuse: each variant is a rule that was broken.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The unique names that the command takes or gives up; they are stored with its events or not at all.
    fn claims(_command: &Self::Command) -> Vec<ClaimChange> {
        Vec::new()
    }

    /// The persons that the command writes about, besides those whose sealed values its events carry. Nothing is written
    /// about an erased person.
    fn about(_command: &Self::Command) -> Vec<uuid::Uuid> {
        Vec::new()
    }

    /// The person whose erasure the command begins: from its commit on nothing is written about that person.
    fn tombstone(_command: &Self::Command) -> Option<uuid::Uuid> {
        None
    }

    /// The events that follow from the command, or the rule that forbids it. An empty answer means "already so".
    fn decide(&self, command: Self::Command, ctx: &Context) -> Result<Vec<Self::Event>, Self::Error>;

    /// The state after the event. Has no rules, cannot fail and never opens what is sealed.
    fn apply(&mut self, event: Self::Event);

    /// The moment that a stream in this state waits for, in the tenant's time; it is stored in the append of the events
    /// that led here, and the process host acts on it. [`AT_ONCE`] for what is to be done now.
    fn wakes_at(&self) -> Option<DateTime<Utc>> {
        None
    }
}

/// A moment that has always passed: there is something to do, and no time to wait for.
pub const AT_ONCE: DateTime<Utc> = DateTime::UNIX_EPOCH;
/// The versions of a stream that are told apart: far more than it has.
const TOLD_APART: i64 = 1_000_000_000;

/// A stream's moment as it is stored with a version: [`AT_ONCE`] and as many microseconds, so that whoever has done what an
/// earlier version asked for does not take it for done again.
pub fn stored_moment(wakes_at: DateTime<Utc>, version: i64) -> DateTime<Utc> {
    if wakes_at == AT_ONCE { AT_ONCE + TimeDelta::microseconds(version.clamp(0, TOLD_APART)) } else { wakes_at }
}

/// Whether a stored moment is that of what is to be done now.
pub fn is_at_once(due_at: DateTime<Utc>) -> bool {
    due_at <= AT_ONCE + TimeDelta::microseconds(TOLD_APART)
}

/// An aggregate whose moments are commands on itself: a period that ends.
pub trait Timed: Aggregate {
    /// The command for the moment that has come. It must change nothing where the stream does not wait for just that
    /// moment (any more): moments are told at least once.
    fn due(at: DateTime<Utc>) -> Self::Command;
}

/// What a command does to the names that are unique in a tenant. The executor hashes them; only the hashes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimChange {
    /// The stream takes this name.
    Take {
        /// Which kind of name, as stored: `external_id`, `email`.
        kind: &'static str,
        /// The name in its canonical form.
        name: String,
        /// Whether the stream may hold another of that kind, which it then gives up.
        replaces: bool,
    },
    /// The stream gives up its name of that kind.
    Release {
        /// Which kind of name.
        kind: &'static str,
    },
    /// The stream gives up every name that it holds.
    ReleaseAll,
}

/// The kind of claim behind `ext:` ids; scoped by stream type.
pub const EXTERNAL_ID: &str = "external_id";

/// The change that a creation with an external id makes.
pub fn external_id_claim(external_id: Option<&crate::text::ExternalId>) -> Vec<ClaimChange> {
    external_id
        .map(|id| ClaimChange::Take { kind: EXTERNAL_ID, name: id.as_str().to_owned(), replaces: false })
        .into_iter()
        .collect()
}

/// What a field of a `PATCH` says: absent, null, or a value. Goes with
/// `#[serde(default, deserialize_with = "patch", skip_serializing_if = "Option::is_none")]`.
pub type Patch<T> = Option<Option<T>>;

/// Keeps null apart from absent: null is `Some(None)`.
pub fn patch<'de, T: serde::Deserialize<'de>, D: serde::Deserializer<'de>>(de: D) -> Result<Patch<T>, D::Error> {
    <Option<T> as serde::Deserialize>::deserialize(de).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_now_is_told_apart_by_version() {
        let moments: Vec<_> = [0, 1, 2, TOLD_APART].map(|version| stored_moment(AT_ONCE, version)).into();
        assert!(moments.is_sorted_by(|a, b| a < b) && moments.iter().all(|moment| is_at_once(*moment)));
        let later = AT_ONCE + TimeDelta::days(1);
        assert_eq!((stored_moment(later, 7), is_at_once(later)), (later, false));
    }
}
