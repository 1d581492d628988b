//! A purchase: `Placed -> PartlyRefunded -> Refunded`. Every amount is in the order's one currency.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::{ClaimChange, external_id_claim};
use crate::personal::Support;
use crate::text::{ExternalId, Line, Prose};
use crate::{
    Aggregate, Context, Currency, CustomerId, Event, Money, MoneyError, OrderId, Personal, StreamType, TypedId, names,
};

/// The most lines that one order may have; keeps its event far below the log's bound.
pub const MAX_LINES: usize = 200;
/// The largest quantity of one line.
pub const MAX_QUANTITY: i64 = 1_000_000_000;

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    /// Where it stands.
    pub status: OrderStatus,
    /// What the caller calls this order; unique in its tenant.
    pub external_id: Option<ExternalId>,
    /// Who bought.
    pub customer: CustomerId,
    /// What was bought.
    pub lines: Vec<OrderLine>,
    /// The sum of the lines.
    pub total: Option<Money>,
    /// How much of it was given back.
    pub refunded: Option<Money>,
}

/// `none -> placed -> partly_refunded -> refunded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Not there.
    #[default]
    None,
    /// Nothing was given back.
    Placed,
    /// A part was given back.
    PartlyRefunded,
    /// All was given back.
    Refunded,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OrderLine {
    /// What was bought, by the caller's stock-keeping unit.
    pub sku: Line,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Line>,
    /// How many.
    pub quantity: i64,
    /// What one costs, where the caller said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Money>,
    /// What the line costs.
    pub total: Money,
}

/// What an order begins with.
#[derive(Clone, Debug)]
pub struct Place {
    /// What the caller calls this order.
    pub external_id: Option<ExternalId>,
    /// Who buys.
    pub customer: CustomerId,
    /// What every amount must be in.
    pub currency: Currency,
    /// What is bought.
    pub lines: Vec<NewLine>,
}

/// One line of an order to be placed.
#[derive(Clone, Debug)]
pub struct NewLine {
    /// What is bought.
    pub sku: Line,
    /// What it is called.
    pub name: Option<Line>,
    /// How many.
    pub quantity: i64,
    /// What it costs.
    pub price: Price,
}

/// What a line costs: by the piece, or in all.
#[derive(Clone, Copy, Debug)]
pub enum Price {
    /// Each.
    Unit(Money),
    /// The whole line.
    Total(Money),
}

/// What can be asked of an order.
#[derive(Clone, Debug)]
pub enum OrderCommand {
    /// Record the purchase.
    Place(Place),
    /// Give money back.
    Refund {
        /// How much; all that is left if absent.
        amount: Option<Money>,
        /// Why, in free text about the customer.
        reason: Option<Prose>,
    },
}

/// What can have happened to an order.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "order")]
pub enum OrderEvent {
    /// The purchase was made.
    Placed {
        /// What the caller calls this order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
        /// Who bought.
        customer: CustomerId,
        /// What was bought.
        lines: Vec<OrderLine>,
        /// The sum of the lines.
        total: Money,
    },
    /// Money was given back.
    Refunded {
        /// Who got it.
        customer: CustomerId,
        /// How much.
        amount: Money,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Personal<Prose, Support>>,
    },
}

/// Why an order refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No such order.
    #[error("there is no such order")]
    NotFound,
    /// It is there already.
    #[error("the order exists already")]
    AlreadyExists,
    /// Nothing is bought.
    #[error("an order needs at least one line and at most {MAX_LINES}")]
    Lines,
    /// A quantity out of range.
    #[error("the quantity must be between 1 and {MAX_QUANTITY}")]
    Quantity {
        /// Which line, from 0.
        line: usize,
    },
    /// An amount in another currency, or a line or sum out of range.
    #[error("the amount {source}")]
    Amount {
        /// Which line, from 0; none for the order's sum or the refund.
        line: Option<usize>,
        /// What is wrong with it.
        source: MoneyError,
    },
    /// More than is left.
    #[error("only {left} minor units are left to refund")]
    ExceedsTotal {
        /// What is left, in minor units.
        left: i64,
    },
    /// A refund of nothing.
    #[error("a refund must be more than zero")]
    NothingToRefund,
    /// All was given back before.
    #[error("the order is refunded in full")]
    Refunded,
}

