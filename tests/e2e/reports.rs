//! Reports of any moment: what they said then, what had happened by then, and which events stand behind a cell.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::agents::{agent, run};
use crate::billing::plan;
use crate::client::{Answer, Client};
use crate::clock::advance;
use crate::facts::{Bought, Facts, month};
use crate::house::{House, Lodging, Tenant};
use crate::operations::verified;
use crate::processes::{Running, ready};
use crate::provider::Provider;
use crate::random::Random;
use crate::tests;

tests![
    a_report_says_again_what_it_said,
    what_had_happened_by_a_moment_is_a_fold_of_the_log,
    the_events_behind_a_cell_come_to_its_figures,
    a_run_is_counted_where_it_stood,
    an_explanation_stays_where_it_began,
    another_tenant_sees_nothing_of_it,
    what_is_wrong_with_a_moment_is_told,
];

const COHORTS: &str = "/analytics/cohort-analysis";

/// A shop of a test tenant in which things happen by chance, many of them long ago and told late.
struct Shop {
    tenant: Tenant,
    random: Random,
    now: DateTime<Utc>,
    customers: usize,
    orders: Vec<String>,
    subscriptions: Vec<String>,
}

impl Shop {
    async fn open(lodging: &Lodging, seed: u64) -> Self {
        let tenant = lodging.test_tenant().await;
        for (name, amount, interval) in [("small", 1_000, "month"), ("large", 24_000, "year")] {
            let mut body = plan(amount, interval);
            body["external_id"] = json!(name);
            tenant.post("/plans", &body).expect(201).await;
        }
        tenant.post("/customers", &json!({"external_id": "c-0"})).expect(201).await;
        let now = commands::clock::now();
        let (orders, subscriptions) = (Vec::new(), Vec::new());
        Self { tenant, random: Random::new(seed), now, customers: 1, orders, subscriptions }
    }

    /// A moment of the last half year, to the hour, so that some coincide.
    fn past(&mut self) -> DateTime<Utc> {
        let hours = self.random.below(24 * 180) as i64;
        self.now - TimeDelta::hours(hours) - TimeDelta::seconds(self.now.timestamp() % 3_600 + 1)
    }

    fn any(random: &mut Random, ids: &[String]) -> Option<String> {
        (!ids.is_empty()).then(|| ids[random.below(ids.len())].clone())
    }

    async fn happen(&mut self) {
        let tenant = self.tenant.clone();
        let customer = format!("ext:c-{}", self.random.below(self.customers));
        match self.random.below(10) {
            0 => {
                let body = json!({"external_id": format!("c-{}", self.customers)});
                self.customers += 1;
                tenant.post("/customers", &body).expect(201).await;
            }
            1..=4 => {
                let (currency, amount) = (["USD", "EUR"][self.random.below(2)], self.random.below(5_000) as i64);
                let mut body = crate::orders::order(&customer, amount);
                body["placed_at"] = json!(text(self.past()));
                body["currency"] = json!(currency);
                body["lines"][0]["total"]["currency"] = json!(currency);
                let placed = tenant.post("/orders", &body).expect(201).await;
                if amount > 0 {
                    self.orders.push(placed.id().to_owned());
                }
            }
            5 => {
                let Some(order) = Self::any(&mut self.random, &self.orders) else { return };
                self.orders.retain(|other| *other != order);
                let path = format!("/orders/{order}/refund");
                tenant.post(&path, &json!({})).header("idempotency-key", &order).expect(200).await;
            }
            6 | 7 => {
                let which = ["ext:small", "ext:large"][self.random.below(2)];
                let body = json!({"customer": customer, "plan": which, "started_at": text(self.past())});
                let started = tenant.post("/subscriptions", &body).expect(201).await;
                self.subscriptions.push(started.id().to_owned());
            }
            8 => {
                let Some(id) = Self::any(&mut self.random, &self.subscriptions) else { return };
                let body = json!({"quantity": self.random.between(1, 6)});
                tenant.patch(&format!("/subscriptions/{id}"), &body).expect(200).await;
            }
            _ => {
                let Some(id) = Self::any(&mut self.random, &self.subscriptions) else { return };
                self.subscriptions.retain(|other| *other != id);
                tenant.post(&format!("/subscriptions/{id}/cancel"), &json!({"at": "now"})).expect(200).await;
            }
        }
    }

