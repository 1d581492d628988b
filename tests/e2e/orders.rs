//! Orders and refunds over HTTP.

use serde_json::{Value, json};

use crate::house::House;
use crate::tests;

tests![
    an_order_is_placed_and_refunded_in_parts,
    amounts_must_be_in_the_orders_currency_and_in_range,
    a_refund_never_passes_what_is_left,
    an_order_needs_a_customer_of_the_tenant,
    orders_are_listed_by_customer_and_status,
    an_order_lies_in_the_past,
    racing_refunds_never_pass_the_total,
    a_batch_of_orders_knows_its_customers_by_external_id,
];

pub(crate) fn order(customer: &str, total: i64) -> Value {
    json!({
        "customer": customer,
        "placed_at": "2026-01-31T12:00:00Z",
        "currency": "USD",
        "lines": [{"sku": "cd", "quantity": 1, "total": {"amount": total, "currency": "USD"}}],
    })
}

async fn an_order_is_placed_and_refunded_in_parts(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c-1"})).expect(201).await;
    let body = json!({
        "external_id": "o-1", "customer": "ext:c-1", "placed_at": "2026-01-31T12:00:00Z", "currency": "USD",
        "lines": [
            {"sku": "cd", "name": "Disc", "quantity": 3, "unit_price": {"amount": 500, "currency": "USD"}},
            {"sku": "bag", "quantity": 1, "total": {"amount": 0, "currency": "USD"}},
        ],
    });
    let placed = tenant.post("/orders", &body).expect(201).await;
    assert!(placed.id().starts_with("ord_"));
    assert_eq!(placed.body["customer"], customer.body["id"]);
    assert_eq!(placed.body["total"], json!({"amount": 1500, "currency": "USD"}));
    assert_eq!((placed.body["status"].as_str(), placed.body["refunded"]["amount"].as_i64()), (Some("placed"), Some(0)));
    assert!(placed.body["placed_at"].as_str().unwrap().starts_with("2026-01-31T12:00:00"));
    let refund =
        |body: Value, key: &'static str| tenant.post("/orders/ext:o-1/refund", &body).header("idempotency-key", key);
    let part =
        refund(json!({"amount": {"amount": 400, "currency": "USD"}, "reason": "scratched"}), "r1").expect(200).await;
    assert_eq!(
        (part.body["status"].as_str(), part.body["refunded"]["amount"].as_i64()),
        (Some("partly_refunded"), Some(400))
    );
    let rest = refund(json!({}), "r2").expect(200).await;
    assert_eq!(
        (rest.body["status"].as_str(), rest.body["refunded"]["amount"].as_i64()),
        (Some("refunded"), Some(1500))
    );
    refund(json!({}), "r3").problem(409, "order-refunded").await;
    let history = tenant.get("/orders/ext:o-1/history").expect(200).await;
    assert_eq!(history.data().len(), 3);
    assert!(history.text.contains("scratched"));
}

async fn amounts_must_be_in_the_orders_currency_and_in_range(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c-1"})).expect(201).await;
    let with = |change: fn(&mut Value)| {
        let mut body = order("ext:c-1", 100);
        change(&mut body);
        body
    };
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 9] = [
        (|b| b["lines"][0]["total"]["currency"] = json!("EUR"), "/lines/0/total"),
        (|b| b["lines"][0]["total"]["amount"] = json!(-1), "/lines/0/total/amount"),
        (|b| b["lines"][0]["total"]["amount"] = json!(9_007_199_254_740_992_i64), "/lines/0/total/amount"),
        (|b| b["lines"][0]["total"]["amount"] = json!(1.5), "/lines/0/total/amount"),
        (|b| b["lines"][0]["quantity"] = json!(0), "/lines/0/quantity"),
        (|b| b["currency"] = json!("XYZ"), "/currency"),
        (|b| b["lines"] = json!([]), "/lines"),
        (|b| b["lines"][0]["unit_price"] = b["lines"][0]["total"].clone(), "/lines/0"),
        (|b| drop(b["lines"][0].as_object_mut().unwrap().remove("total")), "/lines/0"),
    ];
    for (change, pointer) in cases {
        let refused = tenant.post("/orders", &with(change)).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    let list = tenant.get("/orders").expect(200).await;
    assert!(list.data().is_empty());
}

