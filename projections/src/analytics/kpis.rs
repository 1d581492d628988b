//! The key figures of a tenant.

use std::cmp::Ordering;

use chrono::TimeDelta;
use domain::Currency;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::mrr::{self, ANALYTICS_MRR, churn_rates, movements_sql};
use super::sales::{self, ANALYTICS_SALES, CUSTOMERS};
use super::{Amount, currency, fold_of};
use crate::agents::metrics::{RunCounts, counts_sql};
use crate::agents::runs::{self, AGENTS_RUNS};
use crate::read_models::{ReadError, ReadModels, active};
use crate::standpoint::Standpoint;

/// A figure and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kpi<T> {
    /// The figure.
    pub value: T,
    /// The tenant's sequence that it stands at.
    pub sequence: i64,
}

/// The key figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kpis {
    /// How many customers were ever created, the erased among them.
    pub customers: Kpi<i64>,
    /// How many orders were placed.
    pub orders: Kpi<i64>,
    /// What they cost, by currency.
    pub revenue: Kpi<Vec<Amount>>,
    /// What was given back, by currency.
    pub refunds: Kpi<Vec<Amount>>,
    /// Revenue by order, by currency, in minor units rounded half to even; refunds are not taken off.
    pub average_order: Kpi<Vec<Amount>>,
    /// Customers with two orders or more, as a fraction of those with one or more; none where nobody ordered.
    pub repeat_rate: Kpi<Option<f64>>,
    /// How many subscriptions run.
    pub active_subscriptions: Kpi<i64>,
    /// What they bring in a month (MRR), by currency; nothing where they once did.
    pub mrr: Kpi<Vec<Amount>>,
    /// What they bring in a year: `12 * mrr`, by currency.
    pub arr: Kpi<Vec<Amount>>,
    /// `mrr / customers with a subscription that runs in that currency`, by currency, in minor units rounded half to even;
    /// currencies without such a customer are left out.
    pub arpu: Kpi<Vec<Amount>>,
    /// `(churn + contraction) / mrr 30 days ago`, by currency, over the 30 days since.
    pub gross_mrr_churn_rate: Kpi<Vec<ChurnRate>>,
    /// `(churn + contraction - expansion - reactivation) / mrr 30 days ago`, by currency, over the 30 days since.
    pub net_mrr_churn_rate: Kpi<Vec<ChurnRate>>,
    /// How many runs agents were given, by where they stand.
    pub runs: Kpi<RunCounts>,
}

/// Which part of the monthly recurring revenue in one currency was lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChurnRate {
    /// Currency code of ISO 4217.
    pub currency: Currency,
    /// The fraction; negative where more was won than lost, none where there was no MRR to lose.
    pub rate: Option<f64>,
}

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 2;

/// The days that churn rates look back.
const CHURN_DAYS: TimeDelta = TimeDelta::days(30);

/// How the figures are made, as a hash.
pub fn fold() -> String {
    fold_of(&READ, REVISION, &[&customers_sql(), &sums_sql(), &recurring_sql(), &counts_sql()])
}

/// What the report is read from.
const READ: [(&str, i32); 3] =
    [(ANALYTICS_SALES, sales::REVISION), (ANALYTICS_MRR, mrr::REVISION), (AGENTS_RUNS, runs::REVISION)];

/// The facts that count: of the tenant $1, up to the sequence $2, before the moment $3.
const WANTED: &str = "tenant_id = $1 AND sequence <= $2 AND occurred_at < coalesce($3, 'infinity'::timestamptz)";

/// How many customers there are, how many of them bought, and how many did so again. Whoever had ordered by then was there,
/// whenever we were told of the customer.
fn customers_sql() -> String {
    format!(
        "WITH buyers AS MATERIALIZED (
            SELECT customer_id, count(*) AS orders FROM analytics_sales
            WHERE generation = {active} AND {WANTED} AND kind = 'order' GROUP BY customer_id
        ), known AS (
            SELECT customer_id, occurred_at < coalesce($3, 'infinity'::timestamptz) AS created FROM {CUSTOMERS}
            WHERE generation = {active} AND tenant_id = $1 AND sequence <= $2
        )
        SELECT (SELECT count(*) FROM known WHERE created)
                + (SELECT count(*) FROM known JOIN buyers USING (customer_id) WHERE NOT created),
            count(*), count(*) FILTER (WHERE orders >= 2)
        FROM buyers",
        active = active(ANALYTICS_SALES)
    )
}

