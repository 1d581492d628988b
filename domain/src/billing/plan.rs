//! What a tenant sells by the month or the year. A price never changes: another price is another plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::{ClaimChange, external_id_claim};
use crate::text::{ExternalId, Line};
use crate::{Aggregate, Context, Event, Money, PlanId, StreamType, names};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Where it stands.
    pub status: PlanStatus,
    /// What the caller calls this plan; unique in its tenant.
    pub external_id: Option<ExternalId>,
    /// What it is called.
    pub name: Option<Line>,
    /// What one costs in each interval.
    pub price: Option<Money>,
    /// How often it is paid.
    pub interval: Interval,
}

/// `none -> active`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanStatus {
    /// Not there.
    #[default]
    None,
    /// Can be subscribed to.
    Active,
}

/// How often a plan is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Every month.
    #[default]
    Month,
    /// Every twelve months.
    Year,
}

impl Interval {
    /// Its length in months.
    pub fn months(self) -> u32 {
        match self {
            Self::Month => 1,
            Self::Year => 12,
        }
    }
}

/// What can be asked of a plan.
#[derive(Clone, Debug)]
pub enum PlanCommand {
    /// Offer it.
    Create {
        /// What the caller calls this plan.
        external_id: Option<ExternalId>,
        /// What it is called.
        name: Line,
        /// What one costs in each interval.
        price: Money,
        /// How often it is paid.
        interval: Interval,
    },
    /// Call it something else.
    Rename {
        /// What it is called now.
        name: Option<Line>,
    },
}

/// What can have happened to a plan.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "plan")]
pub enum PlanEvent {
    /// The plan is offered from here on.
    Created {
        /// What the caller calls this plan.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
        /// What it is called.
        name: Line,
        /// What one costs in each interval.
        price: Money,
        /// How often it is paid.
        interval: Interval,
    },
    /// The plan is called something else.
    Renamed {
        /// What it is called now.
        name: Line,
    },
}

/// Why a plan refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No such plan.
    #[error("there is no such plan")]
    NotFound,
    /// It is there already.
    #[error("the plan exists already")]
    AlreadyExists,
}

impl Aggregate for Plan {
    const STREAM: StreamType = names::PLAN;
    const REVISION: i32 = 1;
    type Id = PlanId;
    type Command = PlanCommand;
    type Event = PlanEvent;
    type Error = PlanError;

    fn claims(command: &PlanCommand) -> Vec<ClaimChange> {
        match command {
            PlanCommand::Create { external_id, .. } => external_id_claim(external_id.as_ref()),
            PlanCommand::Rename { .. } => Vec::new(),
        }
    }

    fn decide(&self, command: PlanCommand, _ctx: &Context) -> Result<Vec<PlanEvent>, PlanError> {
        use {PlanCommand as C, PlanError as Error, PlanEvent as E, PlanStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Create { external_id, name, price, interval }) => {
                vec![E::Created { external_id, name, price, interval }]
            }
            (S::Active, C::Create { .. }) => return Err(Error::AlreadyExists),
            (S::None, C::Rename { .. }) => return Err(Error::NotFound),
            (S::Active, C::Rename { name: None }) => vec![],
            (S::Active, C::Rename { name: Some(name) }) if self.name.as_ref() == Some(&name) => vec![],
            (S::Active, C::Rename { name: Some(name) }) => vec![E::Renamed { name }],
        })
    }

    fn apply(&mut self, event: PlanEvent) {
        match event {
            PlanEvent::Created { external_id, name, price, interval } => {
                *self =
                    Self { status: PlanStatus::Active, external_id, name: Some(name), price: Some(price), interval };
            }
            PlanEvent::Renamed { name } => self.name = Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Currency;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn price() -> Money {
        Money::new(2_000, Currency::USD).unwrap()
    }

    fn external_id() -> Option<ExternalId> {
        Some("basic".parse().unwrap())
    }

    fn create() -> PlanCommand {
        let name = "Basic".parse().unwrap();
        PlanCommand::Create { external_id: external_id(), name, price: price(), interval: Interval::Year }
    }

    fn created() -> PlanEvent {
        let name = "Basic".parse().unwrap();
        PlanEvent::Created { external_id: external_id(), name, price: price(), interval: Interval::Year }
    }

    fn rename(name: &str) -> PlanCommand {
        PlanCommand::Rename { name: Some(name.parse().unwrap()) }
    }

    fn renamed(name: &str) -> PlanEvent {
        PlanEvent::Renamed { name: name.parse().unwrap() }
    }

    fn given(events: impl IntoIterator<Item = PlanEvent>) -> Given<Plan> {
        Given::events(ctx(), events)
    }

    #[test]
    fn a_plan_is_created_once_under_its_external_id() {
        given([]).when_then(create(), [created()]);
        given([created()]).when_refused(create(), PlanError::AlreadyExists);
        assert_eq!(Plan::claims(&create()), external_id_claim(external_id().as_ref()));
        assert_eq!(Plan::claims(&rename("Pro")), []);
    }

    #[test]
    fn a_plan_is_renamed_and_keeps_its_price() {
        given([created()]).when_then(rename("Pro"), [renamed("Pro")]);
        given([created()]).when_then(rename("Basic"), []);
        given([created(), renamed("Pro")]).when_then(rename("Basic"), [renamed("Basic")]);
        given([]).when_refused(rename("Pro"), PlanError::NotFound);
        let mut plan = Plan::default();
        plan.apply(created());
        plan.apply(renamed("Pro"));
        assert_eq!(
            (plan.name, plan.price, plan.interval),
            (Some("Pro".parse().unwrap()), Some(price()), Interval::Year)
        );
    }

    #[test]
    fn intervals_have_months_and_permanent_names() {
        assert_eq!([Interval::Month, Interval::Year].map(Interval::months), [1, 12]);
        assert_eq!(serde_json::to_string(&[Interval::Month, Interval::Year]).unwrap(), r#"["month","year"]"#);
    }
}
