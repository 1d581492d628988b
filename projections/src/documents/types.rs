//! The resources that are documents. A new one takes an `impl` here, a line in [`DOCUMENTS`] and a line of migration.

use domain::TypedId;
use domain::agents::Agent;
use domain::audit::Replay;
use domain::billing::{Plan, Subscription};
use domain::commerce::{Customer, Order};
use domain::crm::Note;
use domain::identity::ApiKey;
use domain::privacy::PrivacyRequest;
use domain::tenancy::Tenant;

use super::{Column, DocumentType, Documented, id, of, text, word};

/// Every document type of the house.
pub const DOCUMENTS: &[DocumentType] = &[
    of::<Tenant>(),
    of::<ApiKey>(),
    of::<Customer>(),
    of::<Order>(),
    of::<PrivacyRequest>(),
    of::<Note>(),
    of::<Plan>(),
    of::<Subscription>(),
    of::<Agent>(),
    of::<Replay>(),
];

impl Documented for Tenant {
    const TABLE: &'static str = "tenancy_tenants";
    const COLUMNS: &'static [Column<Self>] = &[text("status", |tenant| word(&tenant.status))];
}

impl Documented for ApiKey {
    const TABLE: &'static str = "identity_api_keys";
    const COLUMNS: &'static [Column<Self>] = &[text("status", |key| word(&key.status))];
}

impl Documented for Customer {
    const TABLE: &'static str = "commerce_customers";
    const HISTORY: Option<&'static str> = Some("commerce_customers_history");
    const COLUMNS: &'static [Column<Self>] = &[
        text("country", |customer| customer.country.as_ref().and_then(word)),
        text("status", |customer| word(&customer.status)),
    ];
}

impl Documented for Order {
    const TABLE: &'static str = "commerce_orders";
    const HISTORY: Option<&'static str> = Some("commerce_orders_history");
    const COLUMNS: &'static [Column<Self>] = &[
        id("customer_id", |order| Some(order.customer.uuid())),
        text("status", |order| word(&order.status)),
        text("currency", |order| order.total.map(|total| total.currency.to_string())),
    ];
}

impl Documented for PrivacyRequest {
    const TABLE: &'static str = "privacy_requests";
    const COLUMNS: &'static [Column<Self>] =
        &[id("customer_id", |request| Some(request.customer.uuid())), text("status", |request| word(&request.status))];
}

impl Documented for Note {
    const TABLE: &'static str = "crm_notes";
    const COLUMNS: &'static [Column<Self>] = &[
        id("customer_id", |note| Some(note.customer.uuid())),
        text("status", |note| word(&note.status)),
        text("kind", |note| word(&note.kind)),
    ];
}

impl Documented for Plan {
    const TABLE: &'static str = "billing_plans";
    const COLUMNS: &'static [Column<Self>] = &[text("status", |plan| word(&plan.status))];
}

impl Documented for Subscription {
    const TABLE: &'static str = "billing_subscriptions";
    const HISTORY: Option<&'static str> = Some("billing_subscriptions_history");
    const COLUMNS: &'static [Column<Self>] = &[
        id("customer_id", |subscription| Some(subscription.customer.uuid())),
        id("plan_id", |subscription| Some(subscription.plan.uuid())),
        text("status", |subscription| word(&subscription.status)),
    ];
}

impl Documented for Agent {
    const TABLE: &'static str = "agents_agents";
    const HISTORY: Option<&'static str> = Some("agents_agents_history");
    const COLUMNS: &'static [Column<Self>] =
        &[text("kind", |agent| word(&agent.kind)), text("status", |agent| word(&agent.status))];
}

impl Documented for Replay {
    const TABLE: &'static str = "audit_replays";
    const COLUMNS: &'static [Column<Self>] =
        &[text("format", |replay| word(&replay.format)), text("status", |replay| word(&replay.status))];
}
