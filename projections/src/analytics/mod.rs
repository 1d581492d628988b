//! Reports over what customers bought, what was given back and what comes in every month.

pub mod cohorts;
pub mod kpis;
pub mod mrr;
pub mod revenue;
pub mod sales;

use chrono::{DateTime, Utc};
use domain::Currency;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::read_models::ReadError;

/// How long the periods of a report are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Midnight to midnight.
    Day,
    /// ISO 8601: Monday to Sunday.
    Week,
    /// A month of the calendar.
    Month,
}

impl Interval {
    /// As `date_trunc` wants it.
    fn unit(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// As `generate_series` wants it.
    fn step(self) -> &'static str {
        match self {
            Self::Day => "1 day",
            Self::Week => "7 days",
            Self::Month => "1 month",
        }
    }

    /// How `to_char` writes the label of a period: `1997-01-05`, `1997-W02`, `1997-01`.
    fn label(self) -> &'static str {
        match self {
            Self::Day => "YYYY-MM-DD",
            Self::Week => "IYYY-\"W\"IW",
            Self::Month => "YYYY-MM",
        }
    }
}

/// Which time a report covers, and in which zone its days begin.
#[derive(Clone, Debug)]
pub struct Range {
    /// From this moment on; from the first event where absent.
    pub from: Option<DateTime<Utc>>,
    /// Before this moment.
    pub to: Option<DateTime<Utc>>,
    /// How long the periods are.
    pub interval: Interval,
    /// A name that Postgres knows: `UTC`, `Europe/Berlin`.
    pub time_zone: String,
}

/// A sum in minor units. Unlike [`domain::Money`] it may be negative, and larger than one amount may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// In minor units of the currency.
    pub amount: i64,
    /// Currency code of ISO 4217.
    pub currency: Currency,
}

/// A hash of how a report's figures are made of events: the projectors and their revisions, the report's statements, and
/// its own revision, which is raised whenever the same rows would give other figures.
pub(crate) fn fold_of(projectors: &[(&str, i32)], revision: i32, statements: &[&str]) -> String {
    let mut hash = Sha256::new();
    for (projector, revision) in projectors {
        hash.update(format!("{projector} {revision}\n"));
    }
    hash.update(format!("{revision}\n"));
    for statement in statements {
        hash.update(statement);
        hash.update([0]);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A stored currency code.
pub(crate) fn currency(code: &str) -> Result<Currency, ReadError> {
    code.parse().map_err(|error: domain::MoneyError| ReadError::Malformed(error.into()))
}
