//! What people may ask about their data.

mod request;

pub use request::operations;
