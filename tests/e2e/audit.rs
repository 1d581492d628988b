//! The trail, the events, their types: what an auditor and an analyst ask.

use serde_json::json;

use crate::house::House;
use crate::orders::order;
use crate::tests;

tests![
    the_trail_says_who_did_what_to_what,
    the_trail_is_filtered,
    events_are_read_in_order_after_a_sequence,
    event_types_have_schemas_and_counts,
    a_sequence_beyond_the_log_is_refused,
    the_first_event_of_a_tenant_opens_it,
    the_old_paths_answer_alike,
];

async fn the_trail_says_who_did_what_to_what(house: &House) {
    let tenant = house.tenant().await;
    let customer =
        tenant.post("/customers", &json!({"name": "Ada"})).header("x-request-id", "req-42").expect(201).await;
    assert_eq!(customer.header("x-request-id"), "req-42");
    let trail = tenant.get("/audit-logs").after(&customer).expect(200).await;
    let entry = &trail.data()[0];
    assert_eq!((entry["action"].as_str(), entry["resource"].as_str()), (Some("customer.created"), Some(customer.id())));
    assert_eq!((entry["sequence"].as_i64(), entry["request_id"].as_str()), (Some(customer.sequence()), Some("req-42")));
    assert_eq!(entry["actor"].as_str(), Some(tenant.key_id.as_str()));
    assert!(entry["occurred_at"].is_string() && entry["recorded_at"].is_string() && entry.get("cause").is_some());
}

async fn the_trail_is_filtered(house: &House) {
    let tenant = house.tenant().await;
    let other = tenant.key(&["commerce:write"]).await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let changed = other.patch(&format!("/customers/{}", customer.id()), &json!({"country": "GB"})).expect(200).await;
    let last = tenant.post("/orders", &order(customer.id(), 1)).expect(201).await;
    let actions = async |query: &str| {
        let trail = tenant.get(&format!("/audit-logs?{query}")).after(&last).expect(200).await;
        trail.data().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions("action=customer.").await, ["customer.changed", "customer.created"]);
    assert_eq!(actions(&format!("resource={}", last.id())).await, ["order.placed"]);
    let mine = actions(&format!("actor={}", tenant.key_id)).await;
    assert_eq!(mine, ["order.placed", "customer.created"]);
    let events = tenant.get(&format!("/customers/{}/history", customer.id())).expect(200).await;
    let recorded = events.data().iter().find(|e| e["sequence"] == changed.sequence()).unwrap()["recorded_at"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!actions(&format!("to={recorded}")).await.contains(&"order.placed".to_owned()));
    assert_eq!(actions(&format!("from={recorded}&action=customer.")).await, ["customer.changed"]);
}

async fn events_are_read_in_order_after_a_sequence(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    for n in 1..=5 {
        tenant.post("/orders", &order(customer.id(), n)).expect(201).await;
    }
    let page = tenant.get("/events?limit=3").expect(200).await;
    let sequences: Vec<_> = page.data().iter().map(|e| e["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let orders =
        tenant.get(&format!("/events?after={}&type=order.placed&limit=100", customer.sequence())).expect(200).await;
    assert_eq!(orders.data().len(), 5);
    let event = &orders.data()[0];
    assert_eq!(
        (event["type"].as_str(), event["schema_version"].as_i64(), event["version"].as_i64()),
        (Some("order.placed"), Some(1), Some(1))
    );
    assert_eq!(event["data"]["customer"], customer.body["id"]);
    assert!(event["stream"].as_str().unwrap().starts_with("ord_"));
    let stream = tenant.get(&format!("/events?stream={}", customer.id())).expect(200).await;
    assert_eq!((stream.data().len(), stream.data()[0]["data"]["name"].as_str()), (1, Some("Ada")));
}

async fn event_types_have_schemas_and_counts(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let last = tenant.post("/orders", &order(customer.id(), 1)).expect(201).await;
    let types = tenant.get("/event-types").after(&last).expect(200).await;
    let placed = types.data().iter().find(|t| t["type"] == "order.placed").unwrap();
    assert_eq!((placed["count"].as_i64(), placed["schema_version"].as_i64()), (Some(1), Some(1)));
    assert_eq!(placed["schema"]["properties"]["total"]["$ref"], "#/$defs/Money");
    assert!(types.data().iter().all(|t| t["description"].as_str().is_some_and(|d| !d.is_empty())));
}

async fn a_sequence_beyond_the_log_is_refused(house: &House) {
    let tenant = house.tenant().await;
    for path in ["/customers", "/analytics/kpis", "/audit-logs"] {
        tenant.get(path).header("annals-min-sequence", "999999").problem(422, "validation-failed").await;
    }
    tenant.get("/customers").header("annals-min-sequence", "x").problem(400, "bad-request").await;
}

async fn the_first_event_of_a_tenant_opens_it(house: &House) {
    let tenant = house.tenant().await;
    let events = tenant.get("/events?limit=1").expect(200).await;
    assert_eq!(
        (events.data()[0]["sequence"].as_i64(), events.data()[0]["type"].as_str()),
        (Some(1), Some("tenant.created"))
    );
}

async fn the_old_paths_answer_alike(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &json!({})).expect(201).await;
    let canonical = tenant.get("/audit-logs").after(&created).expect(200).await;
    for path in ["/security/audit-logs", "/gdpr/audit-log"] {
        assert_eq!(tenant.get(path).expect(200).await.body, canonical.body, "{path}");
    }
}
