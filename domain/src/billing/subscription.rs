//! A customer on a plan: `Active -> Cancelled`. Its periods are counted from an anchor in a time zone, and it wakes at
//! the end of each: to be renewed, or to be cancelled as was scheduled.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Interval, mrr};
use crate::aggregate::{ClaimChange, external_id_claim};
use crate::calendar::{Period, TimeZone, boundary, last_boundary, period_at};
use crate::personal::Support;
use crate::text::{ExternalId, Prose};
use crate::{
    Aggregate, Context, CustomerId, Event, Money, MoneyError, Personal, PlanId, StreamType, SubscriptionId, Timed,
    TypedId, names,
};
pub use command::{CancelAt, Start, SubscriptionCommand, Terms};

mod command;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

/// The most ends of periods that one command catches up with; a host that is later than that has to be first.
const MOST_ENDS: usize = 1_000;
/// The largest quantity of one subscription.
pub const MAX_QUANTITY: i64 = 1_000_000;

/// All that the resource shows, also after its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subscription {
    /// Where it stands.
    pub status: SubscriptionStatus,
    /// What the caller calls this subscription; unique in its tenant.
    pub external_id: Option<ExternalId>,
    /// Who subscribes.
    pub customer: CustomerId,
    /// To what.
    pub plan: PlanId,
    /// How many.
    pub quantity: i64,
    /// What one costs in each interval, as the plan had it.
    pub price: Option<Money>,
    /// How often it is paid, as the plan had it.
    pub interval: Interval,
    /// Where the days of its periods begin and end.
    pub time_zone: TimeZone,
    /// What its periods are counted from: the start, or the last change to another interval.
    pub anchor: Option<DateTime<Utc>>,
    /// The number of the running period since the anchor, from 0.
    pub cycle: u32,
    /// The running period; after the end the one that it ended in.
    pub current_period: Option<Period>,
    /// What it brings in a month; zero after the end.
    pub mrr: Option<Money>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it is to end, or ended.
    pub cancel_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Why it is to end, or ended.
    pub reason: Option<Personal<Prose, Support>>,
}

/// `none -> active -> cancelled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// Not there.
    #[default]
    None,
    /// Runs, perhaps to an end that is scheduled.
    Active,
    /// Has ended.
    Cancelled,
}

/// What can have happened to a subscription.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "subscription")]
pub enum SubscriptionEvent {
    /// The subscription began.
    Started {
        /// What the caller calls this subscription.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
        /// Who subscribes.
        customer: CustomerId,
        /// To what.
        plan: PlanId,
        /// What one costs in each interval.
        price: Money,
        /// How often it is paid.
        interval: Interval,
        /// How many.
        quantity: i64,
        /// Where the days of its periods begin and end.
        time_zone: TimeZone,
        /// When it began, which its periods are counted from.
        anchor: DateTime<Utc>,
        /// The running period.
        period: Period,
        /// The period's number since the anchor, from 0.
        cycle: u32,
        /// What it brings in a month.
        mrr: Money,
    },
    /// It is for another plan or quantity.
    Changed {
        /// Who subscribes.
        customer: CustomerId,
        /// To what now.
        plan: PlanId,
        /// What one costs now in each interval.
        price: Money,
        /// How often it is paid now.
        interval: Interval,
        /// How many now.
        quantity: i64,
        /// What it brought in a month before.
        mrr_before: Money,
        /// What it brings in a month now.
        mrr: Money,
        /// What its periods are counted from, where a period began because the interval is another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<DateTime<Utc>>,
        /// The period that began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        period: Option<Period>,
        /// The number of the period that began since the anchor, from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cycle: Option<u32>,
    },
    /// A period ended and the next one began.
    Renewed {
        /// Who subscribes.
        customer: CustomerId,
        /// The period that began.
        period: Period,
        /// Its number since the anchor, from 0.
        cycle: u32,
    },
    /// It is to end with the running period.
    CancellationScheduled {
        /// Who subscribes.
        customer: CustomerId,
        /// When it is to end.
        at: DateTime<Utc>,
        /// Why; as said before if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Personal<Prose, Support>>,
    },
    /// The scheduled end was taken back.
    Reactivated {
        /// Who subscribes.
        customer: CustomerId,
    },
    /// The subscription ended.
    Cancelled {
        /// Who subscribed.
        customer: CustomerId,
        /// When it ended.
        at: DateTime<Utc>,
        /// What it brought in a month before.
        mrr_before: Money,
        /// Why; as said before if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Personal<Prose, Support>>,
    },
}

