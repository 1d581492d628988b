//! The facts behind the reports: each order and each refund, each customer, and which orders were its first. All of them
//! have the sequence from which on they hold, so that a report of an earlier moment is one with an earlier bound.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::commerce::OrderEvent;
use domain::{Money, TypedId, names};
use eventstore::RecordedEvent;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projector::{ProjectError, Projector, decode};

/// The projector and the table of orders and refunds.
pub const ANALYTICS_SALES: &str = "analytics_sales";
/// The table of customers: one fact for each that was ever created, the erased among them.
pub(super) const CUSTOMERS: &str = "analytics_customers";
/// The table of orders that were earlier than all that had been known of their customers before. An earlier order may come
/// late and move the customer's whole history, so the first order up to a sequence is the earliest of these up to it.
pub(super) const FIRST_ORDERS: &str = "analytics_first_orders";

/// Raised whenever the same events would give other rows.
pub(super) const REVISION: i32 = 2;

/// Keeps the facts.
pub(crate) struct Sales;

/// An order or a refund.
struct Sale<'a> {
    event: &'a RecordedEvent,
    kind: &'static str,
    customer: Uuid,
    amount: Money,
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
        &[ANALYTICS_SALES, CUSTOMERS, FIRST_ORDERS]
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
        let (mut sales, mut customers) = (Vec::with_capacity(events.len()), Vec::new());
        for event in events {
            if event.stream_type == names::ORDER.name {
                sales.extend(sale(event)?);
            } else if event.version == 1 {
                customers.push(&**event);
            }
        }
        insert(generation, &sales, conn).await?;
        insert_customers(generation, &customers, conn).await?;
        insert_first_orders(generation, &first_orders(&sales), conn).await
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

async fn insert_customers(
    generation: i32,
    created: &[&RecordedEvent],
    conn: &mut PgConnection,
) -> Result<(), ProjectError> {
    if created.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO analytics_customers (generation, tenant_id, customer_id, sequence, occurred_at)
         SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[])",
    )
    .bind(generation)
    .bind(created.iter().map(|event| event.tenant_id).collect::<Vec<_>>())
    .bind(created.iter().map(|event| event.stream_id).collect::<Vec<_>>())
    .bind(created.iter().map(|event| event.sequence).collect::<Vec<_>>())
    .bind(created.iter().map(|event| event.occurred_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The orders that are earlier than all that stand before them here, of each customer.
fn first_orders<'a, 'b>(sales: &'b [Sale<'a>]) -> Vec<&'b Sale<'a>> {
    let mut earliest = BTreeMap::<(Uuid, Uuid), DateTime<Utc>>::new();
    let orders = sales.iter().filter(|sale| sale.kind == "order");
    let first = orders.filter(|order| match earliest.entry((order.event.tenant_id, order.customer)) {
        Entry::Occupied(known) if *known.get() <= order.event.occurred_at => false,
        Entry::Occupied(mut known) => {
            known.insert(order.event.occurred_at);
            true
        }
        Entry::Vacant(unknown) => {
            unknown.insert(order.event.occurred_at);
            true
        }
    });
    first.collect()
}

/// An order counts that nothing known before it precedes; those after it that do not come before it count no more. So the
/// rows are the same in whatever order the streams of orders are read: one that was parked is read late.
async fn insert_first_orders(
    generation: i32,
    orders: &[&Sale<'_>],
    conn: &mut PgConnection,
) -> Result<(), ProjectError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH told AS (
            SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[])
                AS told (tenant_id, customer_id, sequence, first_order_at)
         ), passed AS (
            DELETE FROM analytics_first_orders known USING told
            WHERE known.generation = $1 AND known.tenant_id = told.tenant_id AND known.customer_id = told.customer_id
                AND known.sequence > told.sequence AND known.first_order_at >= told.first_order_at
         )
         INSERT INTO analytics_first_orders (generation, tenant_id, customer_id, sequence, first_order_at)
         SELECT $1, * FROM told WHERE NOT EXISTS (
            SELECT FROM analytics_first_orders known
            WHERE known.generation = $1 AND known.tenant_id = told.tenant_id AND known.customer_id = told.customer_id
                AND known.sequence < told.sequence AND known.first_order_at <= told.first_order_at)",
    )
    .bind(generation)
    .bind(orders.iter().map(|order| order.event.tenant_id).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.customer).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.event.sequence).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.event.occurred_at).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use domain::CustomerId;
    use domain::commerce::OrderLine;
    use eventstore::{Role, new_id};
    use sqlx::Connection;

    use super::*;
    use crate::test_support::{House, Place, at, money, recorded};

    /// A customer's orders, by the day on which they were placed, in the order of the log.
    fn orders(tenant: Uuid, days: &[i64]) -> Vec<Arc<RecordedEvent>> {
        let (customer, total) = (CustomerId::from(new_id()), money(100, "USD"));
        let placed = |(number, day): (usize, &i64)| {
            let line = OrderLine { sku: "cd".parse().unwrap(), name: None, quantity: 1, unit_price: None, total };
            let event = OrderEvent::Placed { external_id: None, customer, lines: vec![line], total };
            let place = Place { tenant, sequence: number as i64 + 1, stream: new_id(), version: 1 };
            recorded(place, names::ORDER.name, &event, at("2026-01-01T00:00:00Z") + TimeDelta::days(*day))
        };
        days.iter().enumerate().map(placed).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn first_orders_are_the_same_in_whatever_order_streams_are_read() {
        let Some(house) = House::open().await else { return };
        let days = [5, 7, 3, 3, 9, 1];
        for turn in 0..days.len() * 2 {
            let tenant = new_id();
            let mut events = orders(tenant, &days);
            events.rotate_left(turn / 2);
            if turn % 2 == 1 {
                events.reverse();
            }
            // One by one, as streams that were parked are read; and all at once, as they lie in the log.
            let batches: Vec<_> = events.chunks(if turn == 0 { days.len() } else { 1 }).collect();
            house.take(&Sales, &batches).await;
            let mut conn = PgConnection::connect_with(&house.dsn.options(Role::Projector).unwrap()).await.unwrap();
            let rows: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
                "SELECT sequence, first_order_at FROM analytics_first_orders WHERE tenant_id = $1 ORDER BY sequence",
            )
            .bind(tenant)
            .fetch_all(&mut conn)
            .await
            .unwrap();
            let found = rows.iter().map(|(sequence, at)| (*sequence, at.format("%-d").to_string()));
            let expected = [(1, "6"), (3, "4"), (6, "2")].map(|(sequence, day)| (sequence, day.to_owned()));
            assert_eq!(found.collect::<Vec<_>>(), expected, "turn {turn}");
        }
        house.close().await;
    }
}
