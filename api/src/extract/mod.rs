//! What a request brings beside its path: who asks, headers, parameters, body.

pub mod auth;
pub mod body;
pub mod headers;
pub mod ids;
pub mod query;
pub mod trace;
