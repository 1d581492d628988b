//! The API: HTTP, authentication, wiring, and the command line of the one binary.
//!
//! An [`operation`] is a value; the [`router`] makes routes of all of them, [`openapi`] the document, and
//! [`asyncapi`] that of the topic. A context is a folder with a file for each resource: what callers write ([`intent`]),
//! what each rule that may be broken is called, and the list of its operations, most of which [`resource`] makes.
//! `docs/adding-a-context.md` is the recipe.
//!
//! Architecture Invariant: the tenant comes from the credential alone, handlers see one tenant, and personal values are
//! opened in two places, the edge of an operation and the selection of a replay.

pub mod agents;
pub mod aliases;
pub mod analytics;
pub mod app;
pub mod as_of;
pub mod asyncapi;
pub mod audit;
pub mod batch_room;
pub mod billing;
pub mod call;
pub mod cli;
pub mod commerce;
pub mod config;
pub mod crm;
pub mod cursor;
pub mod edge;
pub mod extract;
pub mod health;
pub mod intent;
pub mod openapi;
pub mod operation;
pub mod operations;
pub mod pages;
pub mod patient;
pub mod privacy;
pub mod problem;
pub mod replay;
pub mod resource;
pub mod router;
pub mod schema;
pub mod server;
pub mod standpoint;
pub mod state;
pub mod strict;
pub mod telemetry;
pub mod tenancy;

pub use app::{App, RunningApp, StartError};
pub use config::{Config, ConfigError, Roles, RootKeyFrom};
