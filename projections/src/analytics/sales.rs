//! The facts behind the reports: each order and each refund, and since when each customer buys.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::commerce::OrderEvent;
use domain::{Money, TypedId, names};
use eventstore::RecordedEvent;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projector::{ProjectError, Projector, decode};

/// The projector and the table of orders and refunds; `analytics_customers` is written with it.
pub const ANALYTICS_SALES: &str = "analytics_sales";

/// Raised whenever the same events would give other rows.
pub(super) const REVISION: i32 = 1;

/// Keeps the facts.
pub(crate) struct Sales;

/// An order or a refund.
struct Sale<'a> {
    event: &'a RecordedEvent,
    kind: &'static str,
    customer: Uuid,
    amount: Money,
}

/// What a batch says about a customer: the earliest of its orders in it, and how many they are.
#[derive(Default)]
struct Bought {
    first_order_at: Option<DateTime<Utc>>,
    orders: i64,
}

#[async_trait]
impl Projector for Sales {
    fn name(&self) -> &'static str {
        ANALYTICS_SALES
    }

    fn revision(&self) -> i32 {
        REVISION
    }

    fn tables(&self) -> &'static [&'static str] {
        &[ANALYTICS_SALES, "analytics_customers"]
    }

    fn interested(&self, stream_type: &str) -> bool {
        stream_type == names::ORDER.name || stream_type == names::CUSTOMER.name
    }

    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let mut sales = Vec::with_capacity(events.len());
        let mut customers = BTreeMap::<(Uuid, Uuid), Bought>::new();
        for event in events {
            if event.stream_type == names::CUSTOMER.name {
                // From its first event on a customer counts, also without any order, also when erased.
                if event.version == 1 {
                    customers.entry((event.tenant_id, event.stream_id)).or_default();
                }
                continue;
            }
            let Some(sale) = sale(event)? else { continue };
            if sale.kind == "order" {
                let bought = customers.entry((event.tenant_id, sale.customer)).or_default();
                let first = bought.first_order_at.map_or(event.occurred_at, |at| at.min(event.occurred_at));
                bought.first_order_at = Some(first);
                bought.orders += 1;
            }
            sales.push(sale);
        }
        insert(generation, &sales, conn).await?;
        upsert(generation, &customers, conn).await
    }
}

fn sale(event: &RecordedEvent) -> Result<Option<Sale<'_>>, ProjectError> {
    Ok(decode::<OrderEvent>(event)?.map(|order| match order {
        OrderEvent::Placed { customer, total, .. } => {
            Sale { event, kind: "order", customer: customer.uuid(), amount: total }
        }
        OrderEvent::Refunded { customer, amount, .. } => {
            Sale { event, kind: "refund", customer: customer.uuid(), amount }
        }
    }))
}

async fn insert(generation: i32, sales: &[Sale<'_>], conn: &mut PgConnection) -> Result<(), ProjectError> {
    if sales.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO analytics_sales
            (generation, tenant_id, sequence, kind, order_id, customer_id, occurred_at, currency, amount)
         SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::uuid[], $6::uuid[], $7::timestamptz[],
            $8::text[], $9::bigint[])",
    )
    .bind(generation)
    .bind(sales.iter().map(|sale| sale.event.tenant_id).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.event.sequence).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.kind).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.event.stream_id).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.customer).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.event.occurred_at).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.amount.currency.to_string()).collect::<Vec<_>>())
    .bind(sales.iter().map(|sale| sale.amount.amount).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// An earlier order that comes late moves `first_order_at`, and with it the customer's whole history.
async fn upsert(
    generation: i32,
    customers: &BTreeMap<(Uuid, Uuid), Bought>,
    conn: &mut PgConnection,
) -> Result<(), ProjectError> {
    if customers.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO analytics_customers AS known (generation, tenant_id, customer_id, first_order_at, orders)
         SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[])
         ON CONFLICT (generation, tenant_id, customer_id) DO UPDATE
         SET first_order_at = least(known.first_order_at, excluded.first_order_at),
             orders = known.orders + excluded.orders",
    )
    .bind(generation)
    .bind(customers.keys().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(customers.keys().map(|(_, customer)| *customer).collect::<Vec<_>>())
    .bind(customers.values().map(|bought| bought.first_order_at).collect::<Vec<_>>())
    .bind(customers.values().map(|bought| bought.orders).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}
