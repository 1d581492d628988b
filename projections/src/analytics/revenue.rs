//! What came in, what was given back and what comes in every month, by period and currency.

use chrono::{DateTime, Utc};
use domain::Currency;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::mrr::{self, ANALYTICS_MRR, churn_rates, movements_sql};
use super::sales::{self, ANALYTICS_SALES};
use super::{Amount, Range, currency, fold_of};
use crate::read_models::{ReadError, ReadModels, active};
use crate::standpoint::Standpoint;

/// Revenue by period and currency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Revenue {
    /// The tenant's sequence that the figures stand at.
    pub sequence: i64,
    /// Oldest first; periods between the first and the last with anything in them are all there: orders, refunds,
    /// subscriptions that begin, change or end, or MRR, which goes on to the running period.
    pub periods: Vec<RevenuePeriod>,
}

/// One currency in one period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RevenuePeriod {
    /// `1997-01-05`, `1997-W02` or `1997-01`.
    pub period: String,
    /// When it begins.
    pub starts_at: DateTime<Utc>,
    /// Currency code of ISO 4217.
    pub currency: Currency,
    /// How many orders were placed.
    pub orders: i64,
    /// What they cost.
    pub order_revenue: Amount,
    /// What was given back, counted when it was, not when the order was placed.
    pub refunds: Amount,
    /// The difference; negative where more was given back than came in.
    pub net: Amount,
    /// Monthly recurring revenue at the period's end (before the range's, where that ends earlier); of the running period
    /// as of the newest event. Always `mrr at the period's start + new + expansion + reactivation - contraction - churn`.
    pub mrr: Amount,
    /// How it came from that of the period's start to that of its end.
    pub mrr_movements: MrrMovements,
    /// How many subscriptions run at the period's end.
    pub active_subscriptions: i64,
    /// `(churn + contraction) / mrr at the period's start`; none where that was nothing.
    pub gross_mrr_churn_rate: Option<f64>,
    /// `(churn + contraction - expansion - reactivation) / mrr at the period's start`; none where that was nothing.
    pub net_mrr_churn_rate: Option<f64>,
}

/// What moves monthly recurring revenue, told apart by customer: what a customer's subscriptions in one currency bring
/// before and after. None is ever negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MrrMovements {
    /// Of customers who never brought any before.
    pub new: Amount,
    /// More of customers who brought some.
    pub expansion: Amount,
    /// Less of customers who still bring some; it is taken off.
    pub contraction: Amount,
    /// Of customers who bring none any more; it is taken off.
    pub churn: Amount,
    /// Of customers who brought some once, then none, and came back.
    pub reactivation: Amount,
}

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 2;

/// How the report is made, as a hash.
pub fn fold() -> String {
    fold_of(&READ, REVISION, &[&revenue_sql()])
}

/// What the report is read from.
pub(super) const READ: [(&str, i32); 2] = [(ANALYTICS_SALES, sales::REVISION), (ANALYTICS_MRR, mrr::REVISION)];

/// The most periods that the report may have: three years of days.
const MOST_PERIODS: i32 = 1_100;

impl ReadModels {
    /// Revenue of a tenant by period and currency. Periods begin at midnight of the range's time zone. While there is MRR,
    /// the report goes on to the period of the standpoint's time. It stands at the lower of the sequences that its two read
    /// models have seen ([`ANALYTICS_SALES`], [`ANALYTICS_MRR`]), or at the standpoint's.
    pub async fn revenue(&self, tenant: Uuid, range: &Range, standpoint: &Standpoint) -> Result<Revenue, ReadError> {
        self.check_time_zone(&range.time_zone).await?;
        let (mut tx, sequences) = self.stand(tenant, standpoint, READ).await?;
        let sequence = sequences.into_iter().min().unwrap_or_default();
        let rows: Vec<Figures> = sqlx::query_as(AssertSqlSafe(revenue_sql()))
            .bind(tenant)
            .bind(range.from)
            .bind(standpoint.before(range.to))
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(range.interval.step())
            .bind(range.interval.label())
            .bind(MOST_PERIODS)
            .bind(sequence)
            .bind(standpoint.last(range.to))
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let periods = rows.into_iter().map(period).collect::<Result<Vec<_>, _>>()?;
        let mut seen = periods.iter().map(|period| period.starts_at).collect::<Vec<_>>();
        seen.dedup();
        if seen.len() > MOST_PERIODS as usize {
            return Err(ReadError::TooManyPeriods { most: MOST_PERIODS });
        }
        Ok(Revenue { sequence, periods })
    }
}

