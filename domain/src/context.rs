//! What a decision may know besides the state: who asks, for whom, and when.

use chrono::{DateTime, Utc};

use crate::{AnyId, TenantId};

/// The circumstances of a command.
#[derive(Clone, Debug)]
pub struct Context {
    /// The customer of ours that everything in the command belongs to.
    pub tenant: TenantId,
    /// The key, user or process that asks.
    pub actor: AnyId,
    /// When it happens in the business, in microseconds: an import's own time, else the process's clock.
    pub occurred_at: DateTime<Utc>,
    /// The process's clock, in microseconds.
    pub now: DateTime<Utc>,
}

impl Context {
    /// A command that happens now.
    pub fn new(tenant: TenantId, actor: AnyId, now: DateTime<Utc>) -> Self {
        let now = micros(now);
        Self { tenant, actor, occurred_at: now, now }
    }

    /// The same command, said to have happened at another time.
    pub fn at(mut self, occurred_at: DateTime<Utc>) -> Self {
        self.occurred_at = micros(occurred_at);
        self
    }
}

/// Cut to microseconds, which is what the log stores and hashes. A leap second is the second after it, as in Postgres.
pub fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_and_no_leap_seconds() {
        let cut = |text: &str| micros(text.parse().unwrap()).to_rfc3339();
        assert_eq!(cut("2026-01-01T00:00:00.1234567Z"), "2026-01-01T00:00:00.123456+00:00");
        assert_eq!(cut("2016-12-31T23:59:60Z"), "2017-01-01T00:00:00+00:00");
        assert_eq!(cut("2016-12-31T23:59:60.25Z"), "2017-01-01T00:00:00.250+00:00");
    }
}
