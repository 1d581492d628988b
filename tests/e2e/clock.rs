//! The clock of a test tenant, and what falls due on its way.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::agents::agent;
use crate::billing::{customer, plan, subscribe};
use crate::client::Answer;
use crate::house::{House, Tenant};
use crate::provider::Provider;
use crate::tests;

tests![
    a_tenant_that_is_not_for_tests_has_no_clock,
    a_clock_goes_forwards_alone,
    a_year_passes_and_every_renewal_happens_once_in_order,
    a_scheduled_end_comes_when_the_period_ends,
    an_agents_next_attempt_comes_with_its_time,
    erasures_wait_for_the_tenants_own_time,
    an_advance_that_takes_longer_than_it_goes_arrives,
];

async fn now(tenant: &Tenant) -> DateTime<Utc> {
    let clock = tenant.get("/test-clock").expect(200).await;
    time(&clock.body["now"])
}

fn time(value: &Value) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(value.as_str().unwrap_or_else(|| panic!("no time: {value}"))).unwrap().to_utc()
}

/// Advances the clock and waits until it has arrived.
pub(crate) async fn advance(tenant: &Tenant, to: DateTime<Utc>) -> Answer {
    let begun = tenant.post("/test-clock", &json!({"advance_to": to.to_rfc3339()})).expect(202).await;
    assert_eq!(begun.header("location"), "/api/v1/test-clock");
    tenant.until("/test-clock", |clock| clock["status"] == "ready").await
}

async fn a_tenant_that_is_not_for_tests_has_no_clock(house: &House) {
    let tenant = house.tenant().await;
    tenant.get("/test-clock").problem(409, "not-a-test-tenant").await;
    let to = json!({"advance_to": "2099-01-01T00:00:00Z"});
    tenant.post("/test-clock", &to).problem(409, "not-a-test-tenant").await;
}

async fn a_clock_goes_forwards_alone(house: &House) {
    let tenant = house.test_tenant().await;
    let begin = now(&tenant).await;
    assert!((begin - commands::clock::now()).abs() < TimeDelta::seconds(5), "it begins with ours");
    let to = begin + TimeDelta::days(400);
    let arrived = advance(&tenant, to).await;
    assert!(time(&arrived.body["now"]) >= to && time(&arrived.body["now"]) < to + TimeDelta::seconds(60));
    for (to, code) in [
        (to - TimeDelta::days(1), "validation-failed"),
        (begin, "validation-failed"),
        (to + TimeDelta::days(4_000), "validation-failed"),
    ] {
        let refused = tenant.post("/test-clock", &json!({"advance_to": to.to_rfc3339()})).problem(422, code).await;
        assert_eq!(refused.pointers(), ["/advance_to"], "{}", refused.text);
    }
    let made = tenant.post("/customers", &json!({})).expect(201).await;
    assert!(time(&made.body["created_at"]) >= to, "what happens now happens then: {}", made.text);
    let history = tenant.get(&format!("/customers/{}/history", made.id())).expect(200).await;
    assert!(time(&history.data()[0]["recorded_at"]) < begin + TimeDelta::days(1), "the log has its own clock");
}

async fn a_year_passes_and_every_renewal_happens_once_in_order(house: &House) {
    let tenant = house.test_tenant().await;
    let plan = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let customer = customer(&tenant).await;
    let mut subscriptions = Vec::new();
    for _ in 0..20 {
        subscriptions.push(subscribe(&tenant, customer.id(), plan.id()).await);
    }
    let begin = now(&tenant).await;
    let head = tenant.events_head().await;
    advance(&tenant, begin + TimeDelta::days(366)).await;
    let mut renewals: Vec<(i64, DateTime<Utc>, String)> = Vec::new();
    let mut after = head;
    loop {
        let page = tenant.get(&format!("/events?after={after}&type=subscription.renewed&limit=100")).expect(200).await;
        renewals.extend(page.data().iter().map(|event| {
            let stream = event["stream"].as_str().unwrap().to_owned();
            (event["sequence"].as_i64().unwrap(), time(&event["occurred_at"]), stream)
        }));
        let Some(last) = renewals.last().filter(|_| page.body["has_more"] == true && !page.data().is_empty()) else {
            break;
        };
        after = last.0;
    }
    assert_eq!(renewals.len(), 20 * 12);
    assert!(renewals.is_sorted_by_key(|(sequence, ..)| *sequence));
    assert!(renewals.is_sorted_by_key(|(_, at, _)| *at), "in the order of their moments");
    for subscription in &subscriptions {
        let read = tenant.get(&format!("/subscriptions/{}", subscription.id())).expect(200).await;
        let of: Vec<_> = renewals.iter().filter(|(.., stream)| stream == subscription.id()).collect();
        assert_eq!((of.len(), &read.body["cycle"]), (12, &json!(12)), "each once");
        assert_eq!(of.last().unwrap().1, time(&read.body["current_period"]["start"]), "right to the microsecond");
    }
}

