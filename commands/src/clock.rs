//! The one place where the process's clock is read.

use chrono::{DateTime, Utc};

/// Now, in microseconds.
#[allow(clippy::disallowed_methods, reason = "everybody else gets the time through a Context")]
pub fn now() -> DateTime<Utc> {
    domain::context::micros(Utc::now())
}
