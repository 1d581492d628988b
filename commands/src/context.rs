//! What surrounds a command: who asks and how, and what comes back.

use chrono::{DateTime, Utc};
use domain::Context;
use eventstore::{ApiKeyRow, Loaded, Metadata, TenantClock, Token, chain};
use uuid::Uuid;

/// A command's circumstances, and what shall be stored in the same commit as its events.
#[derive(Clone, Debug)]
pub struct CommandContext {
    /// Who asks, for whom, when.
    pub ctx: Context,
    /// `context.aggregate.command`, as it stands in the metadata and in traces.
    pub name: &'static str,
    /// Where the command came from; the executor adds the name.
    pub metadata: Metadata,
    /// The version that the caller has seen, where it insists on that.
    pub if_match: Option<i64>,
    /// The incarnation of the log in which it has seen that, where it says so.
    pub if_match_in: Option<i64>,
    /// The caller's key, where it gave one.
    pub idempotency: Option<Keyed>,
    /// The id was made for this command: there is no stream to load.
    pub fresh: bool,
    /// The id under which a process sends the command.
    pub process_command: Option<Uuid>,
    /// The command of a process whose outcome the events tell.
    pub settled_command: Option<Uuid>,
    /// Who goes on with the stream after the command: its claim on it stays.
    pub holder: Option<Uuid>,
    /// What authentication must find once the command is committed.
    pub api_key: Option<ApiKeyRow>,
    /// What the tenant's clock shows once the command is committed.
    pub clock: Option<TenantClock>,
}

impl CommandContext {
    /// A command without a key, a condition or a process behind it.
    pub fn new(ctx: Context, name: &'static str) -> Self {
        Self {
            ctx,
            name,
            metadata: Metadata::default(),
            if_match: None,
            if_match_in: None,
            idempotency: None,
            fresh: false,
            process_command: None,
            settled_command: None,
            holder: None,
            api_key: None,
            clock: None,
        }
    }

    /// The same command, not before what the stream has seen: clocks of two processes differ, and a request is on its way
    /// while a timer goes off. What says itself when it happened is left so.
    pub(crate) fn not_before(&self, seen: DateTime<Utc>) -> Self {
        let mut later = self.clone();
        if self.ctx.occurred_at == self.ctx.now && self.ctx.now < seen {
            later.ctx = Context::new(self.ctx.tenant, self.ctx.actor, seen);
        }
        later
    }

    /// The command creates the stream whose id was just made.
    pub fn creating(mut self) -> Self {
        self.fresh = true;
        self
    }
}

/// A caller's idempotency key and what it stands for, both as keyed hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// Hash of principal, operation and the caller's key.
    pub key: [u8; 32],
    /// Which item of a batch; 0 for a single request.
    pub item: i32,
    /// Hash of the operation and the canonical body (RFC 8785).
    pub fingerprint: [u8; 32],
    /// The HTTP status that a success is answered with.
    pub status: i16,
}

/// How a command went.
#[derive(Clone, Debug)]
pub struct Receipt<A: domain::Aggregate> {
    /// The stream.
    pub id: A::Id,
    /// The state after the command, personal values sealed.
    pub loaded: Loaded<A>,
    /// The tenant's sequence to wait for, to see the command in a read model.
    pub sequence: i64,
    /// Whether the answer is that of an earlier request with the same key.
    pub replayed: bool,
    /// Whether anything was appended.
    pub changed: bool,
    /// The HTTP status of the first answer, where the request had a key.
    pub status: Option<i16>,
}

/// Why a command had no effect.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<E> {
    /// A rule of the aggregate.
    #[error("a rule forbids it")]
    Rule(#[source] E),
    /// The caller has not seen the newest version.
    #[error("the stream stands at version {actual}")]
    VersionConflict {
        /// Where it stands.
        actual: i64,
    },
    /// The caller has seen a version that the log has lost.
    #[error("the log was restored to a moment before what the caller has seen")]
    LogRestored {
        /// The tenant's last sequence that is as it was.
        survived: Token,
    },
    /// Another stream has the name.
    #[error("the name is taken")]
    NameTaken {
        /// `commerce.customer.email`.
        kind: String,
        /// Who has it.
        holder: Uuid,
    },
    /// The key stands for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The first request with that key is still being carried out.
    #[error("a request with that idempotency key is being carried out")]
    KeyInProgress,
    /// The person was erased.
    #[error("the person was erased")]
    SubjectErased,
    /// More than one event may hold.
    #[error("an event would have {bytes} bytes, more than the log takes")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The store refuses the bytes.
    #[error("the store refuses the data: {0}")]
    Refused(String),
    /// Something that it needs does not answer.
    #[error("not available")]
    Unavailable,
}

impl<E> From<eventstore::StoreError> for ExecuteError<E> {
    fn from(error: eventstore::StoreError) -> Self {
        tracing::error!(error = chain(&error), "the event store failed a command");
        Self::Unavailable
    }
}
