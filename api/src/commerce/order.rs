//! `/orders`.

use chrono::{DateTime, Utc};
use domain::commerce::{
    Customer, MAX_LINES, MAX_QUANTITY, NewLine, Order, OrderCommand, OrderError, OrderStatus, Place, Price,
};
use domain::names::{COMMERCE_READ, COMMERCE_WRITE, Scope};
use domain::text::{ExternalId, Line, Prose};
use domain::{Currency, Money, MoneyError, OrderId};
use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::{Moment, Ref, Referent};
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Code, Problem, codes};
use crate::resource::{Beside, Filter, Resource, resource, time};

const REFUNDED: Code = Code::rule("order-refunded", "The order is refunded in full", "Nothing is left to give back.");
const NOTHING: Code = Code::rule(
    "nothing-to-refund",
    "There is nothing to refund",
    "The order cost nothing, so nothing can be given back.",
);

impl Resource for Order {
    const OBJECT: &'static str = "order";
    const PATH: &'static str = "/orders";
    const READ: Scope = COMMERCE_READ;
    const WRITE: Scope = COMMERCE_WRITE;
    const FILTERS: &'static [Filter] = &[
        Filter::id::<Customer>("customer", "customer_id"),
        Filter::word::<OrderStatus>("status"),
        Filter::word::<Currency>("currency"),
    ];
    const BESIDE: &'static [Beside] = &[
        Beside {
            name: "currency",
            schema: |generator| generator.subschema_for::<Currency>(),
            value: |state, _| state.get("total").map_or(Value::Null, |total| total["currency"].clone()),
        },
        Beside {
            name: "placed_at",
            schema: |_| json_schema!({ "type": "string", "format": "date-time", "description": "When it was bought." }),
            value: |_, created_at| time(created_at).into(),
        },
    ];

    fn problem(error: OrderError) -> Problem {
        match error {
            OrderError::NotFound => Problem::not_found(),
            OrderError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            OrderError::Lines => Problem::field("/lines", format!("must have 1 to {MAX_LINES} lines")),
            OrderError::Quantity { line } => {
                Problem::field(format!("/lines/{line}/quantity"), format!("must be between 1 and {MAX_QUANTITY}"))
            }
            OrderError::Amount { line: Some(line), source } => {
                Problem::field(format!("/lines/{line}"), in_words(source))
            }
            OrderError::Amount { line: None, source } => Problem::field("/amount", in_words(source)),
            OrderError::ExceedsTotal { left } => {
                Problem::field("/amount", format!("must be at most {left}, which is left to refund")).with("left", left)
            }
            OrderError::NothingToRefund => Problem::of(NOTHING),
            OrderError::Refunded => Problem::of(REFUNDED),
        }
    }
}

fn in_words(error: MoneyError) -> String {
    match error {
        MoneyError::UnknownCurrency | MoneyError::OutOfRange => error.to_string(),
        MoneyError::MixedCurrencies => "must be in the order's currency".into(),
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let orders = resource::<Order>();
    vec![
        orders
            .create::<PlaceOrder>("Record a purchase", "Amounts are in minor units, all in the order's currency.")
            .refuses(&[codes::SUBJECT_ERASED]),
        orders.batch::<PlaceOrder>(),
        orders.get(),
        orders.list(),
        orders.history(),
        orders
            .act::<Refund>("refund", "Give money back", "All that is left, unless `amount` says less.")
            .moves_money()
            .refuses(&[REFUNDED, NOTHING, codes::SUBJECT_ERASED]),
    ]
}

/// A purchase.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlaceOrder {
    /// What you call this order; unique in the tenant.
    external_id: Option<ExternalId>,
    /// Who buys: `cus_…` or `ext:…`.
    customer: Ref<Customer>,
    /// When it was bought; never in the future.
    placed_at: Moment,
    /// What every amount is in.
    currency: Currency,
    /// What is bought.
    #[schemars(length(min = 1, max = 200))]
    lines: Vec<PlacedLine>,
}

/// A line; it says either what one costs or what all cost.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = either_price)]
struct PlacedLine {
    /// What is bought, by your stock-keeping unit.
    sku: Line,
    /// What it is called.
    name: Option<Line>,
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    quantity: i64,
    /// What one costs.
    #[schemars(with = "Money")]
    unit_price: Option<Money>,
    /// What the line costs.
    #[schemars(with = "Money")]
    total: Option<Money>,
}

/// Two forms of a line: with `unit_price`, or with `total`.
fn either_price(schema: &mut Schema) {
    let with = |field: &str, without: &str| {
        let mut form = schema.clone();
        if let Some(fields) = form.get_mut("properties").and_then(Value::as_object_mut) {
            fields.shift_remove(without);
        }
        if let Some(required) = form.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| name != without && name != field);
            required.push(field.into());
        }
        form
    };
    *schema = json_schema!({ "oneOf": [with("unit_price", "total"), with("total", "unit_price")] });
}

impl Intent<Order> for PlaceOrder {
    fn example() -> Value {
        json!({
            "external_id": "shop-4711",
            "customer": "ext:crm-1815",
            "placed_at": "2026-11-20T10:00:00Z",
            "currency": "USD",
            "lines": [{ "sku": "cd-1", "quantity": 2, "unit_price": { "amount": 1999, "currency": "USD" } }],
        })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        vec![("/customer", &mut self.customer)]
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn occurred_at(&self) -> Option<(&'static str, DateTime<Utc>)> {
        Some(("/placed_at", self.placed_at.0))
    }

    fn command(self, _: OrderId, _: &Call) -> Result<OrderCommand, Problem> {
        let lines = self.lines.into_iter().enumerate().map(|(index, line)| {
            let (field, amount, price) = match (line.unit_price, line.total) {
                (Some(price), None) => ("unit_price", price, Price::Unit(price)),
                (None, Some(total)) => ("total", total, Price::Total(total)),
                _ => return Err(Problem::field(format!("/lines/{index}"), "must have either `unit_price` or `total`")),
            };
            if amount.currency != self.currency {
                return Err(Problem::field(format!("/lines/{index}/{field}"), in_words(MoneyError::MixedCurrencies)));
            }
            Ok(NewLine { sku: line.sku, name: line.name, quantity: line.quantity, price })
        });
        let (customer, lines) = (self.customer.id()?, lines.collect::<Result<_, _>>()?);
        Ok(OrderCommand::Place(Place { external_id: self.external_id, customer, currency: self.currency, lines }))
    }
}

/// What is given back, and why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Refund {
    /// How much, in the order's currency; all that is left if absent.
    amount: Option<Money>,
    /// Why. Personal.
    reason: Option<Prose>,
}

impl Intent<Order> for Refund {
    fn example() -> Value {
        json!({ "amount": { "amount": 500, "currency": "USD" }, "reason": "One of two was scratched." })
    }

    fn command(self, _: OrderId, _: &Call) -> Result<OrderCommand, Problem> {
        if self.amount.is_some_and(|amount| amount.amount == 0) {
            return Err(Problem::field("/amount/amount", "must be more than 0"));
        }
        Ok(OrderCommand::Refund { amount: self.amount, reason: self.reason })
    }
}
