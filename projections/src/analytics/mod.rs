//! Reports over what customers bought, what was given back and what comes in every month.

pub mod cohorts;
pub mod explain;
pub mod kpis;
pub mod mrr;
pub mod revenue;
pub mod sales;

use chrono::{DateTime, NaiveDate, Utc};
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

    /// On which day the period with that label begins.
    pub fn begins(self, label: &str) -> Option<NaiveDate> {
        let (text, format, written) = match self {
            Self::Day => (label.to_owned(), "%Y-%m-%d", "%Y-%m-%d"),
            Self::Week => (format!("{label}-1"), "%G-W%V-%u", "%G-W%V"),
            Self::Month => (format!("{label}-01"), "%Y-%m-%d", "%Y-%m"),
        };
        // As it is written, and not otherwise: chrono would also read 1997-1.
        NaiveDate::parse_from_str(&text, format).ok().filter(|day| day.format(written).to_string() == label)
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

#[cfg(test)]
mod labels {
    use super::Interval;

    #[test]
    fn a_period_begins_on_the_day_that_its_label_says() {
        let begins = |interval: Interval, label| interval.begins(label).map(|day| day.to_string());
        assert_eq!(begins(Interval::Day, "1997-01-05").as_deref(), Some("1997-01-05"));
        assert_eq!(begins(Interval::Week, "1997-W01").as_deref(), Some("1996-12-30"));
        assert_eq!(begins(Interval::Month, "1997-02").as_deref(), Some("1997-02-01"));
        for bad in ["", "1997", "1997-2", "1997-13", "1997-W54", "1997-02-01T00:00:00Z", "first"] {
            for interval in [Interval::Day, Interval::Week, Interval::Month] {
                assert_eq!(interval.begins(bad), None, "{bad}");
            }
        }
    }
}