/// Why a subscription refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The customer has no such subscription.
    #[error("there is no such subscription")]
    NotFound,
    /// It is there already.
    #[error("the subscription exists already")]
    AlreadyExists,
    /// A quantity out of range.
    #[error("the quantity must be between 1 and {MAX_QUANTITY}")]
    Quantity,
    /// A plan in another currency.
    #[error("a subscription stays in the currency that it began in")]
    Currency,
    /// The quantity times the price is out of range.
    #[error("the amount {source}")]
    Amount {
        /// What is wrong with it.
        source: MoneyError,
    },
    /// It has ended.
    #[error("the subscription is cancelled")]
    Cancelled,
}

/// What it brings in a month, where quantity and amount are in range.
fn checked_mrr(terms: Terms, quantity: i64) -> Result<Money, SubscriptionError> {
    if !(1..=MAX_QUANTITY).contains(&quantity) {
        return Err(SubscriptionError::Quantity);
    }
    mrr(terms.price, quantity, terms.interval).map_err(|source| SubscriptionError::Amount { source })
}

fn start(new: Start, ctx: &Context) -> Result<SubscriptionEvent, SubscriptionError> {
    let Start { external_id, customer, terms, quantity, time_zone } = new;
    let mrr = checked_mrr(terms, quantity)?;
    let Terms { plan, price, interval } = terms;
    let anchor = ctx.occurred_at;
    let (cycle, start, end) = period_at(anchor, interval.months(), &time_zone, ctx.now);
    let period = Period { start, end };
    Ok(SubscriptionEvent::Started {
        external_id,
        customer,
        plan,
        price,
        interval,
        quantity,
        time_zone,
        anchor,
        period,
        cycle,
        mrr,
    })
}

