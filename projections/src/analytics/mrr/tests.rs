//! Recurring revenue by value: what is published, and what an order of events makes of it.

use chrono::{DateTime, Utc};
use domain::billing::{
    CancelAt, Interval, Start, Subscription, SubscriptionCommand, SubscriptionEvent, SubscriptionStatus, Terms,
};
use domain::{Aggregate, AnyId, Context, CustomerId, Money, PlanId, TenantId, names};
use eventstore::new_id;
use uuid::Uuid;

use super::{ANALYTICS_MRR, Mrr};
use crate::analytics::revenue::{Revenue, RevenuePeriod};
use crate::analytics::sales::{ANALYTICS_SALES, Sales};
use crate::analytics::{self, Range};
use crate::test_support::{House, Place, at, money, recorded};
use crate::{ReadError, Standpoint};

/// A subscription, and what happened to it.
pub(super) struct History {
    pub(super) id: Uuid,
    pub(super) customer: CustomerId,
    pub(super) state: Subscription,
    pub(super) events: Vec<(SubscriptionEvent, DateTime<Utc>)>,
}

impl History {
    pub(super) fn new(customer: CustomerId) -> Self {
        Self { id: new_id(), customer, state: Subscription::default(), events: Vec::new() }
    }

    /// Whatever comes of a command that is said to have happened then, now that it is `now`.
    pub(super) fn run(&mut self, command: SubscriptionCommand, now: DateTime<Utc>, occurred_at: DateTime<Utc>) {
        let actor = AnyId::new("key", Uuid::from_u128(1));
        let ctx = Context::new(TenantId::default(), actor, now).at(occurred_at);
        for event in self.state.decide(command, &ctx).unwrap_or_default() {
            self.state.apply(event.clone());
            self.events.push((event, occurred_at));
        }
    }

    fn start(mut self, price: Money, interval: Interval, quantity: i64, day: &str) -> Self {
        let terms = Terms { plan: PlanId::default(), price, interval };
        let (customer, time_zone) = (self.customer, "UTC".parse().unwrap());
        let start = Start { external_id: None, customer, terms, quantity, time_zone };
        self.run(SubscriptionCommand::Start(start), at(day), at(day));
        assert_eq!(self.state.status, SubscriptionStatus::Active);
        self
    }

    fn quantity(mut self, quantity: i64, day: &str) -> Self {
        let customer = self.customer;
        let change = SubscriptionCommand::Change { customer, terms: None, quantity: Some(quantity) };
        self.run(change, at(day), at(day));
        assert_eq!(self.state.quantity, quantity);
        self
    }

    fn cancel(mut self, day: &str) -> Self {
        self.run(SubscriptionCommand::Cancel { at: CancelAt::Now, reason: None }, at(day), at(day));
        assert_eq!(self.state.status, SubscriptionStatus::Cancelled);
        self
    }
}

/// A tenant's log of subscriptions, in the order in which they are told.
pub(super) struct Told<'a> {
    house: &'a House,
    pub(super) tenant: Uuid,
    pub(super) sequence: i64,
}

impl<'a> Told<'a> {
    pub(super) async fn new(house: &'a House) -> Self {
        let told = Self { house, tenant: new_id(), sequence: 0 };
        told.sold(0).await;
        told
    }

    /// Says that the orders were seen up to a sequence.
    async fn sold(&self, sequence: i64) {
        self.house.note(ANALYTICS_SALES, self.tenant, sequence).await;
    }

    pub(super) async fn tell(&mut self, histories: &[History]) {
        let order = histories.iter().enumerate();
        let order: Vec<usize> = order.flat_map(|(place, history)| vec![place; history.events.len()]).collect();
        self.tell_in(histories, &order).await;
    }

    /// The next event of the history with that number, and so on, in batches.
    pub(super) async fn tell_in(&mut self, histories: &[History], order: &[usize]) {
        let mut versions = vec![0; histories.len()];
        let mut events = Vec::with_capacity(order.len());
        for &number in order {
            let history = &histories[number];
            let (event, occurred_at) = &history.events[versions[number]];
            versions[number] += 1;
            self.sequence += 1;
            let version = versions[number] as i64;
            let place = Place { tenant: self.tenant, sequence: self.sequence, stream: history.id, version };
            events.push(recorded(place, names::SUBSCRIPTION.name, event, *occurred_at));
        }
        self.house.take(&Mrr, &events.chunks(2_000).collect::<Vec<_>>()).await;
        self.sold(self.sequence).await;
    }

