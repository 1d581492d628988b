//! The write side: the executor, the vault and the process host.
//!
//! Architecture Invariant: an answer never comes from an event that is not committed, and nothing personal leaves this
//! crate towards the log unsealed.

pub mod admin;
pub mod api_key;
mod cache;
pub mod clock;
mod context;
mod executor;
mod process_host;
mod replay;
mod settle;
pub mod vault;

pub use context::{CommandContext, ExecuteError, Keyed, Receipt};
pub use executor::Executor;
pub use process_host::ProcessHost;
pub use replay::ResolveError;
pub use vault::{Vault, VaultConfig, VaultError};
