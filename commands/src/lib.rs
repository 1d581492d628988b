//! The write side: the executor, the vault, the process host and the egress port.
//!
//! Architecture Invariant: an answer never comes from an event that is not committed, and nothing personal leaves this
//! crate towards the log unsealed.

pub mod adapters;
pub mod admin;
pub mod api_key;
mod bells;
mod cache;
pub mod clock;
mod context;
pub mod egress;
mod execute;
mod executor;
mod host;
mod prepare;
mod replay;
mod settle;
pub mod vault;

pub use context::{CommandContext, ExecuteError, Keyed, Receipt};
pub use executor::Executor;
pub use host::ProcessHost;
pub use replay::ResolveError;
pub use vault::{Vault, VaultConfig, VaultError};
