//! The read side on a real Postgres (and Kafka): what goes into the log comes out of the read models.

use std::time::Duration;

use domain::agents::{Agent, AgentEvent, AgentKind, Retry, RunEvent};
use domain::billing::{self, Plan, PlanEvent, Subscription, SubscriptionEvent};
use domain::commerce::{Customer, Order};
use domain::{AgentId, CustomerId, Personal, PlanId, names};
use eventstore::{NewEvent, StreamAppend, new_id};
use uuid::Uuid;

use crate::agents::runs::{AGENTS_RUNS, RunFilter};
use crate::analytics::mrr::ANALYTICS_MRR;
use crate::analytics::sales::ANALYTICS_SALES;
use crate::analytics::{Interval, Range};
use crate::documents::of;
use crate::rows::AUDIT_ENTRIES;
use crate::test_support::{House, at, created, money, new_event, placed, refunded};
use crate::{AuditFilter, Projections, ProjectorState, ReadError, Standpoint};

fn range(interval: Interval, from: &str, to: &str, time_zone: &str) -> Range {
    Range { from: Some(at(from)), to: Some(at(to)), interval, time_zone: time_zone.into() }
}

/// Two customers of one tenant and their purchases; the earliest comes last. The last sequence.
async fn shop(house: &House, tenant: Uuid) -> i64 {
    let [ada, bob] = [new_id(), new_id()];
    let orders: Vec<Uuid> = (0..6).map(|_| new_id()).collect();
    house.append(tenant, vec![created(ada, "GB"), created(bob, "US")]).await;
    house.append(tenant, vec![placed(orders[0], ada, at("1997-03-05T10:00:00Z"), money(1_000, "USD"))]).await;
    house.append(tenant, vec![placed(orders[1], bob, at("1997-03-31T23:30:00Z"), money(500, "USD"))]).await;
    house.append(tenant, vec![placed(orders[2], ada, at("1997-03-20T10:00:00Z"), money(300, "EUR"))]).await;
    house.append(tenant, vec![placed(orders[3], bob, at("1997-05-01T00:00:00Z"), money(0, "USD"))]).await;
    house.append(tenant, vec![refunded(orders[0], 1, ada, at("1997-05-02T00:00:00Z"), money(400, "USD"))]).await;
    house.append(tenant, vec![placed(orders[4], ada, at("1997-01-10T10:00:00Z"), money(200, "USD"))]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_show_each_period_in_its_zone_and_move_a_customer_whose_earlier_order_comes_late() {
    let Some(house) = House::open().await else { return };
    let projections = house.project();
    let (tenant, other) = (new_id(), new_id());
    shop(&house, other).await;
    let last = shop(&house, tenant).await;
    house.seen(ANALYTICS_SALES, tenant, last).await;
    house.seen(ANALYTICS_MRR, tenant, last).await;

    let months = range(Interval::Month, "1997-01-01T00:00:00Z", "1997-06-01T00:00:00Z", "UTC");
    let revenue = house.reads.revenue(tenant, &months, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    assert_eq!(revenue.sequence, last);
    let shown: Vec<_> = revenue.periods.iter().filter(|period| period.currency.code() == "USD").collect();
    let figures =
        shown.iter().map(|p| (p.period.as_str(), p.orders, p.order_revenue.amount, p.refunds.amount, p.net.amount));
    assert_eq!(
        figures.collect::<Vec<_>>(),
        [
            ("1997-01", 1, 200, 0, 200),
            ("1997-02", 0, 0, 0, 0),
            ("1997-03", 2, 1_500, 0, 1_500),
            ("1997-04", 0, 0, 0, 0),
            ("1997-05", 1, 0, 400, -400),
        ]
    );
    assert_eq!(revenue.periods.len(), 10, "each period has both currencies");
    for period in &revenue.periods {
        let moved = &period.mrr_movements;
        let sums = [&period.mrr, &moved.new, &moved.expansion, &moved.contraction, &moved.churn, &moved.reactivation];
        assert!(sums.iter().all(|sum| sum.amount == 0 && sum.currency == period.currency), "nobody subscribes");
        assert_eq!(
            (period.active_subscriptions, period.gross_mrr_churn_rate, period.net_mrr_churn_rate),
            (0, None, None)
        );
    }

    // In Berlin Bob's first order falls into April, and weeks are those of ISO 8601.
    let berlin = Range { time_zone: "Europe/Berlin".into(), ..months.clone() };
    let revenue = house.reads.revenue(tenant, &berlin, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    let april: Vec<_> = revenue.periods.iter().filter(|p| p.period == "1997-04" && p.orders > 0).collect();
    assert_eq!((april.len(), april[0].order_revenue.amount), (1, 500));
    assert_eq!(april[0].starts_at, at("1997-03-31T22:00:00Z"));
    let weeks = Range { interval: Interval::Week, ..months.clone() };
    let revenue = house.reads.revenue(tenant, &weeks, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    assert_eq!(
        (revenue.periods[0].period.as_str(), revenue.periods[0].starts_at),
        ("1997-W02", at("1997-01-06T00:00:00Z"))
    );

    let cohorts = house.reads.cohorts(tenant, &months, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    let rows: Vec<_> = cohorts.cohorts.iter().map(|cohort| (cohort.cohort.as_str(), cohort.customers)).collect();
    assert_eq!(rows, [("1997-01", 1), ("1997-03", 1)], "Ada's history stands in the row of her earliest order");
    let cells = |row: usize| {
        let cells = cohorts.cohorts[row].cells.iter();
        cells.map(|c| (c.offset, c.active, c.orders, c.revenue[1].amount, c.complete)).collect::<Vec<_>>()
    };
    assert_eq!(
        cells(0),
        [(0, 1, 1, 200, true), (1, 0, 0, 0, true), (2, 1, 2, 1_000, true), (3, 0, 0, 0, true), (4, 0, 0, 0, false)]
    );
    assert_eq!(cells(1), [(0, 1, 1, 500, true), (1, 0, 0, 0, true), (2, 1, 1, 0, false)]);
    assert_eq!(
        cohorts.cohorts[0].cells[2].revenue[0],
        super::analytics::Amount { amount: 300, currency: "EUR".parse().unwrap() }
    );
    assert_eq!(cohorts.cohorts[0].cells[2].retention, 1.0);

    let kpis = house.reads.kpis(tenant, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    assert_eq!((kpis.customers.value, kpis.orders.value, kpis.repeat_rate.value), (2, 5, Some(1.0)));
    assert_eq!(kpis.revenue.value.iter().map(|sum| sum.amount).collect::<Vec<_>>(), [300, 1_700]);
    assert_eq!(kpis.refunds.value.iter().map(|sum| sum.amount).collect::<Vec<_>>(), [0, 400]);
    assert_eq!(kpis.average_order.value.iter().map(|sum| sum.amount).collect::<Vec<_>>(), [300, 425]);

    let nowhere = Range { time_zone: "Europe/Atlantis".into(), ..months.clone() };
    assert!(matches!(
        house.reads.revenue(tenant, &nowhere, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await,
        Err(ReadError::UnknownTimeZone(_))
    ));
    let decades = range(Interval::Week, "1997-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "UTC");
    let refused = house.reads.cohorts(tenant, &decades, &Standpoint::now(at("2026-01-01T00:00:00Z"))).await;
    assert!(matches!(refused, Err(ReadError::TooManyPeriods { .. })));
    let nobody = house.reads.kpis(new_id(), &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    assert_eq!((nobody.customers.value, nobody.repeat_rate.value), (0, None));
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_beyond_64_bits_is_told_and_a_narrower_range_has_one() {
    let Some(house) = House::open().await else { return };
    let projections = house.project();
    let (tenant, customer) = (new_id(), new_id());
    let most = money(domain::money::MAX_AMOUNT, "USD");
    let streams = (0..1_025).map(|n| {
        let day = if n < 1_000 { "1997-01-05T10:00:00Z" } else { "1997-01-06T10:00:00Z" };
        placed(new_id(), customer, at(day), most)
    });
    let last = house.append(tenant, streams.collect()).await;
    house.seen(ANALYTICS_SALES, tenant, last).await;
    house.seen(ANALYTICS_MRR, tenant, last).await;

    let month = range(Interval::Month, "1997-01-01T00:00:00Z", "1997-02-01T00:00:00Z", "UTC");
    assert!(matches!(
        house.reads.revenue(tenant, &month, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await,
        Err(ReadError::SumTooLarge)
    ));
    let cohorts = house.reads.cohorts(tenant, &month, &Standpoint::now(at("1997-02-01T00:00:00Z"))).await;
    assert!(matches!(cohorts, Err(ReadError::SumTooLarge)));
    assert!(matches!(
        house.reads.kpis(tenant, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await,
        Err(ReadError::SumTooLarge)
    ));
    let day = range(Interval::Day, "1997-01-05T00:00:00Z", "1997-01-06T00:00:00Z", "UTC");
    let narrower = house.reads.revenue(tenant, &day, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
    assert_eq!(narrower.periods[0].order_revenue.amount, 1_000 * most.amount);
    let positions = house.reads.positions().await.unwrap();
    assert!(positions.contains(&(ANALYTICS_SALES.to_owned(), house.store.tail().position())), "{positions:?}");
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_and_the_trail_are_listed_by_what_they_declare() {
    let Some(house) = House::open().await else { return };
    let projections = house.project();
    let (tenant, other) = (new_id(), new_id());
    shop(&house, other).await;
    let last = shop(&house, tenant).await;
    for projector in ["commerce_customers", "commerce_orders", AUDIT_ENTRIES] {
        house.seen(projector, tenant, last).await;
    }

    let british = house.reads.list(tenant, of::<Customer>(), &[("country", "GB")], None, 10).await.unwrap();
    assert_eq!((british.len(), british[0].version, british[0].sequence), (1, 1, 1));
    assert_eq!(british[0].state["country"], "GB");
    let orders = of::<Order>();
    let list =
        async |filters: &[(&str, &str)], before| house.reads.list(tenant, orders, filters, before, 3).await.unwrap();
    let first = list(&[], None).await;
    let second = list(&[], Some(first[2].id)).await;
    assert_eq!((first.len(), second.len()), (3, 2));
    assert!(first.iter().chain(&second).map(|order| order.id).is_sorted_by(|a, b| a > b), "newest first");
    let refunded = list(&[("status", "partly_refunded"), ("currency", "USD")], None).await;
    assert_eq!(
        (refunded.len(), refunded[0].version, refunded[0].state["refunded"]["amount"].as_i64()),
        (1, 2, Some(400))
    );
    assert_eq!(list(&[("customer_id", &british[0].id.to_string())], None).await.len(), 3);
    assert!(list(&[("customer_id", "ada")], None).await.is_empty());
    assert!(matches!(
        house.reads.list(tenant, orders, &[("state", "x")], None, 3).await,
        Err(ReadError::UnknownColumn(_))
    ));

    let audit = async |filter: AuditFilter| house.reads.audit(tenant, &filter, None, 100).await.unwrap();
    let all = audit(AuditFilter::default()).await;
    assert_eq!(all.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), (1..=last).rev().collect::<Vec<_>>());
    assert_eq!((all[0].request_id.as_deref(), all[0].cause.as_deref()), (Some("req_1"), Some("cmd_1")));
    let placed = audit(AuditFilter { action: Some("order.pl".into()), ..AuditFilter::default() }).await;
    assert_eq!(placed.len(), 5);
    assert!(audit(AuditFilter { action: Some("order.pl%".into()), ..AuditFilter::default() }).await.is_empty());
    let of = |kind: &'static str| AuditFilter { resource: Some((kind, refunded[0].id)), ..AuditFilter::default() };
    assert!(audit(of(names::CUSTOMER.name)).await.is_empty(), "the same UUID with another type is another resource");
    let of_one = audit(of(names::ORDER.name)).await;
    assert_eq!(
        of_one.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(),
        ["order.refunded", "order.placed"]
    );
    let since = audit(AuditFilter { from: Some(of_one[0].recorded_at), ..AuditFilter::default() }).await;
    let until = audit(AuditFilter { to: Some(of_one[0].recorded_at), ..AuditFilter::default() }).await;
    assert_eq!((since.len() + until.len()) as i64, last);
    assert!(audit(AuditFilter { actor: Some("key_x".into()), ..AuditFilter::default() }).await.is_empty());
    let types = house.reads.event_types(tenant).await.unwrap();
    let counts: Vec<_> = types.iter().map(|of| (of.event_type.as_str(), of.count)).collect();
    assert_eq!(counts, [("customer.created", 2), ("order.placed", 5), ("order.refunded", 1)]);

    // Each tenant has its own, and nobody has those of nobody.
    let mut tx = house.reads.begin(Uuid::nil()).await.unwrap();
    for table in
        ["commerce_orders", "commerce_orders_history", "audit_entries", "analytics_sales", "projection_sequences"]
    {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *tx).await.unwrap(), 0, "{table}");
    }
    drop(tx);
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_subscriptions_agents_and_runs_come_out_of_the_log() {
    let Some(house) = House::open().await else { return };
    let projections = house.project();
    let (tenant, day) = (new_id(), at("2026-01-10T00:00:00Z"));
    let [plan, customer, subscription, agent, run] = [new_id(), new_id(), new_id(), new_id(), new_id()];
    let stream = |kind: domain::StreamType, stream_id, event| StreamAppend {
        stream_type: kind.name,
        stream_id,
        expected_version: 0,
        events: vec![event],
    };
    let price = money(1_200, "USD");
    let created = PlanEvent::Created {
        external_id: None,
        name: "Basic".parse().unwrap(),
        price,
        interval: billing::Interval::Year,
    };
    let started = SubscriptionEvent::Started {
        external_id: None,
        customer: CustomerId::from(customer),
        plan: PlanId::from(plan),
        price,
        interval: billing::Interval::Year,
        quantity: 1,
        time_zone: "UTC".parse().unwrap(),
        anchor: day,
        period: billing::Period { start: day, end: at("2027-01-10T00:00:00Z") },
        cycle: 0,
        mrr: money(100, "USD"),
    };
    let known = AgentEvent::Created {
        external_id: None,
        name: "Ada".parse().unwrap(),
        kind: AgentKind::Llm,
        http: None,
        llm: None,
        timeout_seconds: 9,
        retry: Retry::default(),
    };
    let requested = RunEvent::Requested {
        external_id: None,
        agent: AgentId::from(agent),
        agent_version: 1,
        customer: None,
        task_type: None,
        input: Personal::open(run, serde_json::Map::new()),
        timeout_seconds: 9,
        retry: Retry::default(),
        at: day,
    };
    let streams = vec![
        stream(names::PLAN, plan, new_event(&created, day)),
        stream(names::SUBSCRIPTION, subscription, new_event(&started, day)),
        stream(names::AGENT, agent, new_event(&known, day)),
        stream(names::RUN, run, new_event(&requested, day)),
    ];
    let last = house.append(tenant, streams).await;
    let tables =
        ["billing_plans", "billing_subscriptions", "agents_agents", AGENTS_RUNS, ANALYTICS_MRR, ANALYTICS_SALES];
    for projector in tables {
        house.seen(projector, tenant, last).await;
    }
    let list = async |kind, filters: Vec<(&str, &str)>| {
        let documents = house.reads.list(tenant, kind, &filters, None, 10).await.unwrap();
        documents.iter().map(|document| document.id).collect::<Vec<_>>()
    };
    assert_eq!(list(of::<Plan>(), vec![("status", "active")]).await, [plan]);
    let (customer, plan) = (customer.to_string(), plan.to_string());
    let filters = vec![("customer_id", customer.as_str()), ("plan_id", plan.as_str()), ("status", "active")];
    assert_eq!(list(of::<Subscription>(), filters).await, [subscription]);
    assert_eq!(list(of::<Subscription>(), vec![("customer_id", plan.as_str())]).await, [] as [Uuid; 0]);
    assert_eq!(list(of::<Agent>(), vec![("kind", "llm"), ("status", "active")]).await, [agent]);
    assert_eq!(list(of::<Agent>(), vec![("kind", "http")]).await, [] as [Uuid; 0]);
    let runs = house.reads.runs(tenant, &RunFilter::default(), None, 10).await.unwrap();
    assert_eq!((runs.len(), runs[0].next_attempt_at), (1, Some(day)));
    let months = range(Interval::Month, "2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z", "UTC");
    let revenue = house.reads.revenue(tenant, &months, &Standpoint::now(at("2026-03-01T00:00:00Z"))).await.unwrap();
    assert_eq!((revenue.sequence, revenue.periods.len(), revenue.periods[2].mrr.amount), (last, 3, 100));

    // Each tenant has its own.
    let mut tx = house.reads.begin(Uuid::nil()).await.unwrap();
    for table in &tables[..5] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *tx).await.unwrap(), 0, "{table}");
    }
    drop(tx);
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    house.close().await;
}

async fn state_of(projections: &Projections, name: &str, state: ProjectorState) -> String {
    for _ in 0..500 {
        let statuses = projections.status();
        if let Some(status) = statuses.iter().find(|status| status.name == name && status.state == state) {
            return status.error.clone().unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is never {state:?}: {:?}", projections.status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_newer_binary_pauses_who_reads_it_after_all_that_came_before() {
    let Some(house) = House::open().await else { return };
    let tenant = new_id();
    // All of this lies in one batch when the projectors begin.
    let before = shop(&house, tenant).await;
    let newer = NewEvent { event_type: "order.teleported", ..newer_event() };
    let stream =
        StreamAppend { stream_type: names::ORDER.name, stream_id: new_id(), expected_version: 0, events: vec![newer] };
    house.append(tenant, vec![stream]).await;
    let last = house.append(tenant, vec![created(new_id(), "DE")]).await;

    let projections = house.project();
    for paused in ["commerce_orders", ANALYTICS_SALES] {
        let error = state_of(&projections, paused, ProjectorState::Paused).await;
        assert!(error.contains("order.teleported"), "{error}");
        assert_eq!(house.reads.point(paused, tenant).await.unwrap().sequence, before);
    }
    for running in ["commerce_customers", AUDIT_ENTRIES] {
        house.seen(running, tenant, last).await;
    }
    let behind = house.reads.wait("commerce_orders", tenant, 1, last, Duration::from_millis(50)).await;
    let Err(ReadError::Behind(behind)) = behind else { panic!("{behind:?}") };
    assert_eq!(behind.point.sequence, before);
    assert!(behind.point.age_seconds(last) > 0.0 && behind.point.age_seconds(before) == 0.0);
    assert_eq!(house.reads.list(tenant, of::<Order>(), &[], None, 100).await.unwrap().len(), 5);
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    house.close().await;
}

fn newer_event() -> NewEvent {
    new_event(&domain::commerce::CustomerEvent::Erased, at("1997-01-01T00:00:00Z"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kafka_loses_is_read_from_the_log() {
    let Some(house) = House::open().await else { return };
    let Some((relay, projections)) = house.through_kafka() else { return };
    let tenant = new_id();
    let mut last = shop(&house, tenant).await;
    house.seen(AUDIT_ENTRIES, tenant, last).await;
    state_of(&projections, AUDIT_ENTRIES, ProjectorState::Live).await;
    for _ in 0..20 {
        last = house.append(tenant, vec![created(new_id(), "DE")]).await;
    }
    house.seen("commerce_customers", tenant, last).await;

    house.delete_topic().await;
    for _ in 0..20 {
        last = house.append(tenant, vec![created(new_id(), "DE")]).await;
    }
    house.seen("commerce_customers", tenant, last).await;
    house.seen(AUDIT_ENTRIES, tenant, last).await;
    let counts = house.reads.event_types(tenant).await.unwrap();
    assert_eq!(counts.iter().map(|of| of.count).sum::<i64>(), last);
    house.stop.cancel();
    projections.stopped().await;
    relay.stopped().await;
    drop((projections, relay));
    house.delete_topic().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_believe_to_have_the_same_work_apply_each_event_once() {
    let Some(house) = House::open().await else { return };
    let Some((relay, one)) = house.through_kafka() else { return };
    let other = house.project();
    let tenants = [new_id(), new_id(), new_id()];
    for _ in 0..60 {
        for tenant in tenants {
            shop(&house, tenant).await;
        }
    }
    for tenant in tenants {
        let last = house.store.tenant_head(tenant).await.unwrap();
        for projector in ["commerce_customers", "commerce_orders", AUDIT_ENTRIES, ANALYTICS_SALES] {
            house.seen(projector, tenant, last).await;
        }
        let counts = house.reads.event_types(tenant).await.unwrap();
        assert_eq!(counts.iter().map(|of| of.count).collect::<Vec<_>>(), [120, 300, 60]);
        let kpis = house.reads.kpis(tenant, &Standpoint::now(at("1997-05-15T00:00:00Z"))).await.unwrap();
        assert_eq!((kpis.customers.value, kpis.orders.value), (120, 300));
        let refunds = house.reads.list(tenant, of::<Order>(), &[("status", "partly_refunded")], None, 100).await;
        assert_eq!(refunds.unwrap().len(), 60);
    }
    assert!(one.status().iter().chain(&other.status()).all(|status| status.state != ProjectorState::Paused));
    house.stop.cancel();
    tokio::join!(one.stopped(), other.stopped(), relay.stopped());
    drop((one, other, relay));
    house.delete_topic().await;
    house.close().await;
}