async fn a_scheduled_end_comes_when_the_period_ends(house: &House) {
    let tenant = house.test_tenant().await;
    let plan = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let customer = customer(&tenant).await;
    let started = subscribe(&tenant, customer.id(), plan.id()).await;
    let path = format!("/subscriptions/{}", started.id());
    tenant.post(&format!("{path}/cancel"), &json!({"at": "period_end"})).expect(200).await;
    let end = time(&started.body["current_period"]["end"]);
    advance(&tenant, end - TimeDelta::seconds(30)).await;
    assert_eq!(tenant.get(&path).expect(200).await.body["status"], "active");
    advance(&tenant, end).await;
    let ended = tenant.get(&path).expect(200).await;
    assert_eq!((&ended.body["status"], time(&ended.body["cancelled_at"])), (&json!("cancelled"), end));
    tenant.post(&format!("{path}/reactivate"), &json!({})).problem(409, "subscription-cancelled").await;
}

async fn an_agents_next_attempt_comes_with_its_time(house: &House) {
    let (tenant, provider) = (house.test_tenant().await, Provider::start().await);
    let mut body = provider.agent("flaky/1");
    body["retry"] = json!({"attempts": 2, "initial_seconds": 3600, "factor": 1});
    let agent = agent(&tenant, &body).await;
    let taken = tenant.post(&format!("/agents/{}/execute", agent.id()), &json!({"input": {}})).expect(202).await;
    let path = format!("/runs/{}", taken.id());
    let waits = tenant.until(&path, |run| run["error"]["code"] == "provider-status").await;
    assert_eq!(waits.body["status"], "pending");
    advance(&tenant, time(&waits.body["next_attempt_at"])).await;
    let done = tenant.get(&path).expect(200).await;
    assert_eq!((&done.body["status"], &done.body["attempts"]), (&json!("succeeded"), &json!(2)), "{}", done.text);
}

async fn erasures_wait_for_the_tenants_own_time(house: &House) {
    let tenant = house.test_tenant().await;
    let customer = customer(&tenant).await;
    advance(&tenant, now(&tenant).await + TimeDelta::days(30)).await;
    let done = crate::privacy::erase(&tenant, customer.id()).await;
    assert!(time(&done.body["updated_at"]) > commands::clock::now() + TimeDelta::days(29), "{}", done.text);
}

async fn an_advance_that_takes_longer_than_it_goes_arrives(house: &House) {
    let (tenant, provider) = (house.test_tenant().await, Provider::start().await);
    let slow = agent(&tenant, &provider.agent("wait/2500")).await;
    let taken = tenant.post(&format!("/agents/{}/execute", slow.id()), &json!({"input": {}})).expect(202).await;
    provider.until_called(1).await;
    let arrived = advance(&tenant, now(&tenant).await + TimeDelta::seconds(1)).await;
    let done = tenant.get(&format!("/runs/{}", taken.id())).expect(200).await;
    assert_eq!(done.body["status"], "succeeded", "what was under way belongs before: {}", arrived.text);
    assert_eq!(provider.calls().len(), 1, "it was not called again");
    advance(&tenant, now(&tenant).await + TimeDelta::days(1)).await;
}
