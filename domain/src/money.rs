//! Money in minor units with the exponent of ISO 4217.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest amount that JSON readers everywhere keep exact: 2^53 - 1 minor units.
pub const MAX_AMOUNT: i64 = 9_007_199_254_740_991;

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    /// United States dollar.
    pub const USD: Self = Self(*b"USD");

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }

    /// Digits after the decimal point that a minor unit has (ISO 4217).
    pub fn exponent(&self) -> u32 {
        iso_currency::Currency::from_code(self.code()).and_then(|c| c.exponent()).map_or(0, u32::from)
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let known = iso_currency::Currency::from_code(text).filter(|c| c.exponent().is_some());
        match (known, <[u8; 3]>::try_from(text.as_bytes())) {
            (Some(_), Ok(code)) => Ok(Self(code)),
            _ => Err(MoneyError::UnknownCurrency),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Currency {
    fn schema_name() -> Cow<'static, str> {
        "Currency".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[A-Z]{3}$", "description": "Currency code of ISO 4217." })
    }
}

/// What can be wrong with money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not in ISO 4217, or without a minor unit.
    #[error("is not a currency of ISO 4217")]
    UnknownCurrency,
    /// Below zero, or above [`MAX_AMOUNT`].
    #[error("must be between 0 and 9007199254740991 minor units")]
    OutOfRange,
    /// Two currencies in one sum.
    #[error("must be in one currency")]
    MixedCurrencies,
}

/// An amount that is never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// In minor units of the currency: 1999 is 19.99 USD.
    #[serde(deserialize_with = "amount")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub amount: i64,
    /// Currency code of ISO 4217.
    pub currency: Currency,
}

fn amount<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let amount = i64::deserialize(deserializer)?;
    if (0..=MAX_AMOUNT).contains(&amount) { Ok(amount) } else { Err(serde::de::Error::custom(MoneyError::OutOfRange)) }
}

impl Money {
    /// `amount` minor units of `currency`; out of range below 0 and above [`MAX_AMOUNT`].
    pub fn new(amount: i64, currency: Currency) -> Result<Self, MoneyError> {
        if (0..=MAX_AMOUNT).contains(&amount) { Ok(Self { amount, currency }) } else { Err(MoneyError::OutOfRange) }
    }

    /// None of `currency`.
    pub fn zero(currency: Currency) -> Self {
        Self { amount: 0, currency }
    }

    /// The sum; an error where the currencies differ or it passes [`MAX_AMOUNT`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.same(other)?;
        Self::new(self.amount + other.amount, self.currency)
    }

    /// The difference; an error where the currencies differ or it falls below zero.
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.same(other)?;
        Self::new(self.amount - other.amount, self.currency)
    }

    /// This amount `quantity` times; an error where it passes [`MAX_AMOUNT`].
    pub fn times(self, quantity: i64) -> Result<Self, MoneyError> {
        let amount = self.amount.checked_mul(quantity).ok_or(MoneyError::OutOfRange)?;
        Self::new(amount, self.currency)
    }

    fn same(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency { Ok(()) } else { Err(MoneyError::MixedCurrencies) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_iso_4217() {
        let of = |code: &str| code.parse::<Currency>().unwrap().exponent();
        assert_eq!((of("USD"), of("JPY"), of("BHD")), (2, 0, 3));
        for bad in ["usd", "XYZ", "", "US", "XXX"] {
            assert_eq!(bad.parse::<Currency>(), Err(MoneyError::UnknownCurrency), "{bad}");
        }
    }

    #[test]
    fn sums_stay_in_range_and_in_one_currency() {
        let usd = |amount| Money::new(amount, Currency::USD).unwrap();
        assert_eq!(usd(1).plus(usd(2)), Ok(usd(3)));
        assert_eq!(usd(MAX_AMOUNT).plus(usd(1)), Err(MoneyError::OutOfRange));
        assert_eq!(usd(1).minus(usd(2)), Err(MoneyError::OutOfRange));
        assert_eq!(usd(i64::from(u32::MAX)).times(i64::MAX), Err(MoneyError::OutOfRange));
        assert_eq!(usd(1).plus(Money::zero("EUR".parse().unwrap())), Err(MoneyError::MixedCurrencies));
    }

    #[test]
    fn json_refuses_what_is_no_amount() {
        for bad in [
            r#"{"amount":-1,"currency":"USD"}"#,
            r#"{"amount":1.5,"currency":"USD"}"#,
            r#"{"amount":9007199254740992,"currency":"USD"}"#,
        ] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
    }
}
