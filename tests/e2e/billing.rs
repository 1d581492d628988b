//! Plans and subscriptions, end to end.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{join, join_all};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::{House, Tenant};
use crate::privacy::erase;
use crate::tests;

tests![
    a_plan_is_created_renamed_and_never_repriced,
    a_plan_that_is_never_at_rest_still_refuses_and_says_already_so,
    a_subscription_goes_its_whole_way,
    an_import_begins_in_the_period_that_holds_now,
    a_change_is_at_once_and_another_interval_begins_a_new_period,
    a_cancelled_subscription_stays_as_it_is,
    what_is_wrong_with_a_subscription_is_told,
    subscriptions_are_found_by_customer_plan_and_status,
    the_roadmaps_paths_lead_to_the_same_subscription,
    of_two_items_with_one_name_the_first_is_taken,
    reasons_go_with_an_erasure_and_figures_stay,
    chartmoguls_example_cell_by_cell,
    churn_rates_are_those_that_chartmogul_publishes,
];

pub(crate) fn plan(amount: i64, interval: &str) -> Value {
    json!({"name": "Plan", "price": {"amount": amount, "currency": "USD"}, "interval": interval})
}

pub(crate) async fn customer(tenant: &Tenant) -> Answer {
    tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await
}

pub(crate) async fn subscribe(tenant: &Tenant, customer: &str, plan: &str) -> Answer {
    tenant.post("/subscriptions", &json!({"customer": customer, "plan": plan})).expect(201).await
}

async fn a_plan_is_created_renamed_and_never_repriced(house: &House) {
    let tenant = house.tenant().await;
    let mut body = plan(1999, "month");
    body["external_id"] = json!("basic");
    let made = tenant.post("/plans", &body).expect(201).await;
    assert!(made.id().starts_with("pln_"), "{}", made.text);
    tenant.post("/plans", &body).problem(409, "already-exists").await;
    let renamed = tenant.patch("/plans/ext:basic", &json!({"name": "Basic"})).expect(200).await;
    assert_eq!(renamed.body["name"], "Basic");
    let priced = tenant.patch("/plans/ext:basic", &json!({"price": {"amount": 1, "currency": "USD"}})).send().await;
    priced.is_problem(422, "validation-failed");
    assert_eq!(priced.pointers(), ["/price"], "{}", priced.text);
    let same = tenant.get("/plans/ext:basic").expect(200).await;
    tenant.patch("/plans/ext:basic", &same.body).expect(200).await;
    let listed = tenant.get("/plans").after(&renamed).expect(200).await;
    assert_eq!((listed.data().len(), &listed.data()[0]["price"]), (1, &body["price"]));
    for (field, value) in [
        ("interval", json!("week")),
        ("price", json!({"amount": -1, "currency": "USD"})),
        ("price", json!({"amount": 1, "currency": "usd"})),
        ("name", json!("")),
    ] {
        let mut bad = plan(1, "month");
        bad[field] = value;
        tenant.post("/plans", &bad).problem(422, "validation-failed").await;
    }
}

