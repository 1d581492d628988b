//! Every rule of a subscription, given, when and then.

use uuid::Uuid;

use super::*;
use crate::Currency;
use crate::cqrs::Given;
use crate::test_support;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Noon of a day in 2027.
fn noon(day: &str) -> DateTime<Utc> {
    at(&format!("2027-{day}T12:00:00Z"))
}

fn ctx(now: DateTime<Utc>) -> Context {
    let ctx = test_support::ctx();
    Context::new(ctx.tenant, ctx.actor, now)
}

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::USD).unwrap()
}

fn customer() -> CustomerId {
    CustomerId::from(Uuid::from_u128(7))
}

fn terms(plan: u128, price: Money, interval: Interval) -> Terms {
    Terms { plan: PlanId::from(Uuid::from_u128(plan)), price, interval }
}

fn basic() -> Terms {
    terms(1, usd(1_000), Interval::Month)
}

fn yearly() -> Terms {
    terms(2, usd(200_000), Interval::Year)
}

fn new(terms: Terms, quantity: i64) -> Start {
    let time_zone = "Europe/Berlin".parse().unwrap();
    Start { external_id: Some("s-1".parse().unwrap()), customer: customer(), terms, quantity, time_zone }
}

fn starting(terms: Terms, quantity: i64) -> SubscriptionCommand {
    SubscriptionCommand::Start(new(terms, quantity))
}

fn period(start: &str, end: &str) -> Period {
    Period { start: at(start), end: at(end) }
}

/// Two of the basic plan since noon of 31 January, which is one in the afternoon in Berlin.
fn started() -> SubscriptionEvent {
    SubscriptionEvent::Started {
        external_id: Some("s-1".parse().unwrap()),
        customer: customer(),
        plan: basic().plan,
        price: usd(1_000),
        interval: Interval::Month,
        quantity: 2,
        time_zone: "Europe/Berlin".parse().unwrap(),
        anchor: noon("01-31"),
        period: Period { start: noon("01-31"), end: noon("02-28") },
        cycle: 0,
        mrr: usd(2_000),
    }
}

fn renewed() -> SubscriptionEvent {
    let period = Period { start: noon("02-28"), end: at("2027-03-31T11:00:00Z") };
    SubscriptionEvent::Renewed { customer: customer(), period, cycle: 1 }
}

fn change(terms: Option<Terms>, quantity: Option<i64>) -> SubscriptionCommand {
    SubscriptionCommand::Change { customer: customer(), terms, quantity }
}

/// A change within the running period, from two of the basic plan.
fn changed(to: Terms, quantity: i64, mrr: Money) -> SubscriptionEvent {
    let Terms { plan, price, interval } = to;
    let (customer, mrr_before, anchor, period, cycle) = (customer(), usd(2_000), None, None, None);
    SubscriptionEvent::Changed { customer, plan, price, interval, quantity, mrr_before, mrr, anchor, period, cycle }
}

/// A change of two of the basic plan to the yearly one, which begins a period.
fn changed_to_yearly(start: DateTime<Utc>, end: DateTime<Utc>) -> SubscriptionEvent {
    let Terms { plan, price, interval } = yearly();
    SubscriptionEvent::Changed {
        customer: customer(),
        plan,
        price,
        interval,
        quantity: 2,
        mrr_before: usd(2_000),
        mrr: usd(33_333),
        anchor: Some(start),
        period: Some(Period { start, end }),
        cycle: Some(0),
    }
}

fn because() -> Option<Personal<Prose, Support>> {
    Some(Personal::open(customer().uuid(), "moved away".parse().unwrap()))
}

fn cancel(at: CancelAt) -> SubscriptionCommand {
    SubscriptionCommand::Cancel { at, reason: None }
}

fn cancel_because(at: CancelAt) -> SubscriptionCommand {
    SubscriptionCommand::Cancel { at, reason: Some("moved away".parse().unwrap()) }
}

fn scheduled(at: DateTime<Utc>, reason: Option<Personal<Prose, Support>>) -> SubscriptionEvent {
    SubscriptionEvent::CancellationScheduled { customer: customer(), at, reason }
}

fn reactivated() -> SubscriptionEvent {
    SubscriptionEvent::Reactivated { customer: customer() }
}

fn cancelled(at: DateTime<Utc>, reason: Option<Personal<Prose, Support>>) -> SubscriptionEvent {
    SubscriptionEvent::Cancelled { customer: customer(), at, mrr_before: usd(2_000), reason }
}

fn due(at: DateTime<Utc>) -> SubscriptionCommand {
    Subscription::due(at)
}

