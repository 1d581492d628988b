#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
