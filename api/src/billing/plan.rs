//! `/plans`.

use domain::billing::{Interval, Plan, PlanCommand, PlanError};
use domain::names::{BILLING_READ, BILLING_WRITE, Scope};
use domain::text::{ExternalId, Line};
use domain::{Money, PlanId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Problem, codes};
use crate::resource::{Resource, resource};

impl Resource for Plan {
    const OBJECT: &'static str = "plan";
    const PATH: &'static str = "/plans";
    const READ: Scope = BILLING_READ;
    const WRITE: Scope = BILLING_WRITE;

    fn problem(error: PlanError) -> Problem {
        match error {
            PlanError::NotFound => Problem::not_found(),
            PlanError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
        }
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let plans = resource::<Plan>();
    vec![
        plans.create::<CreatePlan>("Create a plan", "Its price is for good: another price is another plan."),
        plans.get(),
        plans.list(),
        plans.history(),
        plans.change::<RenamePlan>("Rename a plan", "Price and interval never change."),
    ]
}

/// What is sold by the month or the year.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreatePlan {
    /// What you call this plan; unique in the tenant.
    external_id: Option<ExternalId>,
    /// What it is called.
    name: Line,
    /// What one costs in each interval.
    price: Money,
    /// How often that is paid.
    interval: Interval,
}

impl Intent<Plan> for CreatePlan {
    fn example() -> Value {
        json!({
            "external_id": "basic", "name": "Basic", "price": { "amount": 1999, "currency": "USD" }, "interval": "month",
        })
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn command(self, _: PlanId, _: &Call) -> Result<PlanCommand, Problem> {
        let Self { external_id, name, price, interval } = self;
        Ok(PlanCommand::Create { external_id, name, price, interval })
    }
}

/// Another name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RenamePlan {
    /// What it is called from now on.
    name: Option<Line>,
}

impl Intent<Plan> for RenamePlan {
    fn example() -> Value {
        json!({ "name": "Basic (2026)" })
    }

    fn command(self, _: PlanId, _: &Call) -> Result<PlanCommand, Problem> {
        Ok(PlanCommand::Rename { name: self.name })
    }
}
