//! `/subscriptions`, also at `/payments/subscriptions`.

use chrono::{DateTime, Utc};
use domain::billing::{
    CancelAt, MAX_QUANTITY, Plan, Start, Subscription, SubscriptionCommand, SubscriptionError, SubscriptionStatus,
    Terms,
};
use domain::commerce::Customer;
use domain::names::{BILLING_READ, BILLING_WRITE, Scope};
use domain::text::{ExternalId, Prose};
use domain::{MoneyError, SubscriptionId, TimeZone};
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::{Moment, Ref, Referent};
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Code, Problem, codes};
use crate::resource::{Filter, Resource, resource};

const CANCELLED: Code = Code::rule(
    "subscription-cancelled",
    "The subscription is cancelled",
    "It has ended and stays as it is. Start a new one for the same customer.",
);

impl Resource for Subscription {
    const OBJECT: &'static str = "subscription";
    const PATH: &'static str = "/subscriptions";
    const READ: Scope = BILLING_READ;
    const WRITE: Scope = BILLING_WRITE;
    const FILTERS: &'static [Filter] = &[
        Filter::id::<Customer>("customer", "customer_id"),
        Filter::id::<Plan>("plan", "plan_id"),
        Filter::word::<SubscriptionStatus>("status"),
    ];

    fn problem(error: SubscriptionError) -> Problem {
        match error {
            SubscriptionError::NotFound => Problem::not_found(),
            SubscriptionError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            SubscriptionError::Quantity => Problem::field("/quantity", format!("must be between 1 and {MAX_QUANTITY}")),
            SubscriptionError::Currency => {
                Problem::field("/plan", "must be priced in the currency that the subscription began in")
            }
            SubscriptionError::Amount { source } => Problem::field("/quantity", too_much(source)),
            SubscriptionError::Cancelled => Problem::of(CANCELLED),
        }
    }
}

fn too_much(error: MoneyError) -> String {
    match error {
        MoneyError::OutOfRange => "times the price must be at most 9007199254740991 minor units".into(),
        MoneyError::UnknownCurrency | MoneyError::MixedCurrencies => error.to_string(),
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let subscriptions = resource::<Subscription>();
    vec![
        subscriptions
            .create::<StartSubscription>(
                "Subscribe a customer to a plan",
                "Periods are counted from the start, in `time_zone`: one that began on the 31st ends on the last day of \
                 shorter months. With `started_at` in the past the period that holds now runs, and none before it is renewed.",
            )
            .refuses(&[codes::SUBJECT_ERASED]),
        subscriptions.batch::<StartSubscription>(),
        subscriptions.get(),
        subscriptions.list(),
        subscriptions.history(),
        subscriptions
            .change::<ChangeSubscription>(
                "Change plan or quantity",
                "At once. The period goes on, unless the new plan has another interval: then a new one begins now.",
            )
            .refuses(&[CANCELLED, codes::SUBJECT_ERASED]),
        subscriptions
            .act::<Cancel>(
                "cancel",
                "Cancel a subscription",
                "`period_end` lets the running period end first; until then it can be reactivated. Cancelling what is \
                 cancelled changes nothing.",
            )
            .body_required()
            .refuses(&[codes::SUBJECT_ERASED]),
        subscriptions
            .verb("reactivate", "Take a scheduled cancellation back", "Possible until the period ends.", |_| {
                SubscriptionCommand::Reactivate
            })
            .refuses(&[CANCELLED]),
    ]
}

/// The price and interval of a plan, which never change.
async fn terms(call: &Call, plan: &Ref<Plan>, pointer: &str) -> Result<Terms, Problem> {
    let id = plan.id()?;
    let loaded = call.state.executor.load_known::<Plan>(call.tenant(), id).await?;
    let price = loaded.state.price.ok_or_else(|| Problem::field(pointer, "is unknown; create it first"))?;
    Ok(Terms { plan: id, price, interval: loaded.state.interval })
}

/// Who subscribes to what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StartSubscription {
    /// What you call this subscription; unique in the tenant.
    external_id: Option<ExternalId>,
    /// Who subscribes: `cus_…` or `ext:…`.
    customer: Ref<Customer>,
    /// To what: `pln_…` or `ext:…`.
    plan: Ref<Plan>,
    /// How many; 1 if absent.
    #[schemars(range(min = 1, max = 1_000_000))]
    quantity: Option<i64>,
    /// Since when, where that is not now; never in the future.
    started_at: Option<Moment>,
    /// Where the customer's days begin and end: `Europe/Berlin`; `UTC` if absent.
    time_zone: Option<TimeZone>,
    #[serde(skip)]
    terms: Option<Terms>,
}

impl Intent<Subscription> for StartSubscription {
    fn example() -> Value {
        json!({ "external_id": "sub-4711", "customer": "ext:crm-1815", "plan": "ext:basic", "quantity": 1 })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        vec![("/customer", &mut self.customer), ("/plan", &mut self.plan)]
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn occurred_at(&self) -> Option<(&'static str, DateTime<Utc>)> {
        self.started_at.map(|at| ("/started_at", at.0))
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async {
            self.terms = Some(terms(call, &self.plan, "/plan").await?);
            Ok(())
        })
    }

    fn command(self, _: SubscriptionId, _: &Call) -> Result<SubscriptionCommand, Problem> {
        let terms = self.terms.ok_or_else(Problem::not_found)?;
        let (customer, quantity, time_zone) = (self.customer.id()?, self.quantity.unwrap_or(1), self.time_zone);
        let (external_id, time_zone) = (self.external_id, time_zone.unwrap_or_default());
        Ok(SubscriptionCommand::Start(Start { external_id, customer, terms, quantity, time_zone }))
    }
}

/// What shall change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeSubscription {
    /// Which plan from now on: `pln_…` or `ext:…`.
    plan: Option<Ref<Plan>>,
    /// How many from now on.
    #[schemars(range(min = 1, max = 1_000_000))]
    quantity: Option<i64>,
    #[serde(skip)]
    terms: Option<Terms>,
    #[serde(skip)]
    customer: Option<domain::CustomerId>,
}

impl Intent<Subscription> for ChangeSubscription {
    fn example() -> Value {
        json!({ "quantity": 3 })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        self.plan.iter_mut().map(|plan| ("/plan", plan as &mut dyn Referent)).collect()
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async {
            if let Some(plan) = &self.plan {
                self.terms = Some(terms(call, plan, "/plan").await?);
            }
            let id = call.target::<Subscription>().await?;
            // A subscription's customer never changes.
            let known = call.state.executor.load_known::<Subscription>(call.tenant(), id).await?;
            self.customer = Some(known.state.customer);
            Ok(())
        })
    }

    fn command(self, _: SubscriptionId, _: &Call) -> Result<SubscriptionCommand, Problem> {
        let customer = self.customer.ok_or_else(Problem::not_found)?;
        Ok(SubscriptionCommand::Change { customer, terms: self.terms, quantity: self.quantity })
    }
}

/// When it is to end, and why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cancel {
    /// When.
    at: CancelAt,
    /// Why. Personal.
    reason: Option<Prose>,
}

impl Intent<Subscription> for Cancel {
    fn example() -> Value {
        json!({ "at": "period_end", "reason": "Moves abroad." })
    }

    fn command(self, _: SubscriptionId, _: &Call) -> Result<SubscriptionCommand, Problem> {
        Ok(SubscriptionCommand::Cancel { at: self.at, reason: self.reason })
    }
}
