//! Many subscriptions whose period ends in one and the same second: how long until the last is renewed.

use std::time::Duration;

use chrono::{Months, SubsecRound, TimeDelta, Utc};
use serde_json::Value;

use crate::user::{User, report};
use crate::year::{subscribe, time};

#[derive(Clone, clap::Args)]
pub struct Timers {
    /// How many.
    #[arg(long, default_value_t = 10_000)]
    timers: usize,
    /// How long until they are due, in seconds: time enough to make them.
    #[arg(long, default_value_t = 40)]
    after: i64,
}

impl Timers {
    pub async fn measure(self, user: User) {
        let due = Utc::now().trunc_subsecs(0) + TimeDelta::seconds(self.after);
        let made = subscribe(&user, self.timers, due - Months::new(1)).await;
        let head = user.head().await;
        assert!(Utc::now() < due, "making them took too long: --after more");
        tokio::time::sleep((due - Utc::now()).to_std().unwrap_or_default()).await;
        while user.head().await < head + i64::try_from(made).expect("a number") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let renewed: Vec<Value> = user.events(head, "subscription.renewed").await;
        assert_eq!(renewed.len(), made, "each once");
        let late = renewed.iter().map(|event| (time(&event["recorded_at"]) - due).to_std().expect("never too early"));
        report(&format!("{made} timers due in one second, until the log has each"), late.collect());
    }
}