fn sums_sql() -> String {
    format!(
        "SELECT currency, count(*) FILTER (WHERE kind = 'order') AS orders,
            coalesce(sum(amount) FILTER (WHERE kind = 'order'), 0)::bigint AS revenue,
            coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunds
         FROM analytics_sales WHERE generation = {} AND {WANTED} GROUP BY currency ORDER BY currency",
        active(ANALYTICS_SALES)
    )
}

/// MRR by currency: before the moment $3, at the moment $4, and what was lost and won since then.
fn recurring_sql() -> String {
    format!(
        "WITH movements AS MATERIALIZED ({}), paying AS (
            SELECT currency, count(*) AS customers
            FROM (SELECT currency FROM movements GROUP BY currency, customer_id HAVING sum(active_delta) > 0) customers
            GROUP BY currency
        )
        SELECT currency, sum(delta)::bigint AS mrr, sum(active_delta) AS active,
            coalesce(max(p.customers), 0) AS customers,
            coalesce(sum(delta) FILTER (WHERE occurred_at < $4), 0)::bigint AS mrr_before,
            coalesce(sum(-delta) FILTER (WHERE occurred_at >= $4 AND movement IN ('churn', 'contraction')), 0)::bigint
                AS lost,
            coalesce(sum(delta) FILTER (WHERE occurred_at >= $4 AND movement IN ('expansion', 'reactivation')), 0)::bigint
                AS won
        FROM movements LEFT JOIN paying p USING (currency) GROUP BY currency ORDER BY currency",
        movements_sql("$2", "coalesce($3, 'infinity'::timestamptz)")
    )
}

