//! Erasure, from the request to the receipt, and that nothing can be read afterwards.

use serde_json::{Value, json};

use crate::canaries::CANARIES;
use crate::client::Answer;
use crate::house::{House, Tenant};
use crate::orders::order;
use crate::tests;

tests![
    an_erasure_needs_a_second_principal_and_ends_with_a_receipt,
    after_an_erasure_personal_fields_are_null_everywhere_and_figures_stay,
    claims_are_free_again_after_an_erasure,
    nothing_is_written_about_an_erased_person,
    money_can_still_be_given_back,
    a_request_can_be_called_off,
    a_request_is_due_in_one_month,
    nothing_personal_is_stored_in_the_clear,
    the_old_path_files_an_erasure,
];

/// Files, approves and waits for the end of an erasure.
pub(crate) async fn erase(tenant: &Tenant, customer: &str) -> Answer {
    let body = json!({"customer": customer, "kind": "erasure", "reason": "asked by phone"});
    carry_out(tenant, &body).await
}

/// Asks for an erasure, approves it and waits for its end.
pub(crate) async fn carry_out(tenant: &Tenant, request: &Value) -> Answer {
    let filed = tenant.post("/privacy/requests", request).expect(202).await;
    let path = format!("/privacy/requests/{}", filed.id());
    tenant.approver.post(&format!("{path}/approve"), &json!({})).expect(200).await;
    tenant.until(&path, |request| request["status"] == "complete").await
}

async fn an_erasure_needs_a_second_principal_and_ends_with_a_receipt(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let filed =
        tenant.post("/privacy/requests", &json!({"customer": customer.id(), "kind": "erasure"})).expect(202).await;
    assert!(filed.id().starts_with("prq_"));
    assert_eq!(filed.body["status"], "pending");
    let path = format!("/privacy/requests/{}", filed.id());
    tenant.post(&format!("{path}/approve"), &json!({})).problem(403, "approval-required").await;
    let unable = tenant.key(&["privacy:write", "privacy:read"]).await;
    unable.post(&format!("{path}/approve"), &json!({})).problem(403, "forbidden").await;
    tenant.approver.post(&format!("{path}/approve"), &json!({})).expect(200).await;
    let done = tenant.until(&path, |request| request["status"] == "complete").await;
    let receipt = &done.body["receipt"];
    assert_eq!(receipt["customer"], customer.body["id"]);
    assert_eq!(receipt["keys_destroyed"], json!(["profile", "billing", "support"]));
    assert!(receipt["destroyed_at"].is_string());
    tenant.post(&format!("{path}/cancel"), &json!({})).problem(409, "privacy-request-begun").await;
}

async fn after_an_erasure_personal_fields_are_null_everywhere_and_figures_stay(house: &House) {
    let tenant = house.tenant().await;
    let body =
        json!({"external_id": "canary-e1", "name": "Canary Name", "email": "canary@example.com", "country": "GB"});
    let customer = tenant.post("/customers", &body).expect(201).await;
    let placed = tenant.post("/orders", &order(customer.id(), 700)).expect(201).await;
    let refund = json!({"amount": {"amount": 100, "currency": "USD"}, "reason": "canary reason"});
    let refunded = tenant
        .post(&format!("/orders/{}/refund", placed.id()), &refund)
        .header("idempotency-key", "k")
        .expect(200)
        .await;
    let cohorts =
        json!({"metric": "revenue", "interval": "month", "from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"});
    let figures = async |after: &Answer| {
        let cohorts = tenant.post("/analytics/cohort-analysis", &cohorts).after(after).expect(200).await;
        let revenue = tenant
            .get("/analytics/revenue?from=2026-01-01T00:00:00Z&to=2027-12-01T00:00:00Z&interval=month")
            .after(after)
            .expect(200)
            .await;
        (cohorts.body["cohorts"].clone(), revenue.body["data"].clone())
    };
    let before = figures(&refunded).await;
    assert!(before.0[0]["customers"] == 1 && before.1.as_array().is_some_and(|rows| !rows.is_empty()), "{before:?}");
    let done = erase(&tenant, customer.id()).await;
    let read = tenant.get(&format!("/customers/{}", customer.id())).expect(200).await;
    assert_eq!((read.body["status"].as_str(), read.body["country"].as_str()), (Some("erased"), Some("GB")));
    for field in ["external_id", "name", "email"] {
        assert_eq!(read.body[field], Value::Null, "{field}");
    }
    let sequence = tenant.events_head().await;
    for path in [
        format!("/customers/{}", customer.id()),
        format!("/customers/{}?as_of={}", customer.id(), customer.sequence()),
        format!("/customers/{}/history", customer.id()),
        format!("/orders/{}/history", placed.id()),
        format!("/privacy/requests/{}/history", done.id()),
        format!("/privacy/requests/{}", done.id()),
        "/customers".into(),
        "/privacy/requests".into(),
        "/events?limit=100".into(),
        "/audit-logs?limit=100".into(),
    ] {
        let answer = tenant.get(&path).header("annals-min-sequence", sequence.to_string()).expect(200).await;
        for canary in ["anary", "asked by phone", "$sealed", "$erased"] {
            assert!(!answer.text.contains(canary), "{path} shows {canary}: {}", answer.text);
        }
    }
    assert_eq!(figures(&done_at(&tenant).await).await, before, "no figure changes");
}

