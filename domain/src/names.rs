//! The permanent names of the house, in one table: once stored or handed out, none of them may change.

/// A kind of stream: what is stored in `events.stream_type`, and the prefix of its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamType {
    /// `context.noun`, as stored.
    pub name: &'static str,
    /// Three letters before the underscore of an id.
    pub prefix: &'static str,
    /// The events that such a stream may hold, as stored.
    pub events: &'static [&'static str],
}

impl StreamType {
    /// The context that the stream belongs to: what stands before the dot.
    pub fn context(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }
}

macro_rules! stream_types {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $prefix:literal, [$($event:literal),* $(,)?];)*) => {
        $($(#[$doc])* pub const $constant: StreamType = StreamType { name: $name, prefix: $prefix, events: &[$($event),*] };)*
        /// Every stream type of the house.
        pub const STREAM_TYPES: &[StreamType] = &[$($constant),*];
    };
}

stream_types! {
    /// A customer of ours; a tenant's first event opens its log.
    TENANT = "tenancy.tenant", "ten", ["tenant.created"];
    /// A key that a tenant's programs authenticate with.
    API_KEY = "identity.api_key", "key", ["api_key.created", "api_key.revoked"];
    /// A person who buys from a tenant.
    CUSTOMER = "commerce.customer", "cus",
        ["customer.created", "customer.changed", "customer.erasure_begun", "customer.erased"];
    /// A purchase.
    ORDER = "commerce.order", "ord", ["order.placed", "order.refunded"];
    /// What a person asks to be done with their data.
    PRIVACY_REQUEST = "privacy.request", "prq",
        ["privacy_request.received", "privacy_request.approved", "privacy_request.cancelled",
         "privacy_request.started", "privacy_request.completed"];
    /// A note about a customer.
    NOTE = "crm.note", "nte", ["note.written", "note.rewritten", "note.archived"];
    /// The process that carries an approved erasure out.
    ERASURE = "privacy.erasure", "era", ["erasure.stepped", "erasure.settled"];
    /// The clock of a tenant that was made for tests.
    TEST_CLOCK = "tenancy.test_clock", "clk",
        ["test_clock.started", "test_clock.advance_begun", "test_clock.advanced"];
    /// What a tenant's work is given to: a program or a language model behind a URL.
    AGENT = "agents.agent", "agt", ["agent.created", "agent.configured"];
    /// One piece of work that an agent is given.
    RUN = "agents.run", "run",
        ["run.requested", "run.attempt_started", "run.attempt_failed", "run.succeeded", "run.failed", "run.timed_out",
         "run.cancelled"];
    /// What a tenant sells by the month or the year.
    PLAN = "billing.plan", "pln", ["plan.created", "plan.renamed"];
    /// A customer on a plan.
    SUBSCRIPTION = "billing.subscription", "sub",
        ["subscription.started", "subscription.changed", "subscription.renewed",
         "subscription.cancellation_scheduled", "subscription.reactivated", "subscription.cancelled"];
    /// History that somebody takes out, as files.
    REPLAY = "audit.replay", "rpl", ["replay.requested"];
}

/// Prefix of the ids of the house's own actors (processes, the command line).
pub const SYSTEM_PREFIX: &str = "sys";

/// What a key may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// As it stands in a key, `context:verb`.
    pub name: &'static str,
    /// What it allows, in a sentence.
    pub about: &'static str,
}

macro_rules! scopes {
    ($($constant:ident = $name:literal, $about:literal;)*) => {
        $(#[doc = $about] pub const $constant: Scope = Scope { name: $name, about: $about };)*
        /// Every scope of the house.
        pub const SCOPES: &[Scope] = &[$($constant),*];
    };
}

scopes! {
    COMMERCE_READ = "commerce:read", "Reads customers and orders.";
    COMMERCE_WRITE = "commerce:write", "Creates and changes customers and orders.";
    CRM_READ = "crm:read", "Reads notes about customers.";
    CRM_WRITE = "crm:write", "Writes and archives notes about customers.";
    BILLING_READ = "billing:read", "Reads plans and subscriptions.";
    BILLING_WRITE = "billing:write", "Creates and changes plans and subscriptions.";
    PRIVACY_READ = "privacy:read", "Reads privacy requests.";
    PRIVACY_WRITE = "privacy:write", "Files and cancels privacy requests.";
    PRIVACY_APPROVE = "privacy:approve", "Approves privacy requests that another principal filed.";
    PERSONAL_READ = "personal:read", "Sees personal fields in the clear; without it they are null.";
    ANALYTICS_READ = "analytics:read", "Reads reports and key figures.";
    AGENTS_READ = "agents:read", "Reads agents, their runs and figures.";
    AGENTS_WRITE = "agents:write", "Creates, configures and executes agents, and cancels runs.";
    TENANCY_READ = "tenancy:read", "Reads the clock of a test tenant.";
    TENANCY_WRITE = "tenancy:write", "Advances the clock of a test tenant.";
    AUDIT_READ = "audit:read", "Reads the audit trail and the event history.";
    AUDIT_WRITE = "audit:write", "Makes replays, which take the event history out as files.";
    OPERATIONS_READ = "operations:read", "Sees how the house is, whatever the tenant: for those who run it.";
    OPERATIONS_WRITE = "operations:write", "Pauses, retries and rebuilds projections: for those who run the house.";
}

/// The scope of that name, if there is one.
pub fn scope(name: &str) -> Option<Scope> {
    SCOPES.iter().copied().find(|scope| scope.name == name)
}

/// The stream type of that stored name, if there is one.
pub fn stream_type(name: &str) -> Option<StreamType> {
    STREAM_TYPES.iter().copied().find(|kind| kind.name == name)
}

/// The stream type whose ids have that prefix, if there is one.
pub fn stream_type_of_prefix(prefix: &str) -> Option<StreamType> {
    STREAM_TYPES.iter().copied().find(|kind| kind.prefix == prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_in_the_house() {
        let mut seen = HashSet::new();
        for kind in STREAM_TYPES {
            assert!(seen.insert(kind.name), "{} twice", kind.name);
            assert!(seen.insert(kind.prefix), "{} twice", kind.prefix);
            assert!(kind.prefix.len() == 3 && kind.name.contains('.'));
            for event in kind.events {
                assert!(seen.insert(event), "{event} twice");
            }
        }
        for scope in SCOPES {
            assert!(seen.insert(scope.name), "{} twice", scope.name);
        }
    }
}
