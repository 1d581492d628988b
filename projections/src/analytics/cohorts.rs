//! What becomes of the customers who first bought in the same period.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::sales::{self, ANALYTICS_SALES, FIRST_ORDERS};
use super::{Amount, Range, currency, fold_of};
use crate::read_models::{ReadError, ReadModels, active};
use crate::standpoint::{Standpoint, after};

/// Customers by the period of their first order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cohorts {
    /// The tenant's sequence that the figures stand at.
    pub sequence: i64,
    /// Oldest first; periods in which nobody bought for the first time are left out.
    pub cohorts: Vec<Cohort>,
}

/// The customers whose first order of all falls into one period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cohort {
    /// `1997-01` or `1997-W05`.
    pub cohort: String,
    /// How many they are.
    pub customers: i64,
    /// One for each period from the cohort's own on.
    pub cells: Vec<CohortCell>,
}

/// A cohort in one period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CohortCell {
    /// How many periods after the cohort's own; 0 is that one.
    pub offset: i32,
    /// How many of the customers ordered.
    pub active: i64,
    /// Which fraction of the customers that is.
    pub retention: f64,
    /// How many orders they placed.
    pub orders: i64,
    /// What those orders cost, refunds not taken off; one amount for each currency that occurs in the report.
    pub revenue: Vec<Amount>,
    /// Whether the period had passed when the report was made.
    pub complete: bool,
}

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 1;

/// How the report is made, as a hash.
pub fn fold() -> String {
    fold_of(&READ, REVISION, &[&periods_sql(), &cohorts_sql()])
}

/// What the report is read from.
pub(super) const READ: [(&str, i32); 1] = [(ANALYTICS_SALES, sales::REVISION)];

/// The most periods that the report may span: 33 years of months, 7 of weeks. Its cells grow with their square.
const MOST_PERIODS: i32 = 400;

impl ReadModels {
    /// Cohorts of a tenant. No cell begins after the standpoint's time. A customer belongs to the period of its first order
    /// of all, and to none where that lies outside the range; cells count the orders inside it.
    pub async fn cohorts(&self, tenant: Uuid, range: &Range, standpoint: &Standpoint) -> Result<Cohorts, ReadError> {
        self.check_time_zone(&range.time_zone).await?;
        let end = end(range, standpoint);
        let (mut tx, [sequence]) = self.stand(tenant, standpoint, READ).await?;
        let periods = self.periods(tenant, range, end, sequence, &mut tx).await?;
        if periods.len() > MOST_PERIODS as usize {
            return Err(ReadError::TooManyPeriods { most: MOST_PERIODS });
        }
        let rows: Vec<Figures> = sqlx::query_as(AssertSqlSafe(cohorts_sql()))
            .bind(tenant)
            .bind(range.from)
            .bind(end)
            .bind(sequence)
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(range.interval.label())
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Cohorts { sequence, cohorts: triangle(&periods, &rows)? })
    }

    /// The periods from the first cohort's to the one before `end`; one more than allowed at most.
    async fn periods(
        &self,
        tenant: Uuid,
        range: &Range,
        end: DateTime<Utc>,
        sequence: i64,
        conn: &mut PgConnection,
    ) -> Result<Vec<Period>, ReadError> {
        let periods = sqlx::query_as(AssertSqlSafe(periods_sql()))
            .bind(tenant)
            .bind(range.from)
            .bind(end)
            .bind(sequence)
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(range.interval.step())
            .bind(range.interval.label())
            .bind(MOST_PERIODS)
            .fetch_all(conn)
            .await?;
        Ok(periods)
    }
}

/// A period of the report.
#[derive(sqlx::FromRow)]
struct Period {
    label: String,
    complete: bool,
}

/// The report's figures: of a cohort without a period, of a cell without a currency, of one currency in a cell.
#[derive(sqlx::FromRow)]
struct Figures {
    cohort: String,
    period: Option<String>,
    currency: Option<String>,
    customers: i64,
    orders: i64,
    revenue: i64,
}

/// Whatever is after the moment of the report is none of its business.
pub(super) fn end(range: &Range, standpoint: &Standpoint) -> DateTime<Utc> {
    let now = after(standpoint.now);
    standpoint.before(range.to).map_or(now, |before| before.min(now))
}

/// The customers of the tenant $1 whose first order lies between $2 and $3, as is known up to the sequence $4.
pub(super) fn members_sql() -> String {
    format!(
        "SELECT customer_id, min(first_order_at) AS first_order_at FROM {FIRST_ORDERS}
         WHERE generation = {} AND tenant_id = $1 AND sequence <= $4
         GROUP BY customer_id
         HAVING min(first_order_at) >= coalesce($2, '-infinity'::timestamptz) AND min(first_order_at) < $3",
        active(ANALYTICS_SALES)
    )
}

