//! Which events stand behind a cell of a report: the same facts that it sums up, one by one, in the order of the log.

use chrono::{DateTime, NaiveDate, Utc};
use domain::{Currency, CustomerId};
use eventstore::TenantTx;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{AssertSqlSafe, Postgres};
use uuid::Uuid;

use super::mrr::movements_sql;
use super::sales::ANALYTICS_SALES;
use super::{Amount, Range, cohorts, currency, fold_of, revenue};
use crate::read_models::{ReadError, ReadModels, active};
use crate::standpoint::Standpoint;

/// Part of what stands behind a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The tenant's sequence that the cell stands at.
    pub sequence: i64,
    /// Oldest first by sequence.
    pub parts: Vec<Part>,
}

/// What one event adds to a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its sequence.
    pub sequence: i64,
    /// When it counts.
    pub occurred_at: DateTime<Utc>,
    /// Whose it is.
    pub customer: CustomerId,
    /// The figure that it adds to; none where it moves no money.
    pub figure: Option<Figure>,
    /// How much it adds.
    pub amount: Amount,
    /// How many more subscriptions run.
    pub active_subscriptions: i64,
}

/// A figure of a cell that is a sum of what events add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Of a cohort: what orders cost.
    Revenue,
    /// What orders cost.
    OrderRevenue,
    /// What was given back.
    Refunds,
    /// MRR of customers who never brought any before.
    New,
    /// More MRR of customers who brought some.
    Expansion,
    /// Less MRR of customers who still bring some.
    Contraction,
    /// MRR of customers who bring none any more.
    Churn,
    /// MRR of customers who came back.
    Reactivation,
}

/// A page of an explanation: what comes after a sequence, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only later events.
    pub after: i64,
    /// The most of them.
    pub limit: i64,
}

/// A cell of the revenue report.
#[derive(Clone, Copy, Debug)]
pub struct RevenueCell {
    /// The day on which its period begins.
    pub period: NaiveDate,
    /// Its currency.
    pub currency: Currency,
}

/// A cell of the cohort analysis.
#[derive(Clone, Copy, Debug)]
pub struct CohortCell {
    /// The day on which the cohort's period begins.
    pub cohort: NaiveDate,
    /// How many periods after that one.
    pub offset: i32,
}

/// Raised whenever the same rows would give another list.
const REVISION: i32 = 1;

/// How the parts of a revenue cell are found, as a hash.
pub fn revenue_fold() -> String {
    fold_of(&revenue::READ, REVISION, &[&revenue_sql()])
}

/// How the parts of a cohort's cell are found, as a hash.
pub fn cohort_fold() -> String {
    fold_of(&cohorts::READ, REVISION, &[&cohort_sql()])
}

/// In the range and in the period that begins at $7. The period is that of the report, to the letter; the days around it
/// let an index find it.
const IN_CELL: &str = "occurred_at >= coalesce($2, '-infinity'::timestamptz)
    AND occurred_at < coalesce($3, 'infinity'::timestamptz)
    AND occurred_at >= ($7::timestamp AT TIME ZONE $6) - interval '1 day'
    AND occurred_at < (($7::timestamp + $8::interval) AT TIME ZONE $6) + interval '1 day'
    AND date_trunc($5, occurred_at AT TIME ZONE $6) = $7::timestamp";

/// Orders, refunds and what moved MRR, of the currency $9.
fn revenue_sql() -> String {
    format!(
        "SELECT sequence, occurred_at, customer_id, figure, $9::text AS currency, amount, active FROM (
            SELECT sequence, occurred_at, customer_id,
                CASE kind WHEN 'order' THEN 'order_revenue' ELSE 'refunds' END AS figure, amount, 0 AS active
            FROM analytics_sales
            WHERE generation = {sales} AND tenant_id = $1 AND sequence <= $4 AND currency = $9 AND {IN_CELL}
            UNION ALL
            SELECT sequence, occurred_at, customer_id, movement, abs(delta), active_delta FROM ({movements}) movements
            WHERE currency = $9 AND (delta <> 0 OR active_delta <> 0) AND {IN_CELL}
        ) parts WHERE sequence > $10 ORDER BY sequence LIMIT $11",
        sales = active(ANALYTICS_SALES),
        movements = movements_sql("$4", "coalesce($3, 'infinity'::timestamptz)")
    )
}