    pub(super) async fn report(&self, range: &Range, now: &str) -> Revenue {
        self.house.reads.revenue(self.tenant, range, &Standpoint::now(at(now))).await.unwrap()
    }

    async fn months(&self, now: &str) -> Vec<Row> {
        self.report(&months(None, None), now).await.periods.iter().map(row).collect()
    }
}

pub(super) fn months(from: Option<&str>, to: Option<&str>) -> Range {
    let interval = analytics::Interval::Month;
    Range { from: from.map(at), to: to.map(at), interval, time_zone: "UTC".into() }
}

/// Period, currency, MRR, new, expansion, contraction, churn, reactivation, active subscriptions.
type Row = (String, String, i64, [i64; 5], i64);

pub(super) fn movements(period: &RevenuePeriod) -> [i64; 5] {
    let moved = &period.mrr_movements;
    [&moved.new, &moved.expansion, &moved.contraction, &moved.churn, &moved.reactivation].map(|sum| sum.amount)
}

fn row(period: &RevenuePeriod) -> Row {
    let currency = period.currency.to_string();
    (period.period.clone(), currency, period.mrr.amount, movements(period), period.active_subscriptions)
}

fn usd(period: &str, mrr: i64, moved: [i64; 5], active: i64) -> Row {
    (period.into(), "USD".into(), mrr, moved, active)
}

fn customer() -> CustomerId {
    CustomerId::from(new_id())
}