/// Any read after everything that was written.
async fn done_at(tenant: &Tenant) -> Answer {
    tenant.post("/customers", &json!({})).expect(201).await
}

async fn claims_are_free_again_after_an_erasure(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"external_id": "c-1", "email": "ada@example.com"});
    let first = tenant.post("/customers", &body).expect(201).await;
    erase(&tenant, "ext:c-1").await;
    tenant.get("/customers/ext:c-1").problem(404, "not-found").await;
    let second = tenant.post("/customers", &body).expect(201).await;
    assert_ne!(first.id(), second.id());
    assert_eq!(tenant.get("/customers/ext:c-1").expect(200).await.id(), second.id());
}

async fn nothing_is_written_about_an_erased_person(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let placed = tenant.post("/orders", &order(customer.id(), 10)).expect(201).await;
    erase(&tenant, customer.id()).await;
    // The process itself ends a moment after the request is complete.
    tenant.until_events("erasure.settled", 5).await;
    let head = tenant.events_head().await;
    let path = format!("/customers/{}", customer.id());
    tenant.patch(&path, &json!({"name": "Ada"})).problem(409, "subject-erased").await;
    tenant.patch(&path, &json!({"country": "FR"})).problem(409, "subject-erased").await;
    tenant.post("/orders", &order(customer.id(), 1)).problem(409, "subject-erased").await;
    let refund = json!({"reason": "about a person"});
    tenant
        .post(&format!("/orders/{}/refund", placed.id()), &refund)
        .header("idempotency-key", "k")
        .problem(409, "subject-erased")
        .await;
    let again = json!({"customer": customer.id(), "kind": "erasure"});
    tenant.post("/privacy/requests", &again).problem(409, "subject-erased").await;
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn money_can_still_be_given_back(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let placed = tenant.post("/orders", &order(customer.id(), 10)).expect(201).await;
    erase(&tenant, customer.id()).await;
    let refunded = tenant
        .post(&format!("/orders/{}/refund", placed.id()), &json!({}))
        .header("idempotency-key", "k")
        .expect(200)
        .await;
    assert_eq!(refunded.body["status"], "refunded");
}

async fn a_request_can_be_called_off(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let filed =
        tenant.post("/privacy/requests", &json!({"customer": customer.id(), "kind": "erasure"})).expect(202).await;
    let path = format!("/privacy/requests/{}", filed.id());
    let cancelled = tenant.post(&format!("{path}/cancel"), &json!({})).expect(200).await;
    assert_eq!(cancelled.body["status"], "cancelled");
    tenant.approver.post(&format!("{path}/approve"), &json!({})).problem(409, "privacy-request-cancelled").await;
    let read = tenant.get(&format!("/customers/{}", customer.id())).expect(200).await;
    assert_eq!(read.body["name"], "Ada");
}

async fn a_request_is_due_in_one_month(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let filed =
        tenant.post("/privacy/requests", &json!({"customer": customer.id(), "kind": "erasure"})).expect(202).await;
    let time = |field: &str| filed.body[field].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(time("due_at"), domain::privacy::due_at(time("created_at")));
    let list = tenant.get("/privacy/requests?status=pending").after(&filed).expect(200).await;
    assert_eq!(list.data().len(), 1);
}

async fn nothing_personal_is_stored_in_the_clear(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"external_id": "canary-x7", "name": "Canaryname X7", "email": "canary-x7@example.com"});
    let customer = tenant.post("/customers", &body).header("idempotency-key", "canary-x7-key").expect(201).await;
    let placed = tenant.post("/orders", &order("ext:canary-x7", 700)).expect(201).await;
    let refund = json!({"reason": "canaryreason x7"});
    let last = tenant
        .post(&format!("/orders/{}/refund", placed.id()), &refund)
        .header("idempotency-key", "k")
        .expect(200)
        .await;
    tenant.get("/customers/ext:canary-x7").expect(200).await;
    tenant.get("/customers").after(&last).expect(200).await;
    house.assert_nowhere_in_the_databases(customer.id(), CANARIES).await;
    house.assert_nowhere_in_kafka(customer.id(), CANARIES).await;
}

async fn the_old_path_files_an_erasure(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let filed = tenant.post("/gdpr/data-deletion", &json!({"customer": customer.id()})).expect(202).await;
    assert_eq!(
        (filed.body["kind"].as_str(), filed.body["object"].as_str()),
        (Some("erasure"), Some("privacy_request"))
    );
    let read = tenant.get(&format!("/privacy/requests/{}", filed.id())).expect(200).await;
    assert_eq!(read.body["status"], "pending");
}