impl Subscription {
    fn change(
        &self,
        terms: Option<Terms>,
        quantity: Option<i64>,
        ctx: &Context,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionError> {
        let (Some(price), Some(mrr_before), Some(running)) = (self.price, self.mrr, self.current_period) else {
            return Err(SubscriptionError::NotFound);
        };
        let before = Terms { plan: self.plan, price, interval: self.interval };
        let (terms, quantity) = (terms.unwrap_or(before), quantity.unwrap_or(self.quantity));
        if terms.price.currency != price.currency {
            return Err(SubscriptionError::Currency);
        }
        let mrr = checked_mrr(terms, quantity)?;
        if (terms, quantity) == (before, self.quantity) {
            return Ok(vec![]);
        }
        let Terms { plan, price, interval } = terms;
        let (customer, mut changed) = (self.customer, Vec::new());
        // The running period ends where the new one begins, so that no moment is in two periods or in none: not before
        // its start, and not after its end, should the renewal still be to come.
        let anchor = (interval != before.interval).then(|| ctx.occurred_at.max(running.start).min(running.end));
        let period = anchor.map(|start| Period { start, end: boundary(start, interval.months(), &self.time_zone) });
        let cycle = anchor.map(|_| 0);
        changed.push(SubscriptionEvent::Changed {
            customer,
            plan,
            price,
            interval,
            quantity,
            mrr_before,
            mrr,
            anchor,
            period,
            cycle,
        });
        // It was to end with its period, which is another one now.
        if let (Some(_), Some(period)) = (self.cancel_at, period) {
            changed.push(SubscriptionEvent::CancellationScheduled { customer, at: period.end, reason: None });
        }
        Ok(changed)
    }

    fn cancel(&self, at: CancelAt, reason: Option<Prose>, ctx: &Context) -> Vec<SubscriptionEvent> {
        let customer = self.customer;
        let reason = reason.map(|reason| Personal::open(customer.uuid(), reason));
        match (at, self.wakes_at()) {
            (CancelAt::Now, _) => self.cancelled(ctx.occurred_at, reason),
            (CancelAt::PeriodEnd, end) if self.cancel_at == end && reason.is_none() => vec![],
            (CancelAt::PeriodEnd, None) => vec![],
            (CancelAt::PeriodEnd, Some(at)) => {
                vec![SubscriptionEvent::CancellationScheduled { customer, at, reason }]
            }
        }
    }

    fn cancelled(&self, at: DateTime<Utc>, reason: Option<Personal<Prose, Support>>) -> Vec<SubscriptionEvent> {
        let cancelled = |mrr_before| SubscriptionEvent::Cancelled { customer: self.customer, at, mrr_before, reason };
        self.mrr.map(cancelled).into_iter().collect()
    }

    /// What the end of the running period brings.
    fn period_ended(&self, at: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        if self.cancel_at == Some(at) {
            return self.cancelled(at, None);
        }
        let cycle = self.cycle.saturating_add(1);
        let months = cycle.saturating_add(1).saturating_mul(self.interval.months());
        let end = boundary(self.anchor.unwrap_or(at), months, &self.time_zone);
        // Nothing is renewed after the year 9999.
        let next = (at < end).then_some(Period { start: at, end });
        next.map(|period| SubscriptionEvent::Renewed { customer: self.customer, period, cycle }).into_iter().collect()
    }

    /// The ends of periods that have come and that no timer has told yet, and the state after them: what is over can't be
    /// changed or taken back, however late the host is.
    fn caught_up(&self, now: DateTime<Utc>) -> (Vec<SubscriptionEvent>, Self) {
        let (mut events, mut state) = (Vec::new(), self.clone());
        while let Some(at) = state.wakes_at().filter(|at| *at <= now && events.len() < MOST_ENDS) {
            let ended = state.period_ended(at);
            ended.iter().cloned().for_each(|event| state.apply(event));
            events.extend(ended);
        }
        (events, state)
    }

    /// What follows from a command once all that was due is done.
    fn rule(&self, command: SubscriptionCommand, ctx: &Context) -> Result<Vec<SubscriptionEvent>, SubscriptionError> {
        use {SubscriptionCommand as C, SubscriptionError as Error, SubscriptionEvent as E, SubscriptionStatus as S};
        Ok(match (self.status, command) {
            (_, C::Due { at }) if self.wakes_at() != Some(at) => vec![],
            (S::None, C::Start(new)) => vec![start(new, ctx)?],
            (S::Active | S::Cancelled, C::Start(_)) => return Err(Error::AlreadyExists),
            (S::None, _) => return Err(Error::NotFound),
            (S::Active | S::Cancelled, C::Change { customer, .. }) if customer != self.customer => {
                return Err(Error::NotFound);
            }
            (S::Active, C::Change { terms, quantity, .. }) => self.change(terms, quantity, ctx)?,
            (S::Active, C::Cancel { at, reason }) => self.cancel(at, reason, ctx),
            (S::Active, C::Reactivate) if self.cancel_at.is_none() => vec![],
            (S::Active, C::Reactivate) => vec![E::Reactivated { customer: self.customer }],
            (S::Active, C::Due { at }) => self.period_ended(at),
            (S::Cancelled, C::Cancel { .. } | C::Due { .. }) => vec![],
            (S::Cancelled, C::Change { .. } | C::Reactivate) => return Err(Error::Cancelled),
        })
    }
}

impl Aggregate for Subscription {
    const STREAM: StreamType = names::SUBSCRIPTION;
    const REVISION: i32 = 1;
    const WAKES: bool = true;
    type Id = SubscriptionId;
    type Command = SubscriptionCommand;
    type Event = SubscriptionEvent;
    type Error = SubscriptionError;

