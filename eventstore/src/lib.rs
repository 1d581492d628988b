//! The log in Postgres, ground of both sides: append, read, tail, claims, idempotency.
//!
//! Architecture Invariant: all SQL that names the log's tables is in this crate, and positions, sequences and versions
//! are dense and in commit order, because every append advances the one row of `log_head` first.

pub mod append;
mod bounded;
pub mod bytes;
mod callers;
mod chain;
pub mod cqrs;
pub mod event;
pub mod fold;
mod follow;
mod guard;
mod history;
mod identity;
mod incarnation;
mod leases;
mod membership;
pub mod migrate;
mod pools;
mod queue;
mod ranges;
mod rare;
mod read;
mod relay_cursor;
mod shares;
mod slow;
mod slow_facts;
mod statement;
mod store;
mod tail;
mod tokens;
pub mod verify;
mod waiting;
mod work;
mod writer;

pub use append::{
    ApiKeyRow, Append, AppendError, Claim, ClaimKey, Committed, IdempotencyRecord, Release, StreamAppend, SubjectSlot,
};
pub use callers::Callers;
pub use chain::chain;
pub use event::{Fact, Metadata, NewEvent, RecordedEvent};
pub use fold::Loaded;
pub use follow::{Follower, Heard};
pub use identity::{ApiKeyRecord, SubjectRow};
pub use incarnation::{Evidence, HighWater, HighWaterMark, Incarnation, Incarnations, MarkError, same_incarnation};
pub use leases::Leadership;
pub use pools::{Credentials, Role, TenantDb, TenantTx, WriteDsn};
pub use queue::Pending;
pub use read::{EventFilter, Until};
pub use relay_cursor::RelayCursor;
pub use shares::Share;
pub use store::{EventStore, StoreConfig, StoreError, new_id};
pub use tail::Tail;
pub use tokens::{BadToken, Standing, Token};
pub use waiting::{Waiting, WaitingFilter};
pub use work::{DueWork, TenantClock, WorkRow};
