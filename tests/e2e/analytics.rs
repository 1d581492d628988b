//! Cohorts, revenue and key figures, against figures worked out by hand.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::{House, Tenant};
use crate::tests;

tests![
    cohorts_follow_the_customers_first_order,
    an_earlier_order_that_comes_late_moves_the_whole_history,
    a_time_zone_decides_the_month,
    revenue_counts_refunds_when_they_were_made,
    weeks_are_those_of_iso_8601,
    key_figures_are_right_and_say_where_they_stand,
    reports_refuse_what_makes_no_sense,
];

async fn buy(tenant: &Tenant, customer: &str, placed_at: &str, amount: i64, currency: &str) -> Answer {
    let body = json!({
        "customer": format!("ext:{customer}"), "placed_at": placed_at, "currency": currency,
        "lines": [{"sku": "cd", "quantity": 1, "total": {"amount": amount, "currency": currency}}],
    });
    tenant.post("/orders", &body).expect(201).await
}

async fn customers(tenant: &Tenant, names: &[&str]) {
    let items: Vec<_> = names.iter().map(|name| json!({"external_id": name})).collect();
    tenant.post("/customers/batch", &json!({"items": items})).expect(200).await;
}

async fn cohorts(tenant: &Tenant, after: &Answer, change: Value) -> Value {
    let mut body = json!({"metric": "retention", "interval": "month", "from": "1997-01-01T00:00:00Z", "to": "1997-04-01T00:00:00Z"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    tenant.post("/analytics/cohort-analysis", &body).after(after).expect(200).await.body["cohorts"].clone()
}

fn cells(cohort: &Value, field: &str) -> Vec<Value> {
    cohort["cells"].as_array().unwrap().iter().map(|cell| cell[field].clone()).collect()
}

async fn cohorts_follow_the_customers_first_order(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a", "b", "c", "never"]).await;
    buy(&tenant, "a", "1997-01-05T00:00:00Z", 100, "USD").await;
    buy(&tenant, "a", "1997-03-05T00:00:00Z", 50, "USD").await;
    buy(&tenant, "a", "1997-03-06T00:00:00Z", 0, "USD").await;
    buy(&tenant, "b", "1997-01-31T23:59:59Z", 10, "USD").await;
    buy(&tenant, "b", "1997-01-31T23:59:59Z", 7, "EUR").await;
    let last = buy(&tenant, "c", "1997-02-01T00:00:00Z", 20, "USD").await;
    let cohorts = cohorts(&tenant, &last, json!({})).await;
    let labels: Vec<_> = cohorts
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["cohort"].as_str().unwrap(), c["customers"].as_i64().unwrap()))
        .collect();
    assert_eq!(labels, [("1997-01", 2), ("1997-02", 1)]);
    assert_eq!(cells(&cohorts[0], "active"), [2, 0, 1]);
    assert_eq!(cells(&cohorts[0], "orders"), [3, 0, 2]);
    assert_eq!(cells(&cohorts[0], "retention"), [json!(1.0), json!(0.0), json!(0.5)]);
    assert_eq!(cells(&cohorts[0], "offset"), [0, 1, 2]);
    assert_eq!(cells(&cohorts[0], "complete"), [true, true, true]);
    let revenue = cells(&cohorts[0], "revenue");
    assert_eq!(revenue[0], json!([{"amount": 7, "currency": "EUR"}, {"amount": 110, "currency": "USD"}]));
    assert_eq!(revenue[2], json!([{"amount": 0, "currency": "EUR"}, {"amount": 50, "currency": "USD"}]));
    assert_eq!(cells(&cohorts[1], "active"), [1, 0]);
}

async fn an_earlier_order_that_comes_late_moves_the_whole_history(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a"]).await;
    let first = buy(&tenant, "a", "1997-02-10T00:00:00Z", 5, "USD").await;
    assert_eq!(cohorts(&tenant, &first, json!({})).await[0]["cohort"], "1997-02");
    let late = buy(&tenant, "a", "1997-01-10T00:00:00Z", 3, "USD").await;
    let moved = cohorts(&tenant, &late, json!({})).await;
    assert_eq!((moved.as_array().unwrap().len(), moved[0]["cohort"].as_str()), (1, Some("1997-01")));
    assert_eq!(cells(&moved[0], "orders"), [1, 1, 0]);
}

async fn a_time_zone_decides_the_month(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a"]).await;
    let placed = buy(&tenant, "a", "1997-02-01T03:00:00Z", 5, "USD").await;
    assert_eq!(cohorts(&tenant, &placed, json!({"time_zone": "UTC"})).await[0]["cohort"], "1997-02");
    assert_eq!(cohorts(&tenant, &placed, json!({"time_zone": "America/New_York"})).await[0]["cohort"], "1997-01");
}