/// The orders of the members of the cohort that begins at $7, in the period that is $8 times $9 later.
fn cohort_sql() -> String {
    format!(
        "WITH members AS ({members})
        SELECT sequence, occurred_at, customer_id, 'revenue' AS figure, currency, amount, 0 AS active
        FROM analytics_sales s JOIN members m USING (customer_id)
        WHERE generation = {sales} AND tenant_id = $1 AND kind = 'order' AND sequence <= $4
            AND occurred_at >= coalesce($2, '-infinity'::timestamptz) AND occurred_at < $3
            AND date_trunc($5, m.first_order_at AT TIME ZONE $6) = $7::timestamp
            AND date_trunc($5, occurred_at AT TIME ZONE $6) = $7::timestamp + $8 * $9::interval
            AND sequence > $10 ORDER BY sequence LIMIT $11",
        members = cohorts::members_sql(),
        sales = active(ANALYTICS_SALES)
    )
}

/// A part, as the statements have it.
#[derive(sqlx::FromRow)]
struct Found {
    sequence: i64,
    occurred_at: DateTime<Utc>,
    customer_id: Uuid,
    figure: Option<String>,
    currency: String,
    amount: i64,
    active: i32,
}

fn part(found: Found) -> Result<Part, ReadError> {
    let figure = found.figure.map(|figure| serde_json::from_value(figure.into())).transpose()?;
    Ok(Part {
        sequence: found.sequence,
        occurred_at: found.occurred_at,
        customer: CustomerId::from(found.customer_id),
        figure,
        amount: Amount { amount: found.amount, currency: currency(&found.currency)? },
        active_subscriptions: found.active.into(),
    })
}

/// A page of what a query finds, whose last two parameters are the page's.
async fn explained(
    mut tx: TenantTx,
    sequence: i64,
    found: QueryAs<'_, Postgres, Found, PgArguments>,
    page: Page,
) -> Result<Explanation, ReadError> {
    let found = found.bind(page.after).bind(page.limit).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(Explanation { sequence, parts: found.into_iter().map(part).collect::<Result<_, _>>()? })
}

impl ReadModels {
    /// What stands behind a cell of the revenue report ([`ReadModels::revenue`]) of the same range and standpoint.
    pub async fn explain_revenue(
        &self,
        tenant: Uuid,
        range: &Range,
        standpoint: &Standpoint,
        cell: RevenueCell,
        page: Page,
    ) -> Result<Explanation, ReadError> {
        self.check_time_zone(&range.time_zone).await?;
        let (tx, sequences) = self.stand(tenant, standpoint, revenue::READ).await?;
        let sequence = sequences.into_iter().min().unwrap_or_default();
        let sql = revenue_sql();
        let found = sqlx::query_as(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(range.from)
            .bind(standpoint.before(range.to))
            .bind(sequence)
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(cell.period)
            .bind(range.interval.step())
            .bind(cell.currency.to_string());
        explained(tx, sequence, found, page).await
    }

    /// What stands behind a cell of the cohort analysis ([`ReadModels::cohorts`]) of the same range and standpoint.
    pub async fn explain_cohort(
        &self,
        tenant: Uuid,
        range: &Range,
        standpoint: &Standpoint,
        cell: CohortCell,
        page: Page,
    ) -> Result<Explanation, ReadError> {
        self.check_time_zone(&range.time_zone).await?;
        let (tx, [sequence]) = self.stand(tenant, standpoint, cohorts::READ).await?;
        let sql = cohort_sql();
        let found = sqlx::query_as(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(range.from)
            .bind(cohorts::end(range, standpoint))
            .bind(sequence)
            .bind(range.interval.unit())
            .bind(&range.time_zone)
            .bind(cell.cohort)
            .bind(cell.offset)
            .bind(range.interval.step());
        explained(tx, sequence, found, page).await
    }
}