/// Commands come at noon of 10 February.
fn given(events: impl IntoIterator<Item = SubscriptionEvent>) -> Given<Subscription> {
    Given::events(ctx(noon("02-10")), events)
}

fn state(events: impl IntoIterator<Item = SubscriptionEvent>) -> Subscription {
    let mut state = Subscription::default();
    events.into_iter().for_each(|event| state.apply(event));
    state
}

#[test]
fn a_subscription_starts_once_under_its_external_id_and_with_what_it_brings_in_a_month() {
    let start = || starting(basic(), 2);
    Given::<Subscription>::events(ctx(noon("01-31")), []).when_then(start(), [started()]);
    given([started()]).when_refused(start(), SubscriptionError::AlreadyExists);
    given([started(), cancelled(noon("02-05"), None)]).when_refused(start(), SubscriptionError::AlreadyExists);
    assert_eq!(Subscription::claims(&start()), external_id_claim(Some(&"s-1".parse().unwrap())));
    assert_eq!(Subscription::claims(&change(None, Some(1))), []);
}

#[test]
fn an_earlier_start_has_the_running_period_and_no_renewals() {
    let ctx = ctx(at("2027-07-15T00:00:00Z")).at(noon("01-31"));
    let mut events = Subscription::default().decide(starting(basic(), 2), &ctx).unwrap();
    let Some(SubscriptionEvent::Started { anchor, period: running, cycle, .. }) = events.pop() else { panic!() };
    assert_eq!(events, []);
    assert_eq!((anchor, cycle), (noon("01-31"), 5));
    assert_eq!(running, period("2027-06-30T11:00:00Z", "2027-07-31T11:00:00Z"));
}

#[test]
fn quantity_and_amount_stay_in_range() {
    let far = terms(1, usd(crate::money::MAX_AMOUNT), Interval::Year);
    let amount = SubscriptionError::Amount { source: MoneyError::OutOfRange };
    for quantity in [i64::MIN, -1, 0, MAX_QUANTITY + 1, i64::MAX] {
        given([]).when_refused(starting(basic(), quantity), SubscriptionError::Quantity);
        given([started()]).when_refused(change(None, Some(quantity)), SubscriptionError::Quantity);
    }
    given([]).when_refused(starting(far, 2), amount.clone());
    given([started()]).when_refused(change(Some(far), None), amount);
    given([started()])
        .when_then(change(None, Some(MAX_QUANTITY)), [changed(basic(), MAX_QUANTITY, usd(1_000_000_000))]);
    assert!(Subscription::default().decide(starting(far, 1), &ctx(noon("01-31"))).is_ok());
}

#[test]
fn a_years_price_is_divided_once_and_a_half_goes_to_the_even() {
    let of = |price, quantity, interval| mrr(usd(price), quantity, interval).map(|money| money.amount);
    assert_eq!(of(200_000, 1, Interval::Year), Ok(16_667));
    assert_eq!(of(200_000, 3, Interval::Year), Ok(50_000), "on the product: three times 16667 would be 50001");
    assert_eq!(of(6, 1, Interval::Year), Ok(0), "a half, down to the even");
    assert_eq!(of(18, 1, Interval::Year), Ok(2), "one and a half, up to the even");
    assert_eq!(of(30, 1, Interval::Year), Ok(2), "two and a half, down to the even");
    assert_eq!((of(5, 1, Interval::Year), of(7, 1, Interval::Year)), (Ok(0), Ok(1)));
    assert_eq!(of(1_999, 3, Interval::Month), Ok(5_997));
    assert_eq!(of(crate::money::MAX_AMOUNT, 2, Interval::Year), Err(MoneyError::OutOfRange));
    assert_eq!(of(1, -1, Interval::Month), Err(MoneyError::OutOfRange));
}

#[test]
fn a_change_of_quantity_or_plan_keeps_the_period() {
    let pro = terms(3, usd(4_000), Interval::Month);
    given([started()]).when_then(change(None, Some(5)), [changed(basic(), 5, usd(5_000))]);
    given([started()]).when_then(change(Some(pro), None), [changed(pro, 2, usd(8_000))]);
    given([started()]).when_then(change(Some(pro), Some(1)), [changed(pro, 1, usd(4_000))]);
    let after = state([started(), changed(pro, 1, usd(4_000))]);
    assert_eq!((after.plan, after.price, after.quantity, after.mrr), (pro.plan, Some(usd(4_000)), 1, Some(usd(4_000))));
    assert_eq!((after.anchor, after.wakes_at()), (Some(noon("01-31")), Some(noon("02-28"))));
}

