//! The facts of monthly recurring revenue (MRR): each event that starts, changes or ends what a subscription brings in
//! a month. What kind of movement it is follows from all that came before it, so it is decided when it is asked for.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::billing::SubscriptionEvent;
use domain::{CustomerId, Money, TypedId, names};
use eventstore::RecordedEvent;
use sqlx::PgConnection;

use crate::projector::{ProjectError, Projector, decode};
use crate::read_models::active;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

/// The projector and the table of what moves recurring revenue.
pub const ANALYTICS_MRR: &str = "analytics_mrr";

/// Raised whenever the same events would give other rows.
pub(super) const REVISION: i32 = 1;

/// Keeps the facts.
pub(crate) struct Mrr;

/// What an event does to recurring revenue.
struct Moved<'a> {
    event: &'a RecordedEvent,
    customer: CustomerId,
    /// When it moved.
    at: DateTime<Utc>,
    /// What the subscription brings in a month, after the event less before it; both in one currency.
    delta: i64,
    /// How many more subscriptions run.
    active_delta: i16,
    currency: String,
}

#[async_trait]
impl Projector for Mrr {
    fn name(&self) -> &'static str {
        ANALYTICS_MRR
    }

    fn revision(&self) -> i32 {
        REVISION
    }

    fn tables(&self) -> &'static [&'static str] {
        &[ANALYTICS_MRR]
    }

    fn interested(&self, stream_type: &str) -> bool {
        stream_type == names::SUBSCRIPTION.name
    }

    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let moved = events.iter().filter_map(|event| moved(event).transpose());
        insert(generation, &moved.collect::<Result<Vec<_>, _>>()?, conn).await
    }
}

fn moved(event: &RecordedEvent) -> Result<Option<Moved<'_>>, ProjectError> {
    use SubscriptionEvent as E;
    let of = |customer, before: i64, after: i64, money: Money, active_delta| Moved {
        event,
        customer,
        at: event.occurred_at,
        delta: after - before,
        active_delta,
        currency: money.currency.to_string(),
    };
    Ok(match decode::<E>(event)? {
        Some(E::Started { customer, mrr, .. }) => Some(of(customer, 0, mrr.amount, mrr, 1)),
        Some(E::Changed { customer, mrr_before, mrr, .. }) => Some(of(customer, mrr_before.amount, mrr.amount, mrr, 0)),
        // An end that was told late is still at its moment.
        Some(E::Cancelled { customer, at, mrr_before, .. }) => {
            Some(Moved { at, ..of(customer, mrr_before.amount, 0, mrr_before, -1) })
        }
        Some(E::Renewed { .. } | E::CancellationScheduled { .. } | E::Reactivated { .. }) | None => None,
    })
}

async fn insert(generation: i32, moved: &[Moved<'_>], conn: &mut PgConnection) -> Result<(), ProjectError> {
    if moved.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO analytics_mrr (generation, tenant_id, sequence, subscription_id, customer_id, occurred_at,
            currency, delta, active_delta)
         SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::uuid[], $5::uuid[], $6::timestamptz[], $7::text[],
            $8::bigint[], $9::smallint[])",
    )
    .bind(generation)
    .bind(moved.iter().map(|moved| moved.event.tenant_id).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.event.sequence).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.event.stream_id).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.customer.uuid()).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.at).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.currency.as_str()).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.delta).collect::<Vec<_>>())
    .bind(moved.iter().map(|moved| moved.active_delta).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Every fact of the tenant $1 up to a sequence and before a moment (both as SQL), and what kind of movement it is, by
/// customer and currency in the order of occurrence, as ChartMogul has it
/// (<https://help.chartmogul.com/hc/en-us/articles/201244842>): what brings a customer up from nothing is `new` the first
/// time and `reactivation` after that, more of something is `expansion`, what leaves nothing is `churn`, and less
/// `contraction`. None where nothing moves.
pub(super) fn movements_sql(sequence: &str, before: &str) -> String {
    format!(
        "SELECT sequence, occurred_at, customer_id, currency, delta, active_delta,
            CASE
                WHEN delta > 0 AND total <> delta THEN 'expansion'
                WHEN delta > 0 AND coalesce(max(total) OVER earlier, 0) > 0 THEN 'reactivation'
                WHEN delta > 0 THEN 'new'
                WHEN delta < 0 AND total = 0 THEN 'churn'
                WHEN delta < 0 THEN 'contraction'
            END AS movement
        FROM (
            SELECT sequence, occurred_at, customer_id, currency, delta, active_delta,
                sum(delta) OVER (PARTITION BY customer_id, currency ORDER BY occurred_at, sequence
                    ROWS UNBOUNDED PRECEDING) AS total
            FROM analytics_mrr
            WHERE generation = {} AND tenant_id = $1 AND sequence <= {sequence} AND occurred_at < {before}
        ) totals
        WINDOW earlier AS (PARTITION BY customer_id, currency ORDER BY occurred_at, sequence
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
        active(ANALYTICS_MRR)
    )
}

/// What was lost as a fraction of the MRR at the start: gross, and net of what was won from customers who were there or
/// came back. `gross = (churn + contraction) / start` and `net = (churn + contraction - expansion - reactivation) /
/// start`, as ChartMogul has it (<https://help.chartmogul.com/hc/en-us/articles/203359341>, its standard setting); none
/// where there was nothing at the start.
pub(super) fn churn_rates(start: i64, lost: i64, won: i64) -> (Option<f64>, Option<f64>) {
    let rate = |amount: f64| (start > 0).then(|| amount / start as f64);
    (rate(lost as f64), rate(lost as f64 - won as f64))
}
