//! What holds of recurring revenue whatever happened, over ten thousand random subscriptions.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::billing::{CancelAt, Interval, Start, Subscription, SubscriptionCommand, SubscriptionStatus, Terms};
use domain::{Aggregate, Currency, CustomerId, PlanId, Timed, TypedId};
use uuid::Uuid;

use super::tests::{History, Told, months, movements};
use crate::Standpoint;
use crate::analytics::revenue::Revenue;
use crate::analytics::{self, Range};
use crate::test_support::{House, at, money};

const SUBSCRIPTIONS: usize = 10_000;
const NOW: &str = "2026-06-01T00:00:00Z";

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

    /// Between January 2024 and April 2026; often a midnight, so that much happens at once.
    fn moment(&mut self) -> DateTime<Utc> {
        let day = at("2024-01-01T00:00:00Z") + TimeDelta::days(self.below(840) as i64);
        if self.one_in(2) { day } else { day + TimeDelta::seconds(self.below(86_400) as i64) }
    }

    fn terms(&mut self, currency: &str) -> Terms {
        let amount = if self.one_in(10) { 0 } else { self.below(300_000) as i64 };
        let interval = if self.one_in(3) { Interval::Year } else { Interval::Month };
        Terms { plan: PlanId::default(), price: money(amount, currency), interval }
    }

    fn history(&mut self, customer: CustomerId) -> History {
        let (now, currency) = (at(NOW), if self.one_in(4) { "EUR" } else { "USD" });
        let mut history = History::new(customer);
        let mut day = self.moment();
        let (terms, quantity) = (self.terms(currency), self.below(5) as i64 + 1);
        let start = Start { external_id: None, customer, terms, quantity, time_zone: "UTC".parse().unwrap() };
        history.run(SubscriptionCommand::Start(start), now, day);
        for _ in 0..self.below(6) {
            // Now and then at any time at all, even before the start.
            let passed = TimeDelta::hours(self.below(1_500) as i64);
            day = if self.one_in(6) { self.moment() } else { (day + passed).min(now) };
            match self.below(8) {
                0..=3 => {
                    let terms = self.one_in(2).then(|| self.terms(currency));
                    let quantity = self.one_in(2).then(|| self.below(5) as i64 + 1);
                    history.run(SubscriptionCommand::Change { customer, terms, quantity }, now, day);
                }
                4 => history.run(SubscriptionCommand::Cancel { at: CancelAt::PeriodEnd, reason: None }, now, day),
                5 => history.run(SubscriptionCommand::Reactivate, now, day),
                _ => history.run(SubscriptionCommand::Cancel { at: CancelAt::Now, reason: None }, now, day),
            }
        }
        while let Some(due) = history.state.wakes_at().filter(|due| *due <= now) {
            history.run(Subscription::due(due), now, due);
        }
        history
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for end in (1..order.len()).rev() {
            order.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// What an event does, told from the states before and after it, not from what it says of itself.
struct Fact {
    at: DateTime<Utc>,
    sequence: usize,
    delta: i64,
}

/// New, expansion, contraction, churn and reactivation by month and currency, one customer after the other.
fn expected(histories: &[History], order: &[usize]) -> BTreeMap<(String, String), [i64; 5]> {
    let mut facts = BTreeMap::<(Uuid, String), Vec<Fact>>::new();
    let mut states: Vec<(usize, Subscription)> = histories.iter().map(|_| (0, Subscription::default())).collect();
    for (sequence, &number) in order.iter().enumerate() {
        let (next, state) = &mut states[number];
        let (event, at) = &histories[number].events[*next];
        *next += 1;
        let before = state.mrr.map_or(0, |mrr| mrr.amount);
        state.apply(event.clone());
        let mrr = state.mrr.unwrap();
        let key = (state.customer.uuid(), mrr.currency.to_string());
        facts.entry(key).or_default().push(Fact { at: *at, sequence, delta: mrr.amount - before });
    }
    let mut sums = BTreeMap::<(String, String), [i64; 5]>::new();
    for ((_, currency), mut facts) in facts {
        facts.sort_by_key(|fact| (fact.at, fact.sequence));
        let (mut before, mut most) = (0, 0);
        for Fact { at, delta, .. } in facts {
            let after = before + delta;
            let kind = match delta {
                0 => continue,
                1.. if before != 0 => 1,
                1.. if most > 0 => 4,
                1.. => 0,
                _ if after == 0 => 3,
                _ => 2,
            };
            let month = at.format("%Y-%m").to_string();
            sums.entry((month, currency.clone())).or_default()[kind] += delta.abs();
            (before, most) = (after, most.max(after));
        }
    }
    sums
}

/// In every period and currency, what was there before and what moved it is what is there after.
fn adds_up(report: &Revenue, mut mrr: BTreeMap<Currency, i64>) -> BTreeMap<Currency, (i64, i64)> {
    let mut last = BTreeMap::new();
    for period in &report.periods {
        let before = mrr.entry(period.currency).or_default();
        let moved = movements(period);
        assert!(moved.iter().all(|sum| *sum >= 0), "{period:?}");
        let [new, expansion, contraction, churn, reactivation] = moved;
        *before += new + expansion + reactivation - contraction - churn;
        assert_eq!(*before, period.mrr.amount, "{period:?}");
        last.insert(period.currency, (period.mrr.amount, period.active_subscriptions));
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mrr_is_what_it_was_and_what_moved_it_and_the_sum_of_what_runs() {
    let Some(house) = House::open().await else { return };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut histories: Vec<History> = Vec::with_capacity(SUBSCRIPTIONS);
    for customer in 1.. {
        let customer = CustomerId::from(Uuid::from_u128(customer));
        for _ in 0..=random.below(3) {
            histories.push(random.history(customer));
        }
        if histories.len() >= SUBSCRIPTIONS {
            break;
        }
    }
    // Each in its own order, all in any.
    let mut order: Vec<usize> =
        histories.iter().enumerate().flat_map(|(place, history)| vec![place; history.events.len()]).collect();
    random.shuffle(&mut order);
    let mut told = Told::new(&house).await;
    told.tell_in(&histories, &order).await;

    let mut sums = BTreeMap::<Currency, (i64, i64)>::new();
    for state in histories.iter().map(|history| &history.state) {
        let mrr = state.mrr.unwrap();
        let sum = sums.entry(mrr.currency).or_default();
        sum.0 += mrr.amount;
        sum.1 += i64::from(state.status == SubscriptionStatus::Active);
    }
    let all = months(None, None);
    let report = told.report(&all, NOW).await;
    assert_eq!(adds_up(&report, BTreeMap::new()), sums);
    let expected = expected(&histories, &order);
    let shown =
        report.periods.iter().map(|period| ((period.period.clone(), period.currency.to_string()), movements(period)));
    let shown: BTreeMap<_, _> = shown.filter(|(_, moved)| *moved != [0; 5]).collect();
    assert_eq!(shown, expected);
    assert!((0..5).all(|kind| shown.values().any(|moved| moved[kind] > 0)), "every kind occurs");

    for interval in [analytics::Interval::Week, analytics::Interval::Day] {
        let range = Range { interval, time_zone: "Europe/Berlin".into(), ..all.clone() };
        assert_eq!(adds_up(&told.report(&range, NOW).await, BTreeMap::new()), sums);
    }
    // A range that begins in the middle begins with what was there.
    let from = "2025-03-15T12:00:00Z";
    let before = told.report(&months(None, Some(from)), NOW).await;
    let opening = adds_up(&before, BTreeMap::new()).into_iter().map(|(currency, (mrr, _))| (currency, mrr)).collect();
    assert_eq!(adds_up(&told.report(&months(Some(from), None), NOW).await, opening), sums);

    let kpis = house.reads.kpis(told.tenant, &Standpoint::now(at(NOW))).await.unwrap();
    assert_eq!(kpis.active_subscriptions.value, sums.values().map(|sum| sum.1).sum::<i64>());
    assert!(kpis.mrr.value.iter().all(|mrr| mrr.amount == sums[&mrr.currency].0));
    house.close().await;
}