async fn revenue_counts_refunds_when_they_were_made(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a"]).await;
    let placed = buy(&tenant, "a", "1997-01-10T00:00:00Z", 100, "USD").await;
    buy(&tenant, "a", "1997-03-10T00:00:00Z", 11, "USD").await;
    let refund = json!({"amount": {"amount": 30, "currency": "USD"}});
    let refunded = tenant
        .post(&format!("/orders/{}/refund", placed.id()), &refund)
        .header("idempotency-key", "k")
        .expect(200)
        .await;
    let revenue = tenant
        .get("/analytics/revenue?from=1997-01-01T00:00:00Z&to=1997-04-01T00:00:00Z&interval=month")
        .after(&refunded)
        .expect(200)
        .await;
    let of = |n: usize| {
        let row = &revenue.data()[n];
        (
            row["period"].as_str().unwrap(),
            row["orders"].as_i64().unwrap(),
            row["order_revenue"]["amount"].as_i64().unwrap(),
            row["refunds"]["amount"].as_i64().unwrap(),
        )
    };
    assert_eq!([of(0), of(1), of(2)], [("1997-01", 1, 100, 0), ("1997-02", 0, 0, 0), ("1997-03", 1, 11, 0)]);
    // Periods go from the first sale to the last, whatever the range: a millennium is answered, 29 years of days are not.
    let millennium = "/analytics/revenue?from=1997-01-01T00:00:00Z&to=2999-01-01T00:00:00Z&interval";
    let months = tenant.get(&format!("{millennium}=month")).expect(200).await;
    let net: i64 = months.data().iter().map(|row| row["net"]["amount"].as_i64().unwrap()).sum();
    assert_eq!((months.data()[0]["period"].as_str(), net), (Some("1997-01"), 81), "{}", months.text);
    let days = tenant.get(&format!("{millennium}=day")).problem(422, "validation-failed").await;
    assert_eq!(days.pointers(), ["?interval"], "a range too long for its interval is told: {}", days.text);
    let year = refunded.body["updated_at"].as_str().unwrap()[..4].to_owned();
    let now = tenant
        .get(&format!("/analytics/revenue?from={year}-01-01T00:00:00Z&to={year}-12-31T23:59:59Z&interval=month"))
        .expect(200)
        .await;
    let net: i64 = now.data().iter().map(|row| row["net"]["amount"].as_i64().unwrap()).sum();
    assert_eq!(net, -30, "{}", now.text);
}

async fn weeks_are_those_of_iso_8601(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a", "b"]).await;
    buy(&tenant, "a", "1996-12-30T00:00:00Z", 1, "USD").await;
    let last = buy(&tenant, "b", "1996-12-29T23:59:59Z", 1, "USD").await;
    let range = json!({"interval": "week", "from": "1996-12-23T00:00:00Z", "to": "1997-01-06T00:00:00Z"});
    let cohorts = cohorts(&tenant, &last, range).await;
    let labels: Vec<_> = cohorts.as_array().unwrap().iter().map(|c| c["cohort"].as_str().unwrap()).collect();
    assert_eq!(labels, ["1996-W52", "1997-W01"]);
}

async fn key_figures_are_right_and_say_where_they_stand(house: &House) {
    let tenant = house.tenant().await;
    customers(&tenant, &["a", "b", "c"]).await;
    buy(&tenant, "a", "1997-01-10T00:00:00Z", 100, "USD").await;
    buy(&tenant, "a", "1997-01-11T00:00:00Z", 51, "USD").await;
    let last = buy(&tenant, "b", "1997-01-11T00:00:00Z", 0, "USD").await;
    let kpis = tenant.get("/analytics/kpis").after(&last).expect(200).await;
    let value = |name: &str| kpis.body[name]["value"].clone();
    assert_eq!((value("customers"), value("orders")), (json!(3), json!(3)));
    assert_eq!(value("revenue"), json!([{"amount": 151, "currency": "USD"}]));
    assert_eq!(value("average_order"), json!([{"amount": 50, "currency": "USD"}]));
    assert_eq!(value("repeat_rate"), json!(0.5));
    for name in ["customers", "orders", "revenue", "refunds", "average_order", "repeat_rate"] {
        assert!(kpis.body[name]["sequence"].as_i64().unwrap() >= last.sequence(), "{name}: {}", kpis.text);
    }
}

async fn reports_refuse_what_makes_no_sense(house: &House) {
    let tenant = house.tenant().await;
    let good = json!({"metric": "retention", "interval": "month", "from": "1997-01-01T00:00:00Z", "to": "1997-04-01T00:00:00Z"});
    for (field, value) in [
        ("interval", json!("fortnight")),
        ("metric", json!("love")),
        ("time_zone", json!("Mars/Olympus")),
        ("to", json!("1996-01-01T00:00:00Z")),
        ("from", json!("yesterday")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let refused = tenant.post("/analytics/cohort-analysis", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [format!("/{field}")], "{}", refused.text);
    }
    tenant
        .get("/analytics/revenue?from=1997-01-01T00:00:00Z&to=1997-04-01T00:00:00Z&interval=month&time_zone=Nowhere")
        .problem(422, "validation-failed")
        .await;
    tenant.get("/analytics/revenue?interval=month&colour=red").problem(422, "unknown-field").await;
}