/// Sums by period, then every period between the first and the last (one more than allowed at most) with every currency
/// that occurs. MRR is what there was before the range and all that moved it since.
fn revenue_sql() -> String {
    format!(
        "WITH {facts}, edges AS (
            SELECT period FROM sums
            UNION ALL
            SELECT period FROM moved
            UNION ALL
            SELECT date_trunc($4, $2 AT TIME ZONE $5)
            WHERE $2 <= $10 AND EXISTS (SELECT FROM opening WHERE mrr <> 0)
        ), going_on AS (
            SELECT date_trunc($4, $10 AT TIME ZONE $5) AS period
            WHERE EXISTS (SELECT FROM movements GROUP BY currency HAVING sum(delta) <> 0)
        ), bounds AS (
            SELECT min(period) AS first, greatest(max(period), (SELECT period FROM going_on)) AS last FROM edges
        ), periods AS (
            SELECT generate_series(first, least(last, first + $8 * $6::interval), $6::interval) AS period FROM bounds
        ), currencies AS (
            SELECT currency FROM sums
            UNION
            SELECT currency FROM moved
            UNION
            SELECT currency FROM opening WHERE mrr <> 0 OR active <> 0
        ), cells AS (
            SELECT p.period, c.currency, s.orders, s.revenue, s.refunds, m.delta, m.new, m.expansion, m.contraction,
                m.churn, m.reactivation,
                coalesce(o.mrr, 0) + sum(coalesce(m.delta, 0)) OVER until_then AS mrr,
                coalesce(o.active, 0) + sum(coalesce(m.active, 0)) OVER until_then AS active_subscriptions
            FROM periods p
            CROSS JOIN currencies c
            LEFT JOIN sums s ON s.period = p.period AND s.currency = c.currency
            LEFT JOIN moved m ON m.period = p.period AND m.currency = c.currency
            LEFT JOIN opening o ON o.currency = c.currency
            WINDOW until_then AS (PARTITION BY c.currency ORDER BY p.period)
        )
        SELECT to_char(period, $7) AS period, period AT TIME ZONE $5 AS starts_at, currency,
            coalesce(orders, 0) AS orders, coalesce(revenue, 0)::bigint AS revenue,
            coalesce(refunds, 0)::bigint AS refunds, mrr::bigint AS mrr,
            (mrr - coalesce(delta, 0))::bigint AS mrr_before, coalesce(new, 0)::bigint AS new,
            coalesce(expansion, 0)::bigint AS expansion, coalesce(contraction, 0)::bigint AS contraction,
            coalesce(churn, 0)::bigint AS churn, coalesce(reactivation, 0)::bigint AS reactivation,
            active_subscriptions::bigint AS active_subscriptions
        FROM cells ORDER BY cells.period, currency",
        facts = facts_sql()
    )
}

/// What the facts of the range come to: `sums` of orders and refunds by period, all `movements` of MRR, what `moved` it by
/// period, and the `opening` MRR at the range's beginning.
fn facts_sql() -> String {
    format!(
        "sums AS (
            SELECT date_trunc($4, occurred_at AT TIME ZONE $5) AS period, currency,
                count(*) FILTER (WHERE kind = 'order') AS orders,
                coalesce(sum(amount) FILTER (WHERE kind = 'order'), 0) AS revenue,
                coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunds
            FROM analytics_sales
            WHERE generation = {sales} AND tenant_id = $1 AND sequence <= $9
                AND occurred_at >= coalesce($2, '-infinity'::timestamptz)
                AND occurred_at < coalesce($3, 'infinity'::timestamptz)
            GROUP BY 1, 2
        ), movements AS MATERIALIZED ({movements}), moved AS (
            SELECT date_trunc($4, occurred_at AT TIME ZONE $5) AS period, currency, sum(delta) AS delta,
                sum(active_delta) AS active,
                sum(delta) FILTER (WHERE movement = 'new') AS new,
                sum(delta) FILTER (WHERE movement = 'expansion') AS expansion,
                sum(-delta) FILTER (WHERE movement = 'contraction') AS contraction,
                sum(-delta) FILTER (WHERE movement = 'churn') AS churn,
                sum(delta) FILTER (WHERE movement = 'reactivation') AS reactivation
            FROM movements
            WHERE occurred_at >= coalesce($2, '-infinity'::timestamptz) AND (delta <> 0 OR active_delta <> 0)
            GROUP BY 1, 2
        ), opening AS (
            SELECT currency, sum(delta) AS mrr, sum(active_delta) AS active
            FROM movements WHERE occurred_at < $2 GROUP BY 1
        )",
        sales = active(ANALYTICS_SALES),
        movements = movements_sql("$9", "coalesce($3, 'infinity'::timestamptz)")
    )
}

/// One currency in one period, as the statement has it.
#[derive(sqlx::FromRow)]
struct Figures {
    period: String,
    starts_at: DateTime<Utc>,
    currency: String,
    orders: i64,
    revenue: i64,
    refunds: i64,
    mrr: i64,
    mrr_before: i64,
    new: i64,
    expansion: i64,
    contraction: i64,
    churn: i64,
    reactivation: i64,
    active_subscriptions: i64,
}

fn period(figures: Figures) -> Result<RevenuePeriod, ReadError> {
    let currency = currency(&figures.currency)?;
    let amount = |amount| Amount { amount, currency };
    let sum = |one: i64, other: i64| one.checked_add(other).ok_or(ReadError::SumTooLarge);
    let lost = sum(figures.churn, figures.contraction)?;
    let won = sum(figures.expansion, figures.reactivation)?;
    let (gross_mrr_churn_rate, net_mrr_churn_rate) = churn_rates(figures.mrr_before, lost, won);
    Ok(RevenuePeriod {
        period: figures.period,
        starts_at: figures.starts_at,
        currency,
        orders: figures.orders,
        order_revenue: amount(figures.revenue),
        refunds: amount(figures.refunds),
        // Both are sums of amounts that are never negative, so their difference can't overflow.
        net: amount(figures.revenue - figures.refunds),
        mrr: amount(figures.mrr),
        mrr_movements: MrrMovements {
            new: amount(figures.new),
            expansion: amount(figures.expansion),
            contraction: amount(figures.contraction),
            churn: amount(figures.churn),
            reactivation: amount(figures.reactivation),
        },
        active_subscriptions: figures.active_subscriptions,
        gross_mrr_churn_rate,
        net_mrr_churn_rate,
    })
}
