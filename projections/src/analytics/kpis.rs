//! The key figures of a tenant.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::sales::ANALYTICS_SALES;
use super::{Amount, currency, fold_of};
use crate::read_models::{ReadError, ReadModels, active};

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
}

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 1;

/// How the figures are made, as a hash.
pub fn fold() -> String {
    fold_of(REVISION, &[&customers_sql(), &sums_sql()])
}

fn customers_sql() -> String {
    format!(
        "SELECT count(*), count(*) FILTER (WHERE orders >= 1), count(*) FILTER (WHERE orders >= 2)
         FROM analytics_customers WHERE generation = {} AND tenant_id = $1",
        active(ANALYTICS_SALES)
    )
}

fn sums_sql() -> String {
    format!(
        "SELECT currency, count(*) FILTER (WHERE kind = 'order') AS orders,
            coalesce(sum(amount) FILTER (WHERE kind = 'order'), 0)::bigint AS revenue,
            coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunds
         FROM analytics_sales WHERE generation = {} AND tenant_id = $1 GROUP BY currency ORDER BY currency",
        active(ANALYTICS_SALES)
    )
}

impl ReadModels {
    /// The key figures of a tenant.
    pub async fn kpis(&self, tenant: Uuid) -> Result<Kpis, ReadError> {
        let (mut tx, sequence) = self.snapshot(ANALYTICS_SALES, tenant).await?;
        let (customers, buyers, repeaters): (i64, i64, i64) =
            sqlx::query_as(AssertSqlSafe(customers_sql())).bind(tenant).fetch_one(&mut *tx).await?;
        let sums: Vec<Sums> = sqlx::query_as(AssertSqlSafe(sums_sql())).bind(tenant).fetch_all(&mut *tx).await?;
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

/// The quotient of two numbers that are not negative, rounded half to even; 0 where there is nothing to divide by.
fn half_even(sum: i64, count: i64) -> i64 {
    if count == 0 {
        return 0;
    }
    let (quotient, rest) = (sum / count, sum % count);
    let up = match (rest * 2).cmp(&count) {
        Ordering::Less => false,
        Ordering::Equal => quotient % 2 == 1,
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
    }
}