#[test]
fn a_change_that_changes_nothing_is_already_so() {
    for same in [change(None, None), change(Some(basic()), None), change(Some(basic()), Some(2))] {
        given([started()]).when_then(same, []);
    }
}

#[test]
fn a_subscription_stays_in_its_currency() {
    let eur = Money::new(1_000, "EUR".parse().unwrap()).unwrap();
    given([started()]).when_refused(change(Some(terms(3, eur, Interval::Month)), None), SubscriptionError::Currency);
    let other = terms(3, usd(1_000), Interval::Month);
    given([started()]).when_then(change(Some(other), None), [changed(other, 2, usd(2_000))]);
}

#[test]
fn only_its_customer_has_it() {
    let other = CustomerId::from(Uuid::from_u128(8));
    let theirs = SubscriptionCommand::Change { customer: other, terms: None, quantity: Some(5) };
    given([started()]).when_refused(theirs, SubscriptionError::NotFound);
}

#[test]
fn another_interval_begins_a_period_at_once() {
    let change = || change(Some(yearly()), None);
    let (start, end) = (noon("02-10"), at("2028-02-10T12:00:00Z"));
    given([started()]).when_then(change(), [changed_to_yearly(start, end)]);
    let after = state([started(), renewed(), changed_to_yearly(start, end)]);
    assert_eq!((after.anchor, after.cycle, after.wakes_at()), (Some(start), 0, Some(end)));
    assert_eq!(after.started_at, Some(noon("01-31")));
    // The renewal of the period that it cut short is no longer due; the one of the new period is.
    Given::<Subscription>::events(ctx(noon("02-28")), [started(), changed_to_yearly(start, end)])
        .when_then(due(noon("02-28")), []);
    let next = period("2028-02-10T12:00:00Z", "2029-02-10T12:00:00Z");
    Given::<Subscription>::events(ctx(end), [started(), changed_to_yearly(start, end)])
        .when_then(due(end), [SubscriptionEvent::Renewed { customer: customer(), period: next, cycle: 1 }]);
}

#[test]
fn a_period_that_a_change_begins_leaves_no_gap_and_no_overlap() {
    let change = || change(Some(yearly()), None);
    let early = ctx(noon("02-10")).at(noon("01-05"));
    let from_start = changed_to_yearly(noon("01-31"), at("2028-01-31T12:00:00Z"));
    Given::<Subscription>::events(early, [started()]).when_then(change(), [from_start]);
    // The renewal is late, and comes first.
    let from_now = changed_to_yearly(noon("03-01"), at("2028-03-01T12:00:00Z"));
    Given::<Subscription>::events(ctx(noon("03-01")), [started()]).when_then(change(), [renewed(), from_now]);
}

#[test]
fn what_is_over_is_over_however_late_the_host_is() {
    let end = noon("02-28");
    let late = |events: Vec<SubscriptionEvent>| Given::<Subscription>::events(ctx(noon("03-01")), events);
    let over = || vec![started(), scheduled(end, None)];
    late(over()).when_refused(SubscriptionCommand::Reactivate, SubscriptionError::Cancelled);
    late(over()).when_refused(change(None, Some(5)), SubscriptionError::Cancelled);
    late(over()).when_then(cancel(CancelAt::Now), []);
    late(vec![started()]).when_then(cancel(CancelAt::Now), [renewed(), cancelled(noon("03-01"), None)]);
    // What is only due anyway is its timer's to tell.
    late(vec![started()]).when_then(SubscriptionCommand::Reactivate, []);
}

#[test]
fn a_period_is_renewed_when_it_ends_and_only_then() {
    given([started()]).when_then(due(noon("02-28")), [renewed()]);
    given([started(), renewed()]).when_then(due(noon("02-28")), []);
    given([started()]).when_then(due(noon("02-27")), []);
    given([]).when_then(due(noon("02-28")), []);
    given([started(), cancelled(noon("02-05"), None)]).when_then(due(noon("02-28")), []);
    assert_eq!(state([started(), renewed()]).wakes_at(), Some(at("2027-03-31T11:00:00Z")));
    assert_eq!((state([]).wakes_at(), state([started(), cancelled(noon("02-05"), None)]).wakes_at()), (None, None));
}

#[test]
fn nothing_is_renewed_after_the_last_year() {
    let end = at("9999-12-31T23:59:59.999999Z");
    let last = SubscriptionEvent::Renewed {
        customer: customer(),
        period: Period { start: at("9999-12-31T12:00:00Z"), end },
        cycle: 95_675,
    };
    given([started(), last]).when_then(due(end), []);
}