async fn a_refund_never_passes_what_is_left(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c-1"})).expect(201).await;
    let placed = tenant.post("/orders", &order("ext:c-1", 100)).expect(201).await;
    let path = format!("/orders/{}/refund", placed.id());
    let head = tenant.events_head().await;
    for (amount, currency, pointer) in
        [(101, "USD", "/amount"), (1, "EUR", "/amount"), (-1, "USD", "/amount/amount"), (1, "usd", "/amount/currency")]
    {
        let body = json!({"amount": {"amount": amount, "currency": currency}});
        let refused = tenant.post(&path, &body).header("idempotency-key", "k").problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    let nothing = json!({"amount": {"amount": 0, "currency": "USD"}});
    tenant.post(&path, &nothing).header("idempotency-key", "k").send().await.assert_refused();
    tenant.post(&path, &json!({})).problem(400, "idempotency-key-missing").await;
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
    // What was refused left its key free.
    let refund = json!({"amount": {"amount": 100, "currency": "USD"}});
    tenant.post(&path, &refund).header("idempotency-key", "k").expect(200).await;
    let head = tenant.events_head().await;
    tenant.post(&path, &json!({})).header("idempotency-key", "l").problem(409, "order-refunded").await;
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn an_order_needs_a_customer_of_the_tenant(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let foreign = other.post("/customers", &json!({})).expect(201).await;
    for customer in [foreign.id(), "ext:nobody", "cus_01h455vb4pex5vsknk084sn02q"] {
        let refused = tenant.post("/orders", &order(customer, 1)).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), ["/customer"]);
    }
}

async fn orders_are_listed_by_customer_and_status(house: &House) {
    let tenant = house.tenant().await;
    let a = tenant.post("/customers", &json!({})).expect(201).await;
    let b = tenant.post("/customers", &json!({})).expect(201).await;
    let first = tenant.post("/orders", &order(a.id(), 1)).expect(201).await;
    tenant.post("/orders", &order(b.id(), 1)).expect(201).await;
    let last = tenant
        .post(&format!("/orders/{}/refund", first.id()), &json!({}))
        .header("idempotency-key", "k")
        .expect(200)
        .await;
    let of_a = tenant.get(&format!("/orders?customer={}", a.id())).after(&last).expect(200).await;
    assert_eq!((of_a.data().len(), of_a.data()[0]["id"].as_str()), (1, Some(first.id())));
    let placed = tenant.get("/orders?status=placed").expect(200).await;
    assert_eq!((placed.data().len(), placed.data()[0]["customer"].as_str()), (1, Some(b.id())));
}

async fn an_order_lies_in_the_past(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c-1"})).expect(201).await;
    let mut body = order("ext:c-1", 1);
    body["placed_at"] = json!("2999-01-01T00:00:00Z");
    let refused = tenant.post("/orders", &body).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/placed_at"]);
}

async fn racing_refunds_never_pass_the_total(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c-1"})).expect(201).await;
    let placed = tenant.post("/orders", &order("ext:c-1", 100)).expect(201).await;
    let path = format!("/orders/{}/refund", placed.id());
    let body = json!({"amount": {"amount": 30, "currency": "USD"}});
    let refunds = (0..16).map(|n| tenant.post(&path, &body).header("idempotency-key", format!("k{n}")).send());
    let answers = futures::future::join_all(refunds).await;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 3);
    assert_eq!(answers.iter().filter(|a| a.status == 422).count(), 13);
    let read = tenant.get(&format!("/orders/{}", placed.id())).expect(200).await;
    assert_eq!(read.body["refunded"]["amount"], 90);
}

async fn a_batch_of_orders_knows_its_customers_by_external_id(house: &House) {
    let tenant = house.tenant().await;
    let customers: Vec<_> = (0..50).map(|n| json!({"external_id": format!("c-{n}")})).collect();
    tenant.post("/customers/batch", &json!({"items": customers})).expect(200).await;
    let orders: Vec<_> = (0..1000)
        .map(|n| {
            let mut order = order(&format!("ext:c-{}", n % 51), 1);
            order["external_id"] = json!(format!("o-{n}"));
            order
        })
        .collect();
    let batch = tenant.post("/orders/batch", &json!({"items": orders})).expect(200).await;
    let bad: Vec<_> =
        batch.data().iter().enumerate().filter(|(_, item)| item["status"] != 201).map(|(n, _)| n % 51).collect();
    assert!(bad.iter().all(|n| *n == 50) && bad.len() == 19, "{bad:?}");
    let again = tenant.post("/orders/batch", &json!({"items": orders})).expect(200).await;
    assert_eq!(again.data().iter().filter(|item| item["status"] == 409).count(), 981);
    let kpis = tenant.get("/analytics/kpis").after(&batch).expect(200).await;
    assert_eq!(kpis.body["orders"]["value"], 981, "{}", kpis.text);
}
