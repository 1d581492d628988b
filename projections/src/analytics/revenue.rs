//! What came in and what was given back, by period and currency.

use chrono::{DateTime, Utc};
use domain::Currency;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::sales::ANALYTICS_SALES;
use super::{Amount, Range, currency, fold_of};
use crate::read_models::{ReadError, ReadModels, active};

/// Revenue by period and currency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Revenue {
    /// The tenant's sequence that the figures stand at.
    pub sequence: i64,
    /// Oldest first; periods between the first and the last with anything in them are all there.
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
}

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 1;

/// How the report is made, as a hash.
pub fn fold() -> String {
    fold_of(REVISION, &[&revenue_sql()])
}

/// The most periods that the report may have: three years of days.
const MOST_PERIODS: i32 = 1_100;

impl ReadModels {
    /// Revenue of a tenant by period and currency. Periods begin at midnight of the range's time zone.
    pub async fn revenue(&self, tenant: Uuid, range: &Range) -> Result<Revenue, ReadError> {
        self.check_time_zone(&range.time_zone).await?;
        let (mut tx, sequence) = self.snapshot(ANALYTICS_SALES, tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(revenue_sql()))
            .bind(tenant)
            .bind(range.from)
            .bind(range.to)
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(range.interval.step())
            .bind(range.interval.label())
            .bind(MOST_PERIODS)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let periods = rows.iter().map(period).collect::<Result<Vec<_>, _>>()?;
        let mut seen = periods.iter().map(|period| period.starts_at).collect::<Vec<_>>();
        seen.dedup();
        if seen.len() > MOST_PERIODS as usize {
            return Err(ReadError::TooManyPeriods { most: MOST_PERIODS });
        }
        Ok(Revenue { sequence, periods })
    }
}

/// Sums by period, then every period between the first and the last (one more than allowed at most) with every currency
/// that occurs.
fn revenue_sql() -> String {
    format!(
        "WITH sums AS (
            SELECT date_trunc($4, occurred_at AT TIME ZONE $5) AS period, currency,
                count(*) FILTER (WHERE kind = 'order') AS orders,
                coalesce(sum(amount) FILTER (WHERE kind = 'order'), 0) AS revenue,
                coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunds
            FROM analytics_sales
            WHERE generation = {} AND tenant_id = $1
                AND occurred_at >= coalesce($2, '-infinity'::timestamptz)
                AND occurred_at < coalesce($3, 'infinity'::timestamptz)
            GROUP BY 1, 2
        ), periods AS (
            SELECT generate_series(min(period), least(max(period), min(period) + $8 * $6::interval), $6::interval)
                AS period
            FROM sums
        )
        SELECT to_char(p.period, $7), p.period AT TIME ZONE $5, c.currency, coalesce(s.orders, 0),
            coalesce(s.revenue, 0)::bigint, coalesce(s.refunds, 0)::bigint
        FROM periods p
        CROSS JOIN (SELECT DISTINCT currency FROM sums) c
        LEFT JOIN sums s ON s.period = p.period AND s.currency = c.currency
        ORDER BY p.period, c.currency",
        active(ANALYTICS_SALES)
    )
}

fn period(row: &PgRow) -> Result<RevenuePeriod, ReadError> {
    let currency = currency(row.try_get(2)?)?;
    let (revenue, refunds): (i64, i64) = (row.try_get(4)?, row.try_get(5)?);
    Ok(RevenuePeriod {
        period: row.try_get(0)?,
        starts_at: row.try_get(1)?,
        currency,
        orders: row.try_get(3)?,
        order_revenue: Amount { amount: revenue, currency },
        refunds: Amount { amount: refunds, currency },
        // Both are sums of amounts that are never negative, so their difference can't overflow.
        net: Amount { amount: revenue - refunds, currency },
    })
}
