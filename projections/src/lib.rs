//! The read side: how events get from the log to the read models, and the queries that those answer.
//!
//! [`Relay`] publishes the log to Kafka, [`Projections`] keeps the read models, [`ReadModels`] answers from them. A read
//! model is one file: its table, its [`Projector`], its queries. [`documents`] and [`rows`] are the two generic kinds; what
//! spans streams is a report in a folder of its context. Adding a document type takes an entry in [`documents::types`] and
//! a line of migration.
//!
//! Architecture Invariant: nothing here writes to the log, holds a key or opens what is sealed.

mod adoption;
pub mod agents;
pub mod analytics;
mod batches;
mod bells;
mod checkpoint;
mod controls;
pub mod documents;
mod failure;
pub mod feed;
mod generations;
mod operator;
mod parked;
mod pending;
mod projector;
mod read_models;
mod rebuild;
pub mod rows;
mod runner;
mod running;
mod standpoint;

pub use documents::{DOCUMENTS, Document, DocumentType, Documented};
pub use feed::kafka::KafkaConfig;
pub use feed::relay::{Relay, RelayStatus};
pub use operator::{Operator, OperatorError, ParkedStream, ProjectorReport, Retried, TableVerification, Verification};
pub use projector::{ProjectError, Projector};
pub use read_models::{Behind, ReadError, ReadModels, ReadPoint};
pub use rows::{AuditEntry, AuditFilter, EventTypeCount};
pub use running::{Projections, ProjectorState, ProjectorStatus};
pub use standpoint::Standpoint;

#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
