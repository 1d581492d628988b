//! The rules of Annals: aggregates, their events and process managers.
//!
//! Architecture Invariant: nothing here does I/O, asks a clock or draws a random number; time, actor and tenant come in
//! through [`Context`]. One folder is one bounded context; `docs/adding-a-context.md` is the recipe for another.

pub mod agents;
pub mod aggregate;
pub mod audit;
pub mod billing;
pub mod calendar;
pub mod commerce;
pub mod context;
pub mod cqrs;
pub mod crm;
pub mod event;
pub mod id;
pub mod identity;
pub mod money;
pub mod names;
pub mod personal;
pub mod privacy;
pub mod process;
pub mod tenancy;
pub mod text;

pub use aggregate::{Aggregate, Timed};
pub use calendar::TimeZone;
pub use context::Context;
pub use event::{DecodeError, Event, EventType, event_type};
pub use id::{
    AgentId, AnyId, ApiKeyId, CustomerId, ErasureId, IdError, NoteId, OrderId, PlanId, PrivacyRequestId, ReplayId,
    RunId, SubscriptionId, SystemId, TenantId, TestClockId, TypedId,
};
pub use money::{Currency, Money, MoneyError};
pub use names::StreamType;
pub use personal::{Personal, RetentionClass, Secret};

/// Every event type of the house, for the catalogue, the schemas and the architecture tests.
pub fn catalogue() -> Vec<&'static EventType> {
    [
        tenancy::TenantEvent::TYPES,
        identity::ApiKeyEvent::TYPES,
        commerce::CustomerEvent::TYPES,
        commerce::OrderEvent::TYPES,
        crm::NoteEvent::TYPES,
        privacy::PrivacyRequestEvent::TYPES,
        process::ErasureProcessEvent::TYPES,
        tenancy::TestClockEvent::TYPES,
        agents::AgentEvent::TYPES,
        agents::RunEvent::TYPES,
        billing::PlanEvent::TYPES,
        billing::SubscriptionEvent::TYPES,
        audit::ReplayEvent::TYPES,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_catalogue_is_the_table_of_names() {
        let mut declared: Vec<_> = super::names::STREAM_TYPES.iter().flat_map(|kind| kind.events).copied().collect();
        let mut derived: Vec<_> = super::catalogue().iter().map(|kind| kind.name).collect();
        declared.sort_unstable();
        derived.sort_unstable();
        assert_eq!(declared, derived);
    }
}

#[cfg(test)]
pub(crate) mod test_support {
    use chrono::DateTime;
    use uuid::Uuid;

    use crate::{AnyId, Context, TenantId};

    /// A fixed moment, tenant and key.
    pub(crate) fn ctx() -> Context {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Context::new(TenantId::from(Uuid::from_u128(1)), AnyId::new("key", Uuid::from_u128(2)), now)
    }
}