/// Somebody always has a rename of it on the way: what changes nothing, or is refused, is answered all the same.
async fn a_plan_that_is_never_at_rest_still_refuses_and_says_already_so(house: &House) {
    let tenant = house.tenant().await;
    let path = format!("/plans/{}", tenant.post("/plans", &plan(100, "month")).expect(201).await.id());
    tenant.patch(&path, &json!({ "name": "first" })).expect(200).await;
    let stop = AtomicBool::new(false);
    let renamer = |number: usize| {
        let (tenant, path, stop) = (&tenant, &path, &stop);
        async move {
            let mut renamed = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = json!({ "name": format!("{number} {renamed}") });
                tenant.patch(path, &name).expect(200).await;
                renamed += 1;
            }
            renamed
        }
    };
    let others = async {
        for number in 0..20 {
            tenant
                .patch(&path, &json!({ "name": "x" }))
                .header("if-match", "\"1\"")
                .send()
                .await
                .is_problem(412, "version-conflict");
            let same = tenant.patch(&path, &json!({})).expect(200).await;
            assert!(same.body["name"].is_string(), "{number}: {}", same.text);
            // One with a key, which is kept although nothing changes.
            let key = format!("same-{number}");
            let keyed = || tenant.patch(&path, &json!({})).header("idempotency-key", &key);
            assert_eq!(keyed().expect(200).await.status, 200);
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (renamed, ()) = join(join_all((0..48).map(renamer)), others).await;
    let (renamed, versions) = (renamed.iter().sum::<usize>(), tenant.get(&path).expect(200).await);
    assert_eq!(versions.header("etag"), format!("\"{}\"", renamed + 2), "each rename once");
}

async fn a_subscription_goes_its_whole_way(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(120_000, "year")).expect(201).await);
    let started = subscribe(&tenant, customer.id(), plan.id()).await;
    let body = &started.body;
    assert_eq!((&body["status"], &body["quantity"], &body["cancel_at"]), (&json!("active"), &json!(1), &Value::Null));
    assert_eq!(body["mrr"], json!({"amount": 10_000, "currency": "USD"}));
    assert_eq!(body["current_period"]["start"], body["started_at"]);
    let path = format!("/subscriptions/{}", started.id());
    let cancel = json!({"at": "period_end", "reason": "canary reason"});
    let scheduled = tenant.post(&format!("{path}/cancel"), &cancel).expect(200).await;
    assert_eq!(scheduled.body["cancel_at"], body["current_period"]["end"]);
    assert_eq!((&scheduled.body["status"], &scheduled.body["reason"]), (&json!("active"), &json!("canary reason")));
    let back = tenant.post(&format!("{path}/reactivate"), &json!({})).expect(200).await;
    assert_eq!((&back.body["cancel_at"], &back.body["reason"]), (&Value::Null, &Value::Null));
    let ended = tenant.post(&format!("{path}/cancel"), &json!({"at": "now"})).expect(200).await;
    assert_eq!((&ended.body["status"], &ended.body["mrr"]["amount"]), (&json!("cancelled"), &json!(0)));
    assert!(ended.body["cancelled_at"].is_string());
    let history = tenant.get(&format!("{path}/history")).expect(200).await;
    let types: Vec<&str> = history.data().iter().rev().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "subscription.started",
            "subscription.cancellation_scheduled",
            "subscription.reactivated",
            "subscription.cancelled"
        ]
    );
}

async fn an_import_begins_in_the_period_that_holds_now(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(3_100, "month")).expect(201).await);
    let body = json!({
        "customer": customer.id(), "plan": plan.id(), "started_at": "2024-01-31T23:30:00Z", "time_zone": "Europe/Berlin",
    });
    let started = tenant.post("/subscriptions", &body).expect(201).await;
    assert_eq!((&started.body["started_at"], &started.body["anchor"]), (&body["started_at"], &body["started_at"]));
    let at = |field: &str| {
        let text = started.body["current_period"][field].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap()
    };
    let now = chrono::DateTime::parse_from_rfc3339(started.body["updated_at"].as_str().unwrap()).unwrap();
    assert!(at("start") > now, "it was updated when it began: {}", started.text);
    let real = commands::clock::now();
    assert!(at("start") <= real && real < at("end"), "{}", started.text);
    let history = tenant.get(&format!("/subscriptions/{}/history", started.id())).expect(200).await;
    assert_eq!(history.data().len(), 1, "none is renewed");
    let mut future = body.clone();
    future["started_at"] = json!("2999-01-01T00:00:00Z");
    let refused = tenant.post("/subscriptions", &future).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/started_at"]);
}

async fn a_change_is_at_once_and_another_interval_begins_a_new_period(house: &House) {
    let tenant = house.tenant().await;
    let customer = customer(&tenant).await;
    let monthly = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let yearly = tenant.post("/plans", &plan(9_600, "year")).expect(201).await;
    let started = subscribe(&tenant, customer.id(), monthly.id()).await;
    let path = format!("/subscriptions/{}", started.id());
    let three = tenant.patch(&path, &json!({"quantity": 3})).header("if-match", "\"1\"").expect(200).await;
    assert_eq!((&three.body["mrr"]["amount"], &three.body["quantity"]), (&json!(3_000), &json!(3)));
    assert_eq!(three.body["current_period"], started.body["current_period"]);
    let changed = tenant.patch(&path, &json!({"plan": yearly.id()})).expect(200).await;
    assert_eq!((&changed.body["mrr"]["amount"], &changed.body["interval"]), (&json!(2_400), &json!("year")));
    assert_ne!(changed.body["current_period"], started.body["current_period"]);
    tenant.patch(&path, &changed.body).expect(200).await;
    tenant.patch(&path, &json!({"quantity": 2})).header("if-match", "\"1\"").problem(412, "version-conflict").await;
    let again = tenant.get(&path).expect(200).await;
    assert_eq!(again.header("etag"), "\"3\"", "what changes nothing is no event");
}