fn monthly(customer: CustomerId, amount: i64, day: &str) -> History {
    History::new(customer).start(money(amount, "USD"), Interval::Month, 1, day)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_chartmogul_publishes_comes_out_cell_by_cell() {
    let Some(house) = House::open().await else { return };
    // One customer: four Gold by the year at 500, two Silver by the month at 30, and what becomes of them.
    let mut told = Told::new(&house).await;
    let syncalytics = customer();
    let gold = History::new(syncalytics).start(money(50_000, "USD"), Interval::Year, 4, "2024-01-10T00:00:00Z");
    let silver = History::new(syncalytics).start(money(3_000, "USD"), Interval::Month, 2, "2024-02-03T00:00:00Z");
    let back = History::new(syncalytics).start(money(5_000, "USD"), Interval::Month, 3, "2024-06-20T00:00:00Z");
    told.tell(&[gold.cancel("2024-05-31T23:59:59Z"), silver.cancel("2024-03-17T00:00:00Z"), back]).await;
    assert_eq!(
        told.months("2024-06-30T00:00:00Z").await,
        [
            usd("2024-01", 16_667, [16_667, 0, 0, 0, 0], 1),
            usd("2024-02", 22_667, [0, 6_000, 0, 0, 0], 2),
            usd("2024-03", 16_667, [0, 0, 6_000, 0, 0], 1),
            usd("2024-04", 16_667, [0; 5], 1),
            usd("2024-05", 0, [0, 0, 0, 16_667, 0], 0),
            usd("2024-06", 15_000, [0, 0, 0, 0, 15_000], 1),
        ]
    );

    // Four customers by the year at 2,000; two of them take one more, which together are worth 60 a month.
    let mut told = Told::new(&house).await;
    let four = [customer(), customer(), customer(), customer()];
    let yearly =
        |customer| History::new(customer).start(money(200_000, "USD"), Interval::Year, 1, "2024-01-10T00:00:00Z");
    told.tell(&four.map(yearly)).await;
    let more = four[..2].iter().map(|customer| monthly(*customer, 3_000, "2024-02-10T00:00:00Z"));
    let more: Vec<_> = more.map(|history| history.cancel("2024-03-10T00:00:00Z")).collect();
    told.tell(&more).await;
    assert_eq!(
        told.months("2024-03-31T00:00:00Z").await,
        [
            usd("2024-01", 4 * 16_667, [4 * 16_667, 0, 0, 0, 0], 4),
            usd("2024-02", 4 * 16_667 + 6_000, [0, 6_000, 0, 0, 0], 6),
            usd("2024-03", 4 * 16_667, [0, 0, 6_000, 0, 0], 4),
        ]
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_100_at_the_start_10_churned_10_less_and_10_more_are_20_percent_gross_and_10_net() {
    let Some(house) = House::open().await else { return };
    let mut told = Told::new(&house).await;
    let day = "2024-04-01T00:00:00Z";
    told.tell(&[
        monthly(customer(), 1_000, day).cancel("2024-05-03T00:00:00Z"),
        History::new(customer())
            .start(money(1_000, "USD"), Interval::Month, 3, day)
            .quantity(2, "2024-05-04T00:00:00Z"),
        History::new(customer())
            .start(money(1_000, "USD"), Interval::Month, 6, day)
            .quantity(7, "2024-05-05T00:00:00Z"),
        // What is new is no part of it.
        monthly(customer(), 5_500, "2024-05-06T00:00:00Z"),
        // A subscription that brings nothing counts, and moves nothing.
        monthly(customer(), 0, "2024-05-07T00:00:00Z"),
    ])
    .await;
    let periods = told.report(&months(None, None), "2024-05-20T00:00:00Z").await.periods;
    assert_eq!((periods[0].gross_mrr_churn_rate, periods[0].net_mrr_churn_rate), (None, None));
    assert_eq!((periods[1].gross_mrr_churn_rate, periods[1].net_mrr_churn_rate), (Some(0.2), Some(0.1)));
    assert_eq!(row(&periods[1]), usd("2024-05", 14_500, [5_500, 1_000, 1_000, 1_000, 0], 4));

    let kpis = house.reads.kpis(told.tenant, &Standpoint::now(at("2024-05-20T00:00:00Z"))).await.unwrap();
    assert_eq!((kpis.active_subscriptions.value, kpis.active_subscriptions.sequence), (4, told.sequence));
    let value = |figures: &[analytics::Amount]| figures.iter().map(|sum| sum.amount).collect::<Vec<_>>();
    assert_eq!((value(&kpis.mrr.value), value(&kpis.arr.value)), (vec![14_500], vec![174_000]));
    assert_eq!(value(&kpis.arpu.value), [3_625], "four customers, one of whom pays nothing");
    let rates = (kpis.gross_mrr_churn_rate.value[0].rate, kpis.net_mrr_churn_rate.value[0].rate);
    assert_eq!(rates, (Some(0.2), Some(0.1)));
    let before = house.reads.kpis(told.tenant, &Standpoint::now(at("2024-04-20T00:00:00Z"))).await.unwrap();
    assert_eq!(before.gross_mrr_churn_rate.value[0].rate, None, "there was nothing 30 days before");
    assert_eq!(before.runs.value, crate::agents::metrics::RunCounts::default());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_late_moves_all_after_it_to_its_place() {
    let Some(house) = House::open().await else { return };
    let mut told = Told::new(&house).await;
    let ada = customer();
    told.tell(&[monthly(ada, 500, "2024-03-05T00:00:00Z")]).await;
    assert_eq!(told.months("2024-03-31T00:00:00Z").await, [usd("2024-03", 500, [500, 0, 0, 0, 0], 1)]);
    // She had one before, which had ended.
    told.tell(&[monthly(ada, 300, "2024-01-05T00:00:00Z").cancel("2024-02-05T00:00:00Z")]).await;
    let expected = [
        usd("2024-01", 300, [300, 0, 0, 0, 0], 1),
        usd("2024-02", 0, [0, 0, 0, 300, 0], 0),
        usd("2024-03", 500, [0, 0, 0, 0, 500], 1),
    ];
    assert_eq!(told.months("2024-03-31T00:00:00Z").await, expected);
    // And another one all the while: none of it was a start from nothing, or an end.
    told.tell(&[monthly(ada, 50, "2023-12-31T00:00:00Z")]).await;
    let expected = [
        usd("2023-12", 50, [50, 0, 0, 0, 0], 1),
        usd("2024-01", 350, [0, 300, 0, 0, 0], 2),
        usd("2024-02", 50, [0, 0, 300, 0, 0], 1),
        usd("2024-03", 550, [0, 500, 0, 0, 0], 2),
    ];
    assert_eq!(told.months("2024-03-31T00:00:00Z").await, expected);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn currencies_are_counted_apart() {
    let Some(house) = House::open().await else { return };
    let mut told = Told::new(&house).await;
    let ada = customer();
    let euros = History::new(ada).start(money(700, "EUR"), Interval::Month, 1, "2024-02-01T00:00:00Z");
    told.tell(&[monthly(ada, 500, "2024-01-01T00:00:00Z").cancel("2024-02-10T00:00:00Z"), euros]).await;
    let eur = |period: &str, mrr, moved, active| (period.to_owned(), "EUR".to_owned(), mrr, moved, active);
    let expected = [
        eur("2024-01", 0, [0; 5], 0),
        usd("2024-01", 500, [500, 0, 0, 0, 0], 1),
        eur("2024-02", 700, [700, 0, 0, 0, 0], 1),
        usd("2024-02", 0, [0, 0, 0, 500, 0], 0),
    ];
    assert_eq!(told.months("2024-02-28T00:00:00Z").await, expected);
    let kpis = house.reads.kpis(told.tenant, &Standpoint::now(at("2024-02-28T00:00:00Z"))).await.unwrap();
    let shown = |figures: &[analytics::Amount]| {
        figures.iter().map(|sum| (sum.currency.to_string(), sum.amount)).collect::<Vec<_>>()
    };
    assert_eq!(shown(&kpis.mrr.value), [("EUR".into(), 700), ("USD".into(), 0)]);
    assert_eq!(shown(&kpis.arpu.value), [("EUR".into(), 700)], "nobody pays in dollars");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_has_every_period_with_something_in_it() {
    let Some(house) = House::open().await else { return };
    let mut told = Told::new(&house).await;
    told.tell(&[monthly(customer(), 500, "2024-01-10T00:00:00Z").cancel("2024-06-10T00:00:00Z")]).await;
    let labels = async |from, to, now| {
        let periods = told.report(&months(from, to), now).await.periods;
        periods.iter().map(|period| (period.period[5..].to_owned(), period.mrr.amount)).collect::<Vec<_>>()
    };
    let rows = |rows: &[(&str, i64)]| rows.iter().map(|(label, mrr)| ((*label).to_owned(), *mrr)).collect::<Vec<_>>();
    // Once nothing comes in any more it ends, whatever the time is.
    let all = labels(None, None, "2025-01-01T00:00:00Z").await;
    assert_eq!((all.len(), &all[5]), (6, &("06".to_owned(), 0)));
    // While something does it goes on to now, and not beyond the range.
    let march = Some("2024-03-01T00:00:00Z");
    assert_eq!(labels(None, march, "2025-01-01T00:00:00Z").await, rows(&[("01", 500), ("02", 500)]));
    assert_eq!(labels(None, march, "2024-01-20T00:00:00Z").await, rows(&[("01", 500)]));
    // It begins with the range where something came in then.
    let april = Some("2024-04-15T00:00:00Z");
    assert_eq!(labels(april, None, "2025-01-01T00:00:00Z").await, rows(&[("04", 500), ("05", 500), ("06", 0)]));
    let may = Some("2024-05-01T00:00:00Z");
    assert_eq!(labels(april, may, "2025-01-01T00:00:00Z").await, rows(&[("04", 500)]));
    assert_eq!(labels(april, may, "2024-01-01T00:00:00Z").await, rows(&[]), "it is all to come");
    assert_eq!(labels(may, april, "2025-01-01T00:00:00Z").await, rows(&[]), "a range that ends before it begins");
    assert_eq!(labels(Some("2024-07-01T00:00:00Z"), None, "2025-01-01T00:00:00Z").await, rows(&[]));
    assert_eq!(labels(None, Some("2024-01-10T00:00:00Z"), "2025-01-01T00:00:00Z").await, rows(&[]));

    told.tell(&[monthly(customer(), 1, "2024-07-01T00:00:00Z")]).await;
    let days = Range { interval: analytics::Interval::Day, ..months(None, None) };
    let far = house.reads.revenue(told.tenant, &days, &Standpoint::now(at("2030-01-01T00:00:00Z"))).await;
    assert!(matches!(far, Err(ReadError::TooManyPeriods { most: 1_100 })));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_stands_where_both_of_its_read_models_do() {
    let Some(house) = House::open().await else { return };
    let mut told = Told::new(&house).await;
    let ada = customer();
    told.tell(&[monthly(ada, 500, "2024-01-10T00:00:00Z")]).await;
    let place = Place { tenant: told.tenant, sequence: 2, stream: new_id(), version: 1 };
    let event = domain::commerce::OrderEvent::Placed {
        external_id: None,
        customer: ada,
        lines: Vec::new(),
        total: money(900, "USD"),
    };
    house.take(&Sales, &[&[recorded(place, names::ORDER.name, &event, at("2024-01-11T00:00:00Z"))]]).await;
    let range = months(None, None);
    let first = told.report(&range, "2024-01-31T00:00:00Z").await;
    assert_eq!((first.sequence, first.periods[0].orders, first.periods[0].mrr.amount), (1, 0, 500));
    house.note(ANALYTICS_MRR, told.tenant, 2).await;
    let second = told.report(&range, "2024-01-31T00:00:00Z").await;
    assert_eq!((second.sequence, second.periods[0].orders, second.periods[0].mrr.amount), (2, 1, 500));
    // The subscriptions are ahead of the orders.
    house.note(ANALYTICS_SALES, told.tenant, 0).await;
    let nothing = told.report(&range, "2024-01-31T00:00:00Z").await;
    assert_eq!((nothing.sequence, nothing.periods.len()), (0, 0));
    house.close().await;
}
