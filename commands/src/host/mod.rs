//! Hosts what waits for moments: timers, process managers, runs of agents, clocks of test tenants. It needs the log alone,
//! so money and erasure go on without a request and without Kafka.
//!
//! Any number of processes host at a time. Whoever claims a stream that is due attends to it and renews the claim
//! meanwhile; where a process dies or hangs, its claims run out after three seconds and others go on. A claim saves work,
//! it proves nothing: every step is decided on the stream itself, so that what two attend to is done once.

mod clock;
mod hands;
mod hear;
mod kinds;
mod run;
mod visit;

use std::sync::Arc;
use std::time::Duration;

use domain::{AnyId, SystemId};
use eventstore::{StoreError, new_id};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::ExecuteError;
use crate::egress::Egress;
use crate::executor::Executor;
use crate::vault::VaultError;
use hands::Hands;

/// How long a claim is good for unless it is renewed, and so how long the streams of a dead process rest.
const CLAIM: Duration = Duration::from_secs(3);
/// How long to wait after something failed, and the longest between two looks for what is due.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a stream rests when what it wants can't be done yet, or when a step of it failed.
const LATER: Duration = Duration::from_secs(2);

/// Hosts whatever waits for moments.
#[derive(Debug)]
pub struct ProcessHost;

/// What the parts of one host share.
pub(crate) struct Host {
    executor: Executor,
    egress: Egress,
    /// Whose claims are its own.
    id: Uuid,
    hands: Hands,
    stop: CancellationToken,
}

impl ProcessHost {
    /// Starts hosting; ends once `stop` is cancelled and what is in hand is done, or given back.
    pub fn start(executor: Executor, egress: Egress, stop: CancellationToken) -> JoinHandle<()> {
        let host = Arc::new(Host { executor, egress, id: new_id(), hands: Hands::default(), stop });
        tokio::spawn(async move {
            let resting = CancellationToken::new();
            let beating = tokio::spawn(hands::beat(host.clone(), resting.clone()));
            let kinds = kinds::KINDS.iter().map(|kind| tokio::spawn(kinds::host(host.clone(), kind)));
            let kinds: Vec<JoinHandle<()>> = kinds.collect();
            hear::run(&host).await;
            for kind in kinds {
                let _ = kind.await;
            }
            resting.cancel();
            let _ = beating.await;
        })
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The log does not answer, or holds what this binary can't read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event that this binary can't read: a newer one wrote it.
    #[error(transparent)]
    Decode(#[from] domain::DecodeError),
    /// The key store does not answer.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// What was heard may be lost: hearing begins again from the cursor that the log has.
    #[error("the log was restored")]
    LogRestored,
    /// A step could not be appended.
    #[error("stream {stream} could not go on: {why}")]
    Step {
        /// Which.
        stream: String,
        /// What the executor said.
        why: String,
    },
}

impl HostError {
    fn step<E: std::error::Error>(stream: impl ToString, error: &ExecuteError<E>) -> Self {
        let why = match error {
            ExecuteError::Rule(rule) => rule.to_string(),
            other => other.to_string(),
        };
        Self::Step { stream: stream.to_string(), why }
    }
}

/// The actor of the house's processes.
fn actor() -> AnyId {
    SystemId::from(Uuid::from_u128(2)).into()
}