impl Order {
    /// What could still be given back.
    fn left(&self) -> Result<Money, OrderError> {
        match (self.total, self.refunded) {
            (Some(total), Some(refunded)) => {
                total.minus(refunded).map_err(|source| OrderError::Amount { line: None, source })
            }
            _ => Err(OrderError::NotFound),
        }
    }

    fn refund(&self, amount: Option<Money>, reason: Option<Prose>) -> Result<OrderEvent, OrderError> {
        let left = self.left()?;
        let amount = amount.unwrap_or(left);
        if amount.currency != left.currency {
            return Err(OrderError::Amount { line: None, source: MoneyError::MixedCurrencies });
        }
        if amount.amount > left.amount {
            return Err(OrderError::ExceedsTotal { left: left.amount });
        }
        if amount.amount == 0 {
            return Err(OrderError::NothingToRefund);
        }
        let reason = reason.map(|reason| Personal::open(self.customer.uuid(), reason));
        Ok(OrderEvent::Refunded { customer: self.customer, amount, reason })
    }
}

fn place(place: Place) -> Result<OrderEvent, OrderError> {
    if place.lines.is_empty() || place.lines.len() > MAX_LINES {
        return Err(OrderError::Lines);
    }
    let mut total = Money::zero(place.currency);
    let mut lines = Vec::with_capacity(place.lines.len());
    for (index, new) in place.lines.into_iter().enumerate() {
        let wrong = |source| OrderError::Amount { line: Some(index), source };
        if !(1..=MAX_QUANTITY).contains(&new.quantity) {
            return Err(OrderError::Quantity { line: index });
        }
        let (unit_price, line_total) = match new.price {
            Price::Unit(price) => (Some(price), price.times(new.quantity).map_err(wrong)?),
            Price::Total(total) => (None, total),
        };
        total = total.plus(line_total).map_err(wrong)?;
        lines.push(OrderLine { sku: new.sku, name: new.name, quantity: new.quantity, unit_price, total: line_total });
    }
    Ok(OrderEvent::Placed { external_id: place.external_id, customer: place.customer, lines, total })
}

impl Aggregate for Order {
    const STREAM: StreamType = names::ORDER;
    const REVISION: i32 = 1;
    type Id = OrderId;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = OrderError;

    fn claims(command: &OrderCommand) -> Vec<ClaimChange> {
        match command {
            OrderCommand::Place(place) => external_id_claim(place.external_id.as_ref()),
            OrderCommand::Refund { .. } => Vec::new(),
        }
    }

    fn about(command: &OrderCommand) -> Vec<uuid::Uuid> {
        match command {
            OrderCommand::Place(place) => vec![place.customer.uuid()],
            // Money can be given back to a person who was erased; a reason about the person can't be written.
            OrderCommand::Refund { .. } => Vec::new(),
        }
    }