/// Every period from the first cohort's on.
fn periods_sql() -> String {
    format!(
        "WITH members AS ({members}), cohorts AS (
            SELECT date_trunc($5, min(first_order_at) AT TIME ZONE $6) AS first FROM members
        )
        SELECT to_char(period, $8) AS label, (period + $7::interval) AT TIME ZONE $6 <= $3 AS complete
        FROM cohorts, generate_series(cohorts.first, least(
            date_trunc($5, ($3 - interval '1 microsecond') AT TIME ZONE $6),
            cohorts.first + $9 * $7::interval), $7::interval) AS period
        ORDER BY period",
        members = members_sql()
    )
}

/// One pass over the orders comes down to a row for each customer, period and currency; the figures are made of those.
fn cohorts_sql() -> String {
    format!(
        "WITH members AS MATERIALIZED ({members}), bought AS MATERIALIZED (
            SELECT date_trunc($5, m.first_order_at AT TIME ZONE $6) AS cohort,
                date_trunc($5, s.occurred_at AT TIME ZONE $6) AS period,
                customer_id, s.currency, count(*) AS orders, sum(s.amount) AS revenue
            FROM analytics_sales s JOIN members m USING (customer_id)
            WHERE s.generation = {active} AND s.tenant_id = $1 AND s.kind = 'order' AND s.sequence <= $4
                AND s.occurred_at >= coalesce($2, '-infinity'::timestamptz) AND s.occurred_at < $3
            GROUP BY 1, 2, 3, 4
        ), figures AS (
            SELECT date_trunc($5, first_order_at AT TIME ZONE $6) AS cohort, NULL::timestamp AS period,
                NULL AS currency, count(*) AS customers, 0 AS orders, 0 AS revenue
            FROM members GROUP BY 1
            UNION ALL
            SELECT cohort, period, NULL, count(DISTINCT customer_id), 0, 0 FROM bought GROUP BY 1, 2
            UNION ALL
            SELECT cohort, period, currency, 0, sum(orders), sum(revenue) FROM bought GROUP BY 1, 2, 3
        )
        SELECT to_char(cohort, $7) AS cohort, to_char(period, $7) AS period, currency, customers,
            orders::bigint AS orders, revenue::bigint AS revenue
        FROM figures ORDER BY figures.cohort, figures.period, currency",
        members = members_sql(),
        active = active(ANALYTICS_SALES)
    )
}

/// Puts the figures into their cells; cells without any are there with zeros.
fn triangle(periods: &[Period], figures: &[Figures]) -> Result<Vec<Cohort>, ReadError> {
    let place = periods.iter().enumerate().map(|(place, period)| (period.label.as_str(), place));
    let places: BTreeMap<&str, usize> = place.collect();
    let codes: BTreeSet<&str> = figures.iter().filter_map(|figures| figures.currency.as_deref()).collect();
    let none = codes.into_iter().map(|code| Ok(Amount { amount: 0, currency: currency(code)? }));
    let none = none.collect::<Result<Vec<_>, ReadError>>()?;
    let mut cohorts = BTreeMap::<usize, Cohort>::new();
    // Those of whole cohorts first: the cells need them.
    for of_cohort in figures.iter().filter(|figures| figures.period.is_none()) {
        let Some(&first) = places.get(of_cohort.cohort.as_str()) else { continue };
        let cells = periods.iter().skip(first).zip(0..).map(|(period, offset)| CohortCell {
            offset,
            active: 0,
            retention: 0.0,
            orders: 0,
            revenue: none.clone(),
            complete: period.complete,
        });
        let cohort =
            Cohort { cohort: of_cohort.cohort.clone(), customers: of_cohort.customers, cells: cells.collect() };
        cohorts.insert(first, cohort);
    }
    for figures in figures {
        let Some(&period) = figures.period.as_deref().and_then(|period| places.get(period)) else { continue };
        let Some(&first) = places.get(figures.cohort.as_str()) else { continue };
        let Some(cohort) = cohorts.get_mut(&first) else { continue };
        let Some(cell) = period.checked_sub(first).and_then(|offset| cohort.cells.get_mut(offset)) else { continue };
        match &figures.currency {
            None => {
                cell.active = figures.customers;
                cell.retention = figures.customers as f64 / cohort.customers as f64;
            }
            Some(code) => {
                cell.orders += figures.orders;
                let currency = currency(code)?;
                let sum = cell.revenue.iter_mut().find(|sum| sum.currency == currency);
                sum.into_iter().for_each(|sum| sum.amount = figures.revenue);
            }
        }
    }
    Ok(cohorts.into_values().collect())
}
