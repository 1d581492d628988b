//! What comes in again and again, by the month.

use super::Interval;
use crate::{Money, MoneyError};

/// What `quantity` at `price` in each interval bring in a month. A year's product is divided by twelve and rounded
/// once, a half to the even minor unit.
pub fn mrr(price: Money, quantity: i64, interval: Interval) -> Result<Money, MoneyError> {
    let each = price.times(quantity)?;
    let months = i64::from(interval.months());
    let (whole, rest) = (each.amount / months, each.amount % months);
    let up = rest * 2 > months || (rest * 2 == months && whole % 2 == 1);
    Money::new(whole + i64::from(up), each.currency)
}