    fn decide(&self, command: OrderCommand, _ctx: &Context) -> Result<Vec<OrderEvent>, OrderError> {
        use {OrderCommand as C, OrderError as Error, OrderStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Place(new)) => vec![place(new)?],
            (_, C::Place(_)) => return Err(Error::AlreadyExists),
            (S::None, C::Refund { .. }) => return Err(Error::NotFound),
            (S::Refunded, C::Refund { .. }) => return Err(Error::Refunded),
            (S::Placed | S::PartlyRefunded, C::Refund { amount, reason }) => vec![self.refund(amount, reason)?],
        })
    }

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed { external_id, customer, lines, total } => {
                let refunded = Some(Money::zero(total.currency));
                *self =
                    Self { status: OrderStatus::Placed, external_id, customer, lines, total: Some(total), refunded };
            }
            OrderEvent::Refunded { amount, .. } => {
                self.refunded = self.refunded.and_then(|sum| sum.plus(amount).ok()).or(self.refunded);
                let all = self.refunded.map(|m| m.amount) == self.total.map(|m| m.amount);
                self.status = if all { OrderStatus::Refunded } else { OrderStatus::PartlyRefunded };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn usd(amount: i64) -> Money {
        Money::new(amount, Currency::USD).unwrap()
    }

    fn customer() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn placing(quantity: i64, price: Price) -> OrderCommand {
        let line = NewLine { sku: "cd".parse().unwrap(), name: None, quantity, price };
        OrderCommand::Place(Place {
            external_id: None,
            customer: customer(),
            currency: Currency::USD,
            lines: vec![line],
        })
    }

    fn placed(quantity: i64, unit_price: Option<Money>, total: Money) -> OrderEvent {
        let line = OrderLine { sku: "cd".parse().unwrap(), name: None, quantity, unit_price, total };
        OrderEvent::Placed { external_id: None, customer: customer(), lines: vec![line], total }
    }

    fn refunded(amount: i64) -> OrderEvent {
        OrderEvent::Refunded { customer: customer(), amount: usd(amount), reason: None }
    }

    fn refund(amount: Option<Money>) -> OrderCommand {
        OrderCommand::Refund { amount, reason: None }
    }

    fn given(events: impl IntoIterator<Item = OrderEvent>) -> Given<Order> {
        Given::events(ctx(), events)
    }

    #[test]
    fn an_order_sums_its_lines_and_zero_is_a_purchase() {
        given([]).when_then(placing(3, Price::Unit(usd(5))), [placed(3, Some(usd(5)), usd(15))]);
        given([]).when_then(placing(3, Price::Total(usd(0))), [placed(3, None, usd(0))]);
    }

    #[test]
    fn amounts_stay_in_range_and_in_the_orders_currency() {
        let wrong = |source| OrderError::Amount { line: Some(0), source };
        let eur = Money::zero("EUR".parse().unwrap());
        given([]).when_refused(placing(1, Price::Total(eur)), wrong(MoneyError::MixedCurrencies));
        given([])
            .when_refused(placing(MAX_QUANTITY, Price::Unit(usd(i64::from(u32::MAX)))), wrong(MoneyError::OutOfRange));
        given([]).when_refused(placing(0, Price::Unit(usd(1))), OrderError::Quantity { line: 0 });
        given([placed(1, None, usd(1))]).when_refused(placing(1, Price::Unit(usd(1))), OrderError::AlreadyExists);
    }

    #[test]
    fn refunds_never_pass_the_total() {
        let order = || placed(1, None, usd(10));
        given([order()]).when_then(refund(None), [refunded(10)]);
        given([order(), refunded(4)]).when_then(refund(None), [refunded(6)]);
        given([order(), refunded(4)]).when_refused(refund(Some(usd(7))), OrderError::ExceedsTotal { left: 6 });
        given([order(), refunded(10)]).when_refused(refund(None), OrderError::Refunded);
        given([order()]).when_refused(refund(Some(usd(0))), OrderError::NothingToRefund);
        given([placed(1, None, usd(0))]).when_refused(refund(None), OrderError::NothingToRefund);
        given([]).when_refused(refund(None), OrderError::NotFound);
    }

    #[test]
    fn the_status_follows_what_was_given_back() {
        let mut order = Order::default();
        order.apply(placed(1, None, usd(10)));
        order.apply(refunded(4));
        assert_eq!(order.status, OrderStatus::PartlyRefunded);
        order.apply(refunded(6));
        assert_eq!((order.status, order.refunded), (OrderStatus::Refunded, Some(usd(10))));
    }
}