#[test]
fn a_cancellation_at_the_periods_end_is_scheduled_once() {
    let end = noon("02-28");
    given([started()]).when_then(cancel_because(CancelAt::PeriodEnd), [scheduled(end, because())]);
    given([started(), scheduled(end, None)]).when_then(cancel(CancelAt::PeriodEnd), []);
    // A reason that comes later is not lost.
    let because_of_it = [scheduled(end, because())];
    given([started(), scheduled(end, None)]).when_then(cancel_because(CancelAt::PeriodEnd), because_of_it);
    given([started(), scheduled(end, None)]).when_then(due(end), [cancelled(end, None)]);
    given([]).when_refused(cancel(CancelAt::PeriodEnd), SubscriptionError::NotFound);
    let waiting = state([started(), scheduled(end, because())]);
    assert_eq!((waiting.status, waiting.mrr), (SubscriptionStatus::Active, Some(usd(2_000))));
    assert_eq!((waiting.cancel_at, waiting.reason, waiting.cancelled_at), (Some(end), because(), None));
}

#[test]
fn a_cancellation_now_ends_it_also_after_scheduling() {
    let now = noon("02-10");
    given([started()]).when_then(cancel_because(CancelAt::Now), [cancelled(now, because())]);
    given([started(), scheduled(noon("02-28"), because())]).when_then(cancel(CancelAt::Now), [cancelled(now, None)]);
    given([]).when_refused(cancel(CancelAt::Now), SubscriptionError::NotFound);
}

#[test]
fn a_scheduled_end_moves_with_the_period_and_not_with_the_quantity() {
    let end = at("2028-02-10T12:00:00Z");
    let (to_yearly, before) = (changed_to_yearly(noon("02-10"), end), scheduled(noon("02-28"), because()));
    given([started(), before.clone()])
        .when_then(change(Some(yearly()), None), [to_yearly.clone(), scheduled(end, None)]);
    given([started(), before.clone()]).when_then(change(None, Some(5)), [changed(basic(), 5, usd(5_000))]);
    let after = state([started(), before, to_yearly, scheduled(end, None)]);
    assert_eq!((after.cancel_at, after.wakes_at(), after.reason), (Some(end), Some(end), because()));
}

#[test]
fn a_scheduled_end_is_taken_back_until_it_comes() {
    let (reactivate, end) = (|| SubscriptionCommand::Reactivate, noon("02-28"));
    given([started(), scheduled(end, because())]).when_then(reactivate(), [reactivated()]);
    given([started()]).when_then(reactivate(), []);
    given([started(), scheduled(end, None), reactivated()]).when_then(reactivate(), []);
    given([started(), scheduled(end, None), reactivated()]).when_then(due(end), [renewed()]);
    given([started(), scheduled(end, None), cancelled(end, None)])
        .when_refused(reactivate(), SubscriptionError::Cancelled);
    given([]).when_refused(reactivate(), SubscriptionError::NotFound);
    assert_eq!(state([started(), scheduled(end, because()), reactivated()]), state([started()]));
}

#[test]
fn after_the_end_nothing_changes_and_all_is_shown() {
    let now = noon("02-10");
    let ended = || [started(), scheduled(noon("02-28"), because()), cancelled(now, None)];
    given(ended()).when_then(cancel(CancelAt::Now), []);
    given(ended()).when_then(cancel_because(CancelAt::Now), []);
    given(ended()).when_then(cancel(CancelAt::PeriodEnd), []);
    given(ended()).when_refused(change(None, Some(5)), SubscriptionError::Cancelled);
    given([]).when_refused(change(None, Some(5)), SubscriptionError::NotFound);
    let after = state(ended());
    let expected = Subscription {
        status: SubscriptionStatus::Cancelled,
        mrr: Some(usd(0)),
        cancel_at: Some(now),
        cancelled_at: Some(now),
        reason: because(),
        ..state([started()])
    };
    assert_eq!(after, expected);
    assert_eq!(serde_json::from_value::<Subscription>(serde_json::to_value(&after).unwrap()).unwrap(), after);
}

#[test]
fn starts_and_changes_are_about_the_customer_and_ends_are_not() {
    let about = |command| Subscription::about(&command);
    assert_eq!(about(starting(basic(), 1)), [customer().uuid()]);
    assert_eq!(about(change(None, Some(5))), [customer().uuid()]);
    for command in [cancel(CancelAt::Now), SubscriptionCommand::Reactivate, due(noon("02-28"))] {
        assert!(about(command).is_empty());
    }
    // A reason is sealed under the customer, and so refused for one who was erased.
    assert_eq!(because().and_then(|reason| reason.subject()), Some(customer().uuid()));
}