    async fn pass(&mut self, days: i64) {
        self.now += TimeDelta::days(days);
        advance(&self.tenant, self.now).await;
    }

    async fn filled(house: &House, seed: u64) -> Self {
        let mut shop = Self::open(&house.lodging, seed).await;
        for number in 0..90 {
            if number == 45 {
                shop.pass(40).await;
            }
            shop.happen().await;
        }
        shop
    }
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A report, its path and its body where it has one, with more fields.
async fn report(client: &Client, (path, body): (&str, Option<Value>), more: &[(&str, Value)], after: i64) -> Answer {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let call = match body {
        Some(mut body) => {
            body.as_object_mut().unwrap().extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            client.post(path, &body)
        }
        None => {
            let more: Vec<_> = more.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
            let glue = if path.contains('?') { '&' } else { '?' };
            client.get(&format!("{path}{glue}{}", more.join("&")))
        }
    };
    call.header("annals-min-sequence", after.to_string()).expect(200).await
}

fn reports() -> Vec<(&'static str, Option<Value>)> {
    vec![
        ("/analytics/revenue", None),
        ("/analytics/revenue?interval=week&time_zone=America/New_York", None),
        (COHORTS, Some(json!({}))),
        (COHORTS, Some(json!({"interval": "week", "time_zone": "Asia/Tokyo"}))),
        ("/analytics/kpis", None),
        ("/agents/metrics", None),
    ]
}

/// What a report says, whatever it was asked at.
fn said(report: &Answer) -> Value {
    let mut body = report.body.clone();
    body["manifest"]["parameters"] = Value::Null;
    body
}

async fn a_report_says_again_what_it_said(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let (mut shop, provider) = (Shop::open(&lodging, 11).await, Provider::start().await);
    let agent = agent(&shop.tenant, &provider.agent("ok")).await.id().to_owned();
    let tenant = shop.tenant.clone();
    let mut recorded = Vec::new();
    for number in 0..100 {
        shop.happen().await;
        match number {
            20 | 60 => shop.pass(25).await,
            _ if number % 15 == 5 => {
                run(&tenant, &agent, &json!({"input": {}})).await;
            }
            _ => {}
        }
        if number % 9 == 0 {
            let sequence = tenant.events_head().await;
            for asked in reports() {
                recorded.push((asked.clone(), report(&tenant, asked, &[], sequence).await));
            }
        }
    }
    for (asked, then) in recorded {
        let sequence = then.body["manifest"]["sequence"].as_i64().unwrap();
        let again = report(&tenant, asked, &[("as_of", json!(sequence))], 0).await;
        assert_eq!(said(&again), said(&then));
        assert_eq!(again.header("annals-read-sequence"), sequence.to_string());
    }
    for projector in ["analytics_sales", "analytics_mrr", "agents_runs"] {
        verified(&lodging, projector).await;
    }
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn what_had_happened_by_a_moment_is_a_fold_of_the_log(house: &House) {
    let mut shop = Shop::filled(house, 12).await;
    let tenant = shop.tenant.clone();
    let facts = Facts::read(&tenant).await;
    let head = tenant.events_head().await;
    for round in 0..12 {
        let effective = shop.past();
        let as_of = if round % 3 == 0 { head } else { head / 4 + shop.random.below(head as usize * 3 / 4) as i64 };
        let known = facts.known(as_of, effective);
        let more = [("as_of", json!(as_of)), ("effective_at", json!(text(effective)))];
        let revenue = report(&tenant, ("/analytics/revenue", None), &more, head).await;
        assert_eq!(revenue_of(&revenue), known.revenue(), "{as_of} {effective}");
        let cohorts = report(&tenant, (COHORTS, Some(json!({}))), &more, 0).await;
        assert_eq!(cohorts_of(&cohorts), known.cohorts(), "{as_of} {effective}: {}", cohorts.text);
        let kpis = report(&tenant, ("/analytics/kpis", None), &more, 0).await;
        let value = |name: &str| kpis.body[name]["value"].clone();
        let sums = |name: &str| sums(&kpis.body[name]["value"]);
        assert_eq!(value("orders"), known.orders().len(), "{}", kpis.text);
        assert_eq!(sums("mrr"), known.mrr(), "{as_of} {effective}: {}", kpis.text);
        assert_eq!(value("active_subscriptions"), known.active(), "{}", kpis.text);
        assert_eq!(value("repeat_rate").as_f64(), known.repeat_rate());
        assert_eq!(kpis.body["orders"]["sequence"], as_of);
    }
}

/// Sums by currency, but for those of nothing.
fn sums(amounts: &Value) -> BTreeMap<String, i64> {
    let amounts = amounts.as_array().unwrap().iter();
    let amounts = amounts.map(|sum| (sum["currency"].as_str().unwrap().to_owned(), sum["amount"].as_i64().unwrap()));
    amounts.filter(|(_, amount)| *amount != 0).collect()
}

/// Orders, what they cost and what was given back, by month and currency, where there was any of it.
fn revenue_of(report: &Answer) -> BTreeMap<(String, String), [i64; 3]> {
    let cells = report.data().iter().map(|cell| {
        let key = (cell["period"].as_str().unwrap().to_owned(), cell["currency"].as_str().unwrap().to_owned());
        let amount = |name: &str| cell[name]["amount"].as_i64().unwrap();
        (key, [cell["orders"].as_i64().unwrap(), amount("order_revenue"), amount("refunds")])
    });
    cells.filter(|(_, figures)| *figures != [0; 3]).collect()
}

/// Active customers, orders and what they cost by currency, by cohort and period, where there was any of it.
fn cohorts_of(report: &Answer) -> BTreeMap<(String, usize), Bought> {
    let cohorts = report.body["cohorts"].as_array().unwrap().iter();
    let cells = cohorts.flat_map(|cohort| {
        cohort["cells"].as_array().unwrap().iter().map(move |cell| {
            let key = (cohort["cohort"].as_str().unwrap().to_owned(), cell["offset"].as_u64().unwrap() as usize);
            (key, (cell["active"].as_i64().unwrap(), cell["orders"].as_i64().unwrap(), sums(&cell["revenue"])))
        })
    });
    cells.filter(|(_, (_, orders, _))| *orders > 0).collect()
}

/// All events behind a cell, page by page.
async fn explained(client: &Client, (path, body): (&str, Option<Value>), cell: &[(&str, Value)]) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let more: Vec<_> = cell.iter().cloned().chain([("explain", json!(true))]).collect();
        let glue = if path.contains('?') { '&' } else { '?' };
        let page = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("{path}{glue}limit=7{page}");
        let answer = report(client, (path.as_str(), body.clone()), &more, 0).await;
        assert_eq!(answer.body["object"], "list");
        all.extend(answer.data().iter().cloned());
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(
        all.windows(2).all(|pair| pair[0]["sequence"].as_i64() < pair[1]["sequence"].as_i64()),
        "in order, each once"
    );
    all
}

fn sum(parts: &[Value], figure: &str) -> i64 {
    let of = parts.iter().filter(|part| part["figure"] == figure);
    of.map(|part| part["amount"]["amount"].as_i64().unwrap()).sum()
}

/// By how much MRR and the number of subscriptions are more.
fn moved_by(parts: &[Value]) -> (i64, i64) {
    let [more, less] = [["new", "expansion", "reactivation"].as_slice(), &["contraction", "churn"]]
        .map(|figures| figures.iter().map(|figure| sum(parts, figure)).sum::<i64>());
    (more - less, parts.iter().map(|part| part["active_subscriptions"].as_i64().unwrap()).sum())
}

async fn the_events_behind_a_cell_come_to_its_figures(house: &House) {
    let shop = Shop::filled(house, 13).await;
    let (tenant, head) = (&shop.tenant, shop.tenant.events_head().await);
    let moments =
        [vec![], vec![("as_of", json!(head * 2 / 3)), ("effective_at", json!(text(shop.now - TimeDelta::days(70))))]];
    for moments in moments {
        let part = format!(
            "/analytics/revenue?from={}&to={}",
            text(shop.now - TimeDelta::days(130)),
            text(shop.now - TimeDelta::days(45))
        );
        for path in ["/analytics/revenue", "/analytics/revenue?interval=week&time_zone=Europe/Berlin", &part] {
            let revenue = report(tenant, (path, None), &moments, head).await;
            let mut before = BTreeMap::<String, (i64, i64)>::new();
            for cell in revenue.data() {
                let mut named = moments.clone();
                named.extend([("period", cell["period"].clone()), ("currency", cell["currency"].clone())]);
                let parts = explained(tenant, (path, None), &named).await;
                let amount = |name: &str| cell[name]["amount"].as_i64().unwrap();
                assert_eq!(sum(&parts, "order_revenue"), amount("order_revenue"), "{cell} {parts:?}");
                assert_eq!(sum(&parts, "refunds"), amount("refunds"));
                assert_eq!(parts.iter().filter(|part| part["figure"] == "order_revenue").count(), cell["orders"]);
                for name in ["new", "expansion", "contraction", "churn", "reactivation"] {
                    assert_eq!(
                        sum(&parts, name),
                        cell["mrr_movements"][name]["amount"].as_i64().unwrap(),
                        "{name} {cell}"
                    );
                }
                let moved = moved_by(&parts);
                let first = || {
                    // A report that begins in the middle begins with what was there, which its first cell tells.
                    let active = cell["active_subscriptions"].as_i64().unwrap() - moved.1;
                    if path == part { (amount("mrr") - moved.0, active) } else { (0, 0) }
                };
                let currency = cell["currency"].as_str().unwrap().to_owned();
                let (mrr, active) = before.entry(currency).or_insert_with(first);
                *mrr += moved.0;
                *active += moved.1;
                assert_eq!((*mrr, json!(*active)), (amount("mrr"), cell["active_subscriptions"].clone()), "{cell}");
                assert!(parts.iter().all(|part| part["amount"]["currency"] == cell["currency"]));
            }
        }
        let cohorts = report(tenant, (COHORTS, Some(json!({}))), &moments, 0).await;
        for cohort in cohorts.body["cohorts"].as_array().unwrap() {
            for cell in cohort["cells"].as_array().unwrap() {
                let mut named = moments.clone();
                named.extend([("cohort", cohort["cohort"].clone()), ("offset", cell["offset"].clone())]);
                let parts = explained(tenant, (COHORTS, Some(json!({}))), &named).await;
                let buyers: BTreeSet<_> = parts.iter().map(|part| part["customer"].as_str().unwrap()).collect();
                assert_eq!((json!(parts.len()), json!(buyers.len())), (cell["orders"].clone(), cell["active"].clone()));
                let mut revenue = BTreeMap::<String, i64>::new();
                for part in &parts {
                    assert_eq!((&part["figure"], &part["type"]), (&json!("revenue"), &json!("order.placed")));
                    let currency = part["amount"]["currency"].as_str().unwrap().to_owned();
                    *revenue.entry(currency).or_default() += part["amount"]["amount"].as_i64().unwrap();
                }
                revenue.retain(|_, amount| *amount != 0);
                assert_eq!(revenue, sums(&cell["revenue"]), "{cell}");
            }
        }
    }
}

/// After every event of it, figures count it as it then was.
async fn a_run_is_counted_where_it_stood(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("flaky/1")).await;
    let done = run(&tenant, agent.id(), &json!({"input": {}})).await;
    let history = tenant.get(&format!("/runs/{}/history", done.id())).expect(200).await;
    let stands = |event: &Value| match event["type"].as_str().unwrap() {
        "run.requested" | "run.attempt_failed" => "pending",
        "run.attempt_started" => "running",
        "run.succeeded" => "succeeded",
        other => panic!("{other}"),
    };
    assert_eq!(history.data().len(), 5, "{}", history.text);
    for event in history.data() {
        let (sequence, status) = (event["sequence"].as_i64().unwrap(), stands(event));
        for moment in [("as_of", json!(sequence)), ("effective_at", event["occurred_at"].clone())] {
            let metrics = report(&tenant, ("/agents/metrics", None), std::slice::from_ref(&moment), 0).await;
            let total = &metrics.body["total"]["runs"];
            assert_eq!(total[status], 1, "{moment:?} {event} {}", metrics.text);
            assert_eq!(total.as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum::<i64>(), 1);
            let kpis = report(&tenant, ("/analytics/kpis", None), std::slice::from_ref(&moment), 0).await;
            assert_eq!(&kpis.body["runs"]["value"], total);
            let path = format!("/agents/{}/status", agent.id());
            let health = report(&tenant, (path.as_str(), None), &[moment], 0).await;
            let waits =
                health.body["queue"]["pending"].as_i64().unwrap() + health.body["queue"]["running"].as_i64().unwrap();
            assert_eq!(waits, i64::from(status != "succeeded"), "{}", health.text);
        }
    }
    let before = format!("/agents/{}/status?as_of={}", agent.id(), agent.sequence() - 1);
    tenant.get(&before).problem(404, "not-found").await;
    verified(&house.lodging, "agents_runs").await;
}

