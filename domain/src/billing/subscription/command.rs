//! What can be asked of a subscription.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::billing::Interval;
use crate::calendar::TimeZone;
use crate::text::{ExternalId, Prose};
use crate::{CustomerId, Money, PlanId};

/// What a command brings of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Which plan.
    pub plan: PlanId,
    /// What one costs in each interval.
    pub price: Money,
    /// How often it is paid.
    pub interval: Interval,
}

/// What a subscription begins with. It begins when the command happens in the business.
#[derive(Clone, Debug)]
pub struct Start {
    /// What the caller calls this subscription.
    pub external_id: Option<ExternalId>,
    /// Who subscribes.
    pub customer: CustomerId,
    /// To what.
    pub terms: Terms,
    /// How many.
    pub quantity: i64,
    /// Where the days of its periods begin and end.
    pub time_zone: TimeZone,
}

/// When a subscription is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelAt {
    /// At once.
    Now,
    /// When the running period ends.
    PeriodEnd,
}

/// What can be asked of a subscription.
#[derive(Clone, Debug)]
pub enum SubscriptionCommand {
    /// Begin it.
    Start(Start),
    /// Another plan, or more or less of it.
    Change {
        /// Whose it is: nothing changes for a person who was erased.
        customer: CustomerId,
        /// Which plan from now on; the same if absent.
        terms: Option<Terms>,
        /// How many from now on; as many if absent.
        quantity: Option<i64>,
    },
    /// End it.
    Cancel {
        /// When.
        at: CancelAt,
        /// Why, in free text about the customer.
        reason: Option<Prose>,
    },
    /// Take a scheduled end back.
    Reactivate,
    /// Do what is due at a moment that has come.
    Due {
        /// Which moment.
        at: DateTime<Utc>,
    },
}