impl ReadModels {
    /// The key figures of a tenant. Each figure stands where its own read model does ([`ANALYTICS_SALES`],
    /// [`ANALYTICS_MRR`], [`AGENTS_RUNS`]), all of them seen at one moment, or at the standpoint's sequence.
    pub async fn kpis(&self, tenant: Uuid, standpoint: &Standpoint) -> Result<Kpis, ReadError> {
        let (mut tx, [sequence, of_mrr, of_runs]) = self.stand(tenant, standpoint, READ).await?;
        let before = standpoint.before(None);
        let (customers, buyers, repeaters): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(customers_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(before)
            .fetch_one(&mut *tx)
            .await?;
        let sums: Vec<Sums> = sqlx::query_as(AssertSqlSafe(sums_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(before)
            .fetch_all(&mut *tx)
            .await?;
        let recurring = Recurring::read(tenant, standpoint, of_mrr, &mut tx).await?;
        let runs = sqlx::query_as(AssertSqlSafe(counts_sql())).bind(tenant).bind(of_runs).bind(before);
        let runs = Kpi { value: runs.fetch_one(&mut *tx).await?, sequence: of_runs };
        tx.commit().await?;

        let amounts = |of: fn(&Sums) -> i64| {
            let amounts = sums.iter().map(|sums| Ok(Amount { amount: of(sums), currency: currency(&sums.currency)? }));
            Ok::<_, ReadError>(Kpi { value: amounts.collect::<Result<Vec<_>, ReadError>>()?, sequence })
        };
        Ok(Kpis {
            customers: Kpi { value: customers, sequence },
            orders: Kpi { value: sums.iter().map(|sums| sums.orders).sum(), sequence },
            revenue: amounts(|sums| sums.revenue)?,
            refunds: amounts(|sums| sums.refunds)?,
            average_order: amounts(|sums| half_even(sums.revenue, sums.orders))?,
            repeat_rate: Kpi { value: (buyers > 0).then(|| repeaters as f64 / buyers as f64), sequence },
            active_subscriptions: Kpi {
                value: recurring.sums.iter().map(|sums| sums.active).sum(),
                sequence: recurring.sequence,
            },
            mrr: recurring.each(|sums| Ok(Some(sums.amount(sums.mrr)?)))?,
            arr: recurring.each(|sums| {
                let year = sums.mrr.checked_mul(12).ok_or(ReadError::SumTooLarge)?;
                Ok(Some(sums.amount(year)?))
            })?,
            arpu: recurring.each(|sums| {
                let each = (sums.customers > 0).then(|| sums.amount(half_even(sums.mrr, sums.customers)));
                each.transpose()
            })?,
            gross_mrr_churn_rate: recurring.each(|sums| Ok(Some(sums.churn()?.0)))?,
            net_mrr_churn_rate: recurring.each(|sums| Ok(Some(sums.churn()?.1)))?,
            runs,
        })
    }
}

/// What a tenant's orders and refunds in one currency come to.
#[derive(sqlx::FromRow)]
struct Sums {
    currency: String,
    orders: i64,
    revenue: i64,
    refunds: i64,
}

/// What comes in every month, by currency, and where that stands.
struct Recurring {
    sums: Vec<RecurringSums>,
    sequence: i64,
}

/// What comes in every month in one currency.
#[derive(sqlx::FromRow)]
struct RecurringSums {
    currency: String,
    mrr: i64,
    active: i64,
    customers: i64,
    mrr_before: i64,
    lost: i64,
    won: i64,
}

impl Recurring {
    async fn read(
        tenant: Uuid,
        standpoint: &Standpoint,
        sequence: i64,
        conn: &mut PgConnection,
    ) -> Result<Self, ReadError> {
        let end = standpoint.last(None);
        let sums = sqlx::query_as(AssertSqlSafe(recurring_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(standpoint.before(None))
            .bind(end.checked_sub_signed(CHURN_DAYS).unwrap_or(end))
            .fetch_all(conn)
            .await?;
        Ok(Self { sums, sequence })
    }

    /// A figure for each currency that has it.
    fn each<T>(&self, of: fn(&RecurringSums) -> Result<Option<T>, ReadError>) -> Result<Kpi<Vec<T>>, ReadError> {
        let value = self.sums.iter().filter_map(|sums| of(sums).transpose()).collect::<Result<_, _>>()?;
        Ok(Kpi { value, sequence: self.sequence })
    }
}

impl RecurringSums {
    fn amount(&self, amount: i64) -> Result<Amount, ReadError> {
        Ok(Amount { amount, currency: currency(&self.currency)? })
    }

    /// Gross and net.
    fn churn(&self) -> Result<(ChurnRate, ChurnRate), ReadError> {
        let currency = currency(&self.currency)?;
        let (gross, net) = churn_rates(self.mrr_before, self.lost, self.won);
        Ok((ChurnRate { currency, rate: gross }, ChurnRate { currency, rate: net }))
    }
}

/// The quotient of two numbers, rounded half to even; 0 where there is nothing to divide by.
fn half_even(sum: i64, count: i64) -> i64 {
    if count == 0 {
        return 0;
    }
    let (quotient, rest) = (sum.div_euclid(count), sum.rem_euclid(count));
    let up = match (rest * 2).cmp(&count) {
        Ordering::Less => false,
        Ordering::Equal => quotient % 2 != 0,
        Ordering::Greater => true,
    };
    quotient + i64::from(up)
}

#[cfg(test)]
mod tests {
    use super::half_even;

    #[test]
    fn an_average_is_rounded_half_to_even() {
        assert_eq!([half_even(5, 2), half_even(7, 2), half_even(6, 4), half_even(10, 4)], [2, 4, 2, 2]);
        assert_eq!([half_even(10, 3), half_even(11, 3), half_even(9, 3), half_even(0, 0)], [3, 4, 3, 0]);
        assert_eq!([half_even(-5, 2), half_even(-7, 2), half_even(-10, 3), half_even(-11, 3)], [-2, -4, -3, -4]);
    }
}