async fn an_explanation_stays_where_it_began(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let mut last = None;
    for amount in 1..=3 {
        last = Some(tenant.post("/orders", &crate::orders::order("ext:c", amount)).expect(201).await);
    }
    let path = "/analytics/revenue?explain=true&period=2026-01&currency=USD&limit=2";
    let first = tenant.get(path).after(last.as_ref().unwrap()).expect(200).await;
    assert_eq!((first.data().len(), &first.body["has_more"]), (2, &json!(true)));
    let part = &first.data()[0];
    let event =
        tenant.get(&format!("/events?after={}&limit=1", part["sequence"].as_i64().unwrap() - 1)).expect(200).await;
    let event = &event.data()[0];
    for (field, of_event) in [("type", "type"), ("resource", "stream"), ("occurred_at", "occurred_at")] {
        assert_eq!(part[field], event[of_event]);
    }
    assert!(part["event_id"].as_str().is_some_and(|id| id.len() == 36), "{part}");
    let more = tenant.post("/orders", &crate::orders::order("ext:c", 4)).expect(201).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = tenant.get(&format!("{path}&cursor={cursor}")).after(&more).expect(200).await;
    assert_eq!((second.data().len(), &second.body["has_more"]), (1, &json!(false)), "{}", second.text);
    assert_eq!(second.body["manifest"]["sequence"], first.body["manifest"]["sequence"]);
    assert_eq!(tenant.get(&format!("{path}0")).after(&more).expect(200).await.data().len(), 4);
    // A cursor is good for its own cell alone.
    let other = path.replace("2026-01", "2026-02");
    tenant.get(&format!("{other}&cursor={cursor}")).problem(400, "invalid-cursor").await;
    let body = |offset: i64| json!({"explain": true, "cohort": "2026-01", "offset": offset});
    let page = tenant.post(&format!("{COHORTS}?limit=2"), &body(0)).expect(200).await;
    let next = format!("{COHORTS}?limit=2&cursor={}", page.body["next_cursor"].as_str().unwrap());
    assert_eq!(tenant.post(&next, &body(0)).expect(200).await.data().len(), 2);
    tenant.post(&next, &body(1)).problem(400, "invalid-cursor").await;
}