async fn a_cancelled_subscription_stays_as_it_is(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(1_000, "month")).expect(201).await);
    let started = subscribe(&tenant, customer.id(), plan.id()).await;
    let path = format!("/subscriptions/{}", started.id());
    let first = tenant.post(&format!("{path}/cancel"), &json!({"at": "now"})).expect(200).await;
    let second = tenant.post(&format!("{path}/cancel"), &json!({"at": "now"})).expect(200).await;
    assert_eq!(first.body, second.body);
    tenant.patch(&path, &json!({"quantity": 2})).problem(409, "subscription-cancelled").await;
    tenant.post(&format!("{path}/reactivate"), &json!({})).problem(409, "subscription-cancelled").await;
}

async fn what_is_wrong_with_a_subscription_is_told(house: &House) {
    let tenant = house.tenant().await;
    let (customer, usd) = (customer(&tenant).await, tenant.post("/plans", &plan(1_000, "month")).expect(201).await);
    let mut euro = plan(1_000, "month");
    euro["price"]["currency"] = json!("EUR");
    let euro = tenant.post("/plans", &euro).expect(201).await;
    let huge = tenant.post("/plans", &plan(9_007_199_254_740_991, "month")).expect(201).await;
    let started = subscribe(&tenant, customer.id(), usd.id()).await;
    let head = tenant.events_head().await;
    let path = format!("/subscriptions/{}", started.id());
    let good = json!({"customer": customer.id(), "plan": usd.id()});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, pointer) in [
        (with("quantity", json!(0)), "/quantity"),
        (with("quantity", json!(-1)), "/quantity"),
        (with("quantity", json!(1_000_001)), "/quantity"),
        (with("quantity", json!(1.5)), "/quantity"),
        (with("time_zone", json!("Mars/Olympus")), "/time_zone"),
        (with("plan", json!("ext:nothing")), "/plan"),
        (with("plan", json!(customer.id())), "/plan"),
        (with("customer", json!("ext:nobody")), "/customer"),
        (with("started_at", json!("yesterday")), "/started_at"),
    ] {
        let refused = tenant.post("/subscriptions", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    let mut two = with("plan", json!(huge.id()));
    two["quantity"] = json!(2);
    let large = tenant.post("/subscriptions", &two).problem(422, "validation-failed").await;
    assert_eq!(large.pointers(), ["/quantity"], "{}", large.text);
    for (body, pointer) in [
        (json!({"quantity": 0}), "/quantity"),
        (json!({"plan": euro.id()}), "/plan"),
        (json!({"status": "x"}), "/status"),
    ] {
        let refused = tenant.patch(&path, &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    for body in [json!({}), json!({"at": "tomorrow"}), json!({"at": "now", "reason": ""})] {
        tenant.post(&format!("{path}/cancel"), &body).problem(422, "validation-failed").await;
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn subscriptions_are_found_by_customer_plan_and_status(house: &House) {
    let tenant = house.tenant().await;
    let (ada, bob) = (customer(&tenant).await, customer(&tenant).await);
    let plan = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let first = subscribe(&tenant, ada.id(), plan.id()).await;
    let second = subscribe(&tenant, bob.id(), plan.id()).await;
    let ended = tenant.post(&format!("/subscriptions/{}/cancel", second.id()), &json!({"at": "now"})).expect(200).await;
    let found = async |query: String| {
        let list = tenant.get(&format!("/subscriptions?{query}")).after(&ended).expect(200).await;
        list.data().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found(format!("customer={}", ada.id())).await, [first.id()]);
    assert_eq!(found(format!("plan={}", plan.id())).await, [second.id(), first.id()]);
    assert_eq!(found("status=cancelled".into()).await, [second.id()]);
    tenant.get("/subscriptions?status=none").problem(422, "validation-failed").await;
}

async fn the_roadmaps_paths_lead_to_the_same_subscription(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(1_000, "month")).expect(201).await);
    let body = json!({"customer": customer.id(), "plan": plan.id()});
    let made = tenant.post("/payments/subscriptions", &body).header("idempotency-key", "k").expect(201).await;
    let replayed = tenant.post("/subscriptions", &body).header("idempotency-key", "k").expect(201).await;
    assert_eq!((replayed.id(), replayed.header("idempotent-replayed")), (made.id(), "true"), "one operation");
    let path = format!("/payments/subscriptions/{}", made.id());
    assert_eq!(tenant.get(&path).expect(200).await.body, made.body);
    let put = tenant.call(reqwest::Method::PUT, &path).json(&json!({"quantity": 2})).expect(200).await;
    assert_eq!(put.body["quantity"], 2);
    tenant.post(&format!("{path}/cancel"), &json!({"at": "period_end"})).expect(200).await;
    let refused = tenant.call(reqwest::Method::DELETE, &path).problem(405, "method-not-allowed").await;
    assert!(refused.header("allow").contains("PUT"), "{}", refused.header("allow"));
}

async fn of_two_items_with_one_name_the_first_is_taken(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(1_000, "month")).expect(201).await);
    for round in 0..10 {
        let item = |name: &str, quantity: i64| json!({"external_id": format!("{name}-{round}"), "customer": customer.id(), "plan": plan.id(), "quantity": quantity});
        let items = json!({"items": [item("a", 0), item("a", 1), item("b", 2), item("a", 3), item("b", 4)]});
        let done = tenant.post("/payments/subscriptions/batch", &items).expect(200).await;
        let statuses: Vec<i64> = done.data().iter().map(|item| item["status"].as_i64().unwrap()).collect();
        assert_eq!(statuses, [422, 201, 201, 409, 409], "{}", done.text);
    }
}

async fn reasons_go_with_an_erasure_and_figures_stay(house: &House) {
    let tenant = house.tenant().await;
    let (customer, plan) = (customer(&tenant).await, tenant.post("/plans", &plan(1_000, "month")).expect(201).await);
    let (kept, gone) =
        (subscribe(&tenant, customer.id(), plan.id()).await, subscribe(&tenant, customer.id(), plan.id()).await);
    let cancel = json!({"at": "now", "reason": "canary reason"});
    let cancelled = tenant.post(&format!("/subscriptions/{}/cancel", gone.id()), &cancel).expect(200).await;
    let figures = async |after: i64| {
        let wait = after.to_string();
        let revenue = tenant.get("/analytics/revenue").header("annals-min-sequence", &wait).expect(200).await;
        let kpis = tenant.get("/analytics/kpis").header("annals-min-sequence", &wait).expect(200).await;
        (revenue.body["data"].clone(), kpis.body["mrr"]["value"].clone())
    };
    let before = figures(cancelled.sequence()).await;
    assert_eq!(before.1, json!([{"amount": 1_000, "currency": "USD"}]));
    erase(&tenant, customer.id()).await;
    assert_eq!(figures(tenant.events_head().await).await, before, "no figure changes");
    let read = tenant.get(&format!("/subscriptions/{}", gone.id())).expect(200).await;
    assert_eq!((&read.body["reason"], &read.body["status"]), (&Value::Null, &json!("cancelled")));
    let history = tenant.get(&format!("/subscriptions/{}/history", gone.id())).expect(200).await;
    assert!(!history.text.contains("canary"), "{}", history.text);
    let path = format!("/subscriptions/{}", kept.id());
    tenant.patch(&path, &json!({"quantity": 2})).problem(409, "subject-erased").await;
    tenant.post(&format!("{path}/cancel"), &cancel).problem(409, "subject-erased").await;
    let body = json!({"customer": customer.id(), "plan": plan.id()});
    tenant.post("/subscriptions", &body).problem(409, "subject-erased").await;
    tenant.post(&format!("{path}/cancel"), &json!({"at": "now"})).expect(200).await;
}

/// A subscription that began at a moment, and that of its cancellation if it ended.
async fn begun(tenant: &Tenant, customer: &str, plan: &str, at: &str) -> Answer {
    let body = json!({"customer": customer, "plan": plan, "started_at": at});
    tenant.post("/subscriptions", &body).expect(201).await
}

fn amount(value: &Value) -> i64 {
    value["amount"].as_i64().unwrap_or_else(|| panic!("no amount: {value}"))
}

/// The movements of a period in minor units: MRR at the end, new, expansion, contraction, churn, reactivation.
fn movements(period: &Value) -> [i64; 6] {
    let moved = &period["mrr_movements"];
    let of = |name: &str| amount(&moved[name]);
    [amount(&period["mrr"]), of("new"), of("expansion"), of("contraction"), of("churn"), of("reactivation")]
}

async fn chartmoguls_example_cell_by_cell(house: &House) {
    let tenant = house.tenant().await;
    let yearly = tenant.post("/plans", &plan(200_000, "year")).expect(201).await;
    let extra = tenant.post("/plans", &plan(3_000, "month")).expect(201).await;
    let mut customers = Vec::new();
    for _ in 0..4 {
        let customer = customer(&tenant).await;
        begun(&tenant, customer.id(), yearly.id(), "2026-01-15T12:00:00Z").await;
        customers.push(customer);
    }
    let mut extras = Vec::new();
    for customer in &customers[..2] {
        extras.push(begun(&tenant, customer.id(), extra.id(), "2026-02-15T12:00:00Z").await);
    }
    let query = "/analytics/revenue?from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z&interval=month";
    let report = tenant.get(query).after(extras.last().unwrap()).expect(200).await;
    let periods = report.data();
    assert_eq!(periods.len(), 2, "{}", report.text);
    assert_eq!(movements(&periods[0]), [66_668, 66_668, 0, 0, 0, 0], "four of 166.67 are new");
    assert_eq!(movements(&periods[1]), [72_668, 0, 6_000, 0, 0, 0], "60 are an expansion");
    let mut last = None;
    for extra in &extras {
        let path = format!("/subscriptions/{}/cancel", extra.id());
        last = Some(tenant.post(&path, &json!({"at": "now"})).expect(200).await);
    }
    let now = tenant.get("/analytics/revenue?interval=month").after(&last.unwrap()).expect(200).await;
    assert_eq!(movements(now.data().last().unwrap()), [66_668, 0, 0, 6_000, 0, 0], "60 are a contraction, no churn");
}

async fn churn_rates_are_those_that_chartmogul_publishes(house: &House) {
    let tenant = house.test_tenant().await;
    let ten = tenant.post("/plans", &plan(10, "month")).expect(201).await;
    let mut subscriptions = Vec::new();
    for quantity in [10, 50, 40] {
        let customer = customer(&tenant).await;
        let body = json!({"customer": customer.id(), "plan": ten.id(), "quantity": quantity});
        subscriptions.push(tenant.post("/subscriptions", &body).expect(201).await);
    }
    let now = tenant.get("/test-clock").expect(200).await.body["now"].as_str().unwrap().to_owned();
    let next = chrono::DateTime::parse_from_rfc3339(&now).unwrap() + chrono::TimeDelta::days(33);
    let body = json!({"advance_to": next.to_rfc3339()});
    tenant.post("/test-clock", &body).header("prefer", "wait=20").expect(202).await;
    // Of 1,000: 100 churn, 100 contraction, 100 expansion.
    tenant.post(&format!("/subscriptions/{}/cancel", subscriptions[0].id()), &json!({"at": "now"})).expect(200).await;
    tenant.patch(&format!("/subscriptions/{}", subscriptions[1].id()), &json!({"quantity": 40})).expect(200).await;
    let path = format!("/subscriptions/{}", subscriptions[2].id());
    let last = tenant.patch(&path, &json!({"quantity": 50})).expect(200).await;
    let kpis = tenant.get("/analytics/kpis").after(&last).expect(200).await;
    let rate =
        |name: &str| kpis.body[name]["value"][0]["rate"].as_f64().unwrap_or_else(|| panic!("{name}: {}", kpis.text));
    assert!((rate("gross_mrr_churn_rate") - 0.2).abs() < 1e-9, "{}", kpis.text);
    assert!((rate("net_mrr_churn_rate") - 0.1).abs() < 1e-9, "{}", kpis.text);
}
