//! What callers hand over to be appended, and how it went.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::NewEvent;
use crate::work::{TenantClock, WorkRow};

/// Events for one stream, to follow a version that the caller has seen committed.
#[derive(Clone, Debug)]
pub struct StreamAppend {
    /// `context.noun`.
    pub stream_type: &'static str,
    /// The stream.
    pub stream_id: Uuid,
    /// The version that the first event follows; 0 for a new stream.
    pub expected_version: i64,
    /// In order.
    pub events: Vec<NewEvent>,
}

/// The keyed hash of a name, scoped by tenant and kind.
pub type ClaimKey = [u8; 32];

/// A name that a stream takes; unique in its tenant and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `commerce.customer.email`.
    pub kind: String,
    /// The keyed hash of the name.
    pub key: ClaimKey,
    /// Who takes it.
    pub stream_id: Uuid,
}

/// Names that a stream gives up, before the claims of the same append are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Who gives up.
    pub stream_id: Uuid,
    /// Of which kind; every kind if absent.
    pub kind: Option<String>,
}

/// What a keyed request leaves behind, so that its repetition can be answered from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Keyed hash of principal, operation and the caller's key.
    pub key: [u8; 32],
    /// Which item of a batch; 0 for a single request.
    pub item: i32,
    /// Keyed hash of the request.
    pub fingerprint: [u8; 32],
    /// The HTTP status that was answered.
    pub status: i16,
    /// The kind of the resource.
    pub stream_type: String,
    /// The resource.
    pub stream_id: Uuid,
    /// The version that was answered.
    pub version: i64,
    /// The tenant's sequence that was answered; for a command that appended, what the append gives it.
    pub sequence: i64,
}

/// Where a person's keys lie: a slot of a keyring in the key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectSlot {
    /// The person.
    pub subject: Uuid,
    /// The keyring.
    pub ring: Uuid,
    /// 0 to 255.
    pub slot: i16,
}

/// What authentication will look up.
#[derive(Clone, Debug)]
pub struct ApiKeyRow {
    /// The key's id.
    pub key_id: Uuid,
    /// SHA-256 of its secret; none leaves what is there.
    pub hash: Option<[u8; 32]>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it was withdrawn.
    pub revoked: bool,
}

/// One to four streams of one tenant and all that is stored with their events or not at all.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// Whose log it goes to.
    pub tenant: Uuid,
    /// The epoch under which the caller checked that no subject in it was erased.
    pub epoch: i64,
    /// The events; none for a command that changed nothing but has a key.
    pub streams: Vec<StreamAppend>,
    /// Every person that the events are about, sealed or not: none of them may have a tombstone.
    pub about: Vec<Uuid>,
    /// Names to be taken.
    pub claims: Vec<Claim>,
    /// Names to be given up.
    pub releases: Vec<Release>,
    /// What the request's key leaves behind.
    pub idempotency: Option<IdempotencyRecord>,
    /// Slots of persons that are named for the first time.
    pub subjects: Vec<SubjectSlot>,
    /// The person that this append puts a tombstone on; raises the epoch.
    pub tombstone: Option<Uuid>,
    /// The id under which a process sent the command.
    pub process_command: Option<Uuid>,
    /// The command of a process whose outcome the events tell: its id need not be remembered for ever.
    pub settled_command: Option<Uuid>,
    /// When the first stream is due next, where streams of its kind wait for moments.
    pub work: Option<WorkRow>,
    /// The tenant's clock, where the events are about it.
    pub clock: Option<TenantClock>,
    /// A key that authentication must find.
    pub api_key: Option<ApiKeyRow>,
}

impl Append {
    /// How many events it has.
    pub fn event_count(&self) -> usize {
        self.streams.iter().map(|stream| stream.events.len()).sum()
    }

    /// Whether it must be committed alone: the batch statement has no part for what is rare.
    pub(crate) fn is_rare(&self) -> bool {
        !self.releases.is_empty()
            || self.tombstone.is_some()
            || self.api_key.is_some()
            || self.clock.is_some()
            || self.settled_command.is_some()
    }

    /// Whether nothing is stored with its events.
    pub(crate) fn has_events_alone(&self) -> bool {
        self.idempotency.is_none()
            && self.claims.is_empty()
            && self.subjects.is_empty()
            && self.process_command.is_none()
            && self.work.is_none()
    }

    /// The id of its last event, by which an attempt whose answer got lost is recognised.
    pub(crate) fn last_event_id(&self) -> Option<Uuid> {
        self.streams.iter().flat_map(|stream| &stream.events).next_back().map(|event| event.event_id)
    }

    /// About how many bytes its events take.
    pub fn bytes(&self) -> usize {
        self.streams.iter().flat_map(|s| &s.events).map(|e| e.payload.len() + e.metadata.len() + 200).sum()
    }
}

/// Where an append came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Position of its last event in the house's log; the head where it has none.
    pub position: i64,
    /// Sequence of its last event in the tenant's log; the tenant's last where it has none.
    pub sequence: i64,
    /// When the log took it.
    pub recorded_at: DateTime<Utc>,
}

/// Why an append was not committed. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another append came first.
    #[error("stream {stream_id} stands at version {actual}")]
    Conflict {
        /// The stream.
        stream_id: Uuid,
        /// Its version now.
        actual: i64,
    },
    /// Another stream has that name.
    #[error("the name is taken")]
    ClaimTaken {
        /// Which kind of name.
        kind: String,
        /// Who has it.
        holder: Uuid,
    },
    /// A request with that key was answered before.
    #[error("the key was used before")]
    Duplicate(Box<IdempotencyRecord>),
    /// The command of that process was carried out before.
    #[error("the command was carried out before")]
    AlreadySent,
    /// A person in it was erased.
    #[error("the person was erased")]
    SubjectErased(Uuid),
    /// Another process gave the person a slot first: seal again under that one.
    #[error("the person has another slot")]
    SlotTaken(SubjectSlot),
    /// The log was restored since the caller looked at it: what it has decided on may be lost.
    #[error("the log was restored meanwhile")]
    LogRestored,
    /// An event is larger than the log takes.
    #[error("an event has {bytes} bytes, more than the log takes")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The append that it was decided upon was not committed: decide anew.
    #[error("what it was decided upon was not committed")]
    Superseded,
    /// Postgres refuses the bytes.
    #[error("the store refuses the data: {0}")]
    Refused(String),
    /// Postgres can't be reached or the queue is full.
    #[error("the event store is not available")]
    Unavailable,
}