async fn another_tenant_sees_nothing_of_it(house: &House) {
    let shop = Shop::filled(house, 14).await;
    let other = house.tenant().await;
    let head = other.events_head().await;
    let period = month(shop.now - TimeDelta::days(60));
    for more in [vec![], vec![("as_of", json!(head))], vec![("effective_at", json!(text(commands::clock::now())))]] {
        let revenue = report(&other, ("/analytics/revenue", None), &more, 0).await;
        assert!(revenue.data().is_empty(), "{}", revenue.text);
        assert_eq!(report(&other, (COHORTS, Some(json!({}))), &more, 0).await.body["cohorts"], json!([]));
        assert_eq!(report(&other, ("/analytics/kpis", None), &more, 0).await.body["customers"]["value"], 0);
        let cell = [("period", json!(period)), ("currency", json!("USD"))];
        let cell: Vec<_> = more.into_iter().chain(cell).collect();
        assert!(explained(&other, ("/analytics/revenue", None), &cell).await.is_empty());
    }
    // Not even how far its log has come.
    let beyond = other.get(&format!("/analytics/kpis?as_of={}", head + 1)).problem(422, "validation-failed").await;
    assert_eq!(beyond.pointers(), ["?as_of"]);
}

async fn what_is_wrong_with_a_moment_is_told(house: &House) {
    let tenant = house.tenant().await;
    let head = tenant.events_head().await;
    for path in ["/analytics/revenue", "/analytics/kpis", "/agents/metrics"] {
        for wrong in [format!("{}", head + 1), "-1".into(), "soon".into(), "2999-01-01T00:00:00Z".into(), String::new()]
        {
            let refused = tenant.get(&format!("{path}?as_of={wrong}")).problem(422, "validation-failed").await;
            assert_eq!(refused.pointers(), ["?as_of"], "{path} {wrong}");
        }
        for wrong in ["2999-01-01T00:00:00Z", "12", "soon"] {
            let refused = tenant.get(&format!("{path}?effective_at={wrong}")).problem(422, "validation-failed").await;
            assert_eq!(refused.pointers(), ["?effective_at"], "{path} {wrong}");
        }
    }
    for (body, pointer) in [
        (json!({"as_of": head + 1}), "/as_of"),
        (json!({"as_of": "soon"}), "/as_of"),
        (json!({"as_of": 1.5}), "/as_of"),
        (json!({"as_of": {}}), "/as_of"),
        (json!({"effective_at": "2999-01-01T00:00:00Z"}), "/effective_at"),
        (json!({"explain": true}), "/cohort"),
        (json!({"explain": true, "cohort": "2026-01"}), "/offset"),
        (json!({"explain": true, "cohort": "January", "offset": 0}), "/cohort"),
        (json!({"explain": true, "cohort": "2026-W01", "offset": 0}), "/cohort"),
        (json!({"explain": true, "cohort": "2026-01", "offset": -1}), "/offset"),
        (json!({"explain": "yes", "cohort": "2026-01", "offset": 0}), "/explain"),
        (json!({"cohort": "2026-01"}), "/cohort"),
        (json!({"offset": 0}), "/offset"),
    ] {
        let refused = tenant.post(COHORTS, &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{body}: {}", refused.text);
    }
    for (query, pointer) in [
        ("explain=true", "?period"),
        ("explain=true&period=2026-01", "?currency"),
        ("explain=true&period=2026-1&currency=USD", "?period"),
        ("explain=true&period=2026-13&currency=USD", "?period"),
        ("explain=true&period=2026-01-01&currency=USD", "?period"),
        ("explain=true&period=2026-01&currency=dollars", "?currency"),
        ("explain=maybe&period=2026-01&currency=USD", "?explain"),
        ("period=2026-01", "?period"),
        ("explain=false&currency=USD", "?currency"),
    ] {
        let refused = tenant.get(&format!("/analytics/revenue?{query}")).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{query}: {}", refused.text);
    }
    tenant.get("/analytics/revenue?cursor=abc").problem(400, "invalid-cursor").await;
    tenant.get("/analytics/kpis?asof=1").problem(422, "unknown-field").await;
    // A moment at which there was nothing yet, and one given as a time.
    assert_eq!(tenant.get("/analytics/kpis?as_of=0").expect(200).await.body["customers"]["value"], 0);
    let now = text(commands::clock::now() - TimeDelta::seconds(1));
    tenant.get(&format!("/analytics/revenue?as_of={now}&effective_at={now}")).expect(200).await;
    let without = tenant.key(&["commerce:read"]).await;
    without.get("/analytics/kpis?as_of=0").problem(403, "forbidden").await;
}
