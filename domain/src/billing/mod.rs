//! Plans, and the customers on them: what comes in again and again.

mod mrr;
mod plan;
mod subscription;

pub use crate::calendar::Period;
pub use mrr::mrr;
pub use plan::{Interval, Plan, PlanCommand, PlanError, PlanEvent, PlanStatus};
pub use subscription::{
    CancelAt, MAX_QUANTITY, Start, Subscription, SubscriptionCommand, SubscriptionError, SubscriptionEvent,
    SubscriptionStatus, Terms,
};