    fn claims(command: &SubscriptionCommand) -> Vec<ClaimChange> {
        use SubscriptionCommand as C;
        match command {
            C::Start(start) => external_id_claim(start.external_id.as_ref()),
            C::Change { .. } | C::Cancel { .. } | C::Reactivate | C::Due { .. } => Vec::new(),
        }
    }

    fn about(command: &SubscriptionCommand) -> Vec<uuid::Uuid> {
        use SubscriptionCommand as C;
        match command {
            C::Start(Start { customer, .. }) | C::Change { customer, .. } => vec![customer.uuid()],
            // What an erased person subscribed to still ends, or goes on until it does; a reason can't be written.
            C::Cancel { .. } | C::Reactivate | C::Due { .. } => Vec::new(),
        }
    }

    fn decide(&self, command: SubscriptionCommand, ctx: &Context) -> Result<Vec<SubscriptionEvent>, SubscriptionError> {
        let (mut events, state) = match command {
            SubscriptionCommand::Due { .. } => (Vec::new(), self.clone()),
            _ => self.caught_up(ctx.now),
        };
        let ruled = state.rule(command, ctx)?;
        // What is only due anyway is left to its timer.
        if ruled.is_empty() {
            return Ok(ruled);
        }
        events.extend(ruled);
        Ok(events)
    }

    fn apply(&mut self, event: SubscriptionEvent) {
        use SubscriptionEvent as E;
        match event {
            E::Started {
                external_id,
                customer,
                plan,
                price,
                interval,
                quantity,
                time_zone,
                anchor,
                period,
                cycle,
                mrr,
            } => {
                *self = Self {
                    status: SubscriptionStatus::Active,
                    external_id,
                    customer,
                    plan,
                    quantity,
                    interval,
                    time_zone,
                    cycle,
                    price: Some(price),
                    anchor: Some(anchor),
                    current_period: Some(period),
                    mrr: Some(mrr),
                    started_at: Some(anchor),
                    ..Self::default()
                };
            }
            E::Changed { plan, price, interval, quantity, mrr, anchor, period, cycle, .. } => {
                (self.plan, self.price, self.interval, self.quantity) = (plan, Some(price), interval, quantity);
                self.mrr = Some(mrr);
                self.anchor = anchor.or(self.anchor);
                self.current_period = period.or(self.current_period);
                self.cycle = cycle.unwrap_or(self.cycle);
            }
            E::Renewed { period, cycle, .. } => (self.current_period, self.cycle) = (Some(period), cycle),
            E::CancellationScheduled { at, reason, .. } => {
                self.cancel_at = Some(at);
                self.reason = reason.or(self.reason.take());
            }
            E::Reactivated { .. } => (self.cancel_at, self.reason) = (None, None),
            E::Cancelled { at, mrr_before, reason, .. } => {
                self.status = SubscriptionStatus::Cancelled;
                self.mrr = Some(Money::zero(mrr_before.currency));
                (self.cancel_at, self.cancelled_at) = (Some(at), Some(at));
                self.reason = reason.or(self.reason.take());
            }
        }
    }

    fn wakes_at(&self) -> Option<DateTime<Utc>> {
        match self.status {
            // The last period of all has an end that nothing follows.
            SubscriptionStatus::Active => {
                self.current_period.map(|period| period.end).filter(|end| *end < last_boundary())
            }
            SubscriptionStatus::None | SubscriptionStatus::Cancelled => None,
        }
    }
}

impl Timed for Subscription {
    fn due(at: DateTime<Utc>) -> SubscriptionCommand {
        SubscriptionCommand::Due { at }
    }
}
