//! What holds in every history of a subscription, over thousands of random ones.

use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::Currency;
use crate::test_support;

/// Numbers that are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn quantity(&mut self) -> i64 {
        // Now and then 0, which is refused.
        i64::try_from(self.below(20)).unwrap()
    }

    fn terms(&mut self) -> Terms {
        let currency = if self.one_in(12) { "EUR".parse().unwrap() } else { Currency::USD };
        let price = Money::new(i64::try_from(self.below(300_000)).unwrap(), currency).unwrap();
        let interval = if self.one_in(3) { Interval::Year } else { Interval::Month };
        Terms { plan: PlanId::from(Uuid::from_u128(u128::from(self.below(5)))), price, interval }
    }

    fn span(&mut self, days: u64) -> TimeDelta {
        TimeDelta::microseconds(i64::try_from(self.below(days * 86_400_000_000)).unwrap())
    }

    fn command(&mut self, now: DateTime<Utc>) -> SubscriptionCommand {
        let customer = CustomerId::from(Uuid::from_u128(7));
        match self.below(10) {
            0 => SubscriptionCommand::Start(self.start()),
            1..=4 => {
                let terms = self.one_in(2).then(|| self.terms());
                let quantity = self.one_in(2).then(|| self.quantity());
                SubscriptionCommand::Change { customer, terms, quantity }
            }
            5 => SubscriptionCommand::Due { at: now },
            6 | 7 => SubscriptionCommand::Reactivate,
            _ => {
                let at = if self.one_in(4) { CancelAt::Now } else { CancelAt::PeriodEnd };
                let reason = self.one_in(2).then(|| "moved away".parse().unwrap());
                SubscriptionCommand::Cancel { at, reason }
            }
        }
    }

    fn start(&mut self) -> Start {
        let zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"];
        let zone = zones[usize::try_from(self.below(5)).unwrap()];
        Start {
            external_id: None,
            customer: CustomerId::from(Uuid::from_u128(7)),
            terms: self.terms(),
            quantity: self.quantity(),
            time_zone: zone.parse().unwrap(),
        }
    }
}

/// A stream and what its events add up to.
#[derive(Default)]
struct History {
    state: Subscription,
    sum: i64,
    seen: std::collections::HashSet<&'static str>,
}

impl History {
    fn run(&mut self, command: SubscriptionCommand, now: DateTime<Utc>, occurred_at: DateTime<Utc>) {
        let ctx = test_support::ctx();
        let ctx = Context::new(ctx.tenant, ctx.actor, now).at(occurred_at);
        for event in self.state.decide(command, &ctx).unwrap_or_default() {
            let before = self.state.clone();
            assert_ne!(before.status, SubscriptionStatus::Cancelled, "{event:?} after the end");
            self.state.apply(event.clone());
            self.seen.insert(event.event_type().name);
            self.sum += delta(&event);
            periods_go_on(&before, &self.state, &event);
        }
        self.holds();
    }

    /// The host's part: what is due until `now`, each at its moment.
    fn catch_up(&mut self, now: DateTime<Utc>) {
        while let Some(at) = self.state.wakes_at().filter(|at| *at <= now) {
            self.run(Subscription::due(at), now, at);
            assert_ne!(self.state.wakes_at(), Some(at), "what was due is done");
        }
    }

    /// What is true of every state between two commands.
    fn holds(&self) {
        let Subscription { status, price, quantity, interval, current_period, cancel_at, .. } = self.state;
        assert_eq!(self.sum, self.state.mrr.map_or(0, |mrr| mrr.amount));
        match status {
            SubscriptionStatus::None => assert_eq!(self.state, Subscription::default()),
            SubscriptionStatus::Active => {
                assert_eq!(self.state.mrr, mrr(price.unwrap(), quantity, interval).ok());
                let end = current_period.unwrap().end;
                assert!(cancel_at.is_none_or(|at| at == end) && self.state.wakes_at() == Some(end));
            }
            SubscriptionStatus::Cancelled => {
                assert!(self.sum == 0 && cancel_at.is_some() && self.state.wakes_at().is_none());
            }
        }
    }
}

fn delta(event: &SubscriptionEvent) -> i64 {
    use SubscriptionEvent as E;
    match event {
        E::Started { mrr, .. } => mrr.amount,
        E::Changed { mrr, mrr_before, .. } => mrr.amount - mrr_before.amount,
        E::Cancelled { mrr_before, .. } => -mrr_before.amount,
        E::Renewed { .. } | E::CancellationScheduled { .. } | E::Reactivated { .. } => 0,
    }
}

/// Each period begins where the one before ended, or cuts it short.
fn periods_go_on(before: &Subscription, after: &Subscription, event: &SubscriptionEvent) {
    let now = after.current_period.unwrap();
    assert!(now.start < now.end);
    assert_eq!(now.end, boundary(after.anchor.unwrap(), (after.cycle + 1) * after.interval.months(), &after.time_zone));
    let Some(then) = before.current_period else { return };
    match event {
        SubscriptionEvent::Renewed { .. } => assert_eq!((now.start, after.cycle), (then.end, before.cycle + 1)),
        SubscriptionEvent::Changed { period: Some(_), .. } => {
            assert!(then.start <= now.start && now.start <= then.end);
            assert_eq!((after.anchor, after.cycle), (Some(now.start), 0));
        }
        _ => assert_eq!((now, after.cycle, after.anchor), (then, before.cycle, before.anchor)),
    }
}

#[test]
fn every_history_adds_up_and_its_periods_tile_time() {
    let mut random = Random(0x5EED_CAFE_F00D_0001);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let mut history = History::default();
        let mut now = DateTime::from_timestamp(1_700_000_000, 0).unwrap() + random.span(1_500);
        let began = if random.one_in(4) { now - random.span(4_000) } else { now };
        history.run(SubscriptionCommand::Start(random.start()), now, began);
        for _ in 0..random.below(12) {
            now += random.span(90);
            // Mostly the host was there before; sometimes it is late.
            if !random.one_in(5) {
                history.catch_up(now);
            }
            let occurred_at = if random.one_in(6) { now - random.span(60) } else { now };
            history.run(random.command(now), now, occurred_at);
        }
        history.catch_up(now + TimeDelta::days(400));
        let kept = serde_json::from_value(serde_json::to_value(&history.state).unwrap());
        assert_eq!(history.state, kept.unwrap(), "a state survives");
        seen.extend(history.seen);
    }
    assert_eq!(seen, names::SUBSCRIPTION.events.iter().copied().collect(), "every event is reached");
}
