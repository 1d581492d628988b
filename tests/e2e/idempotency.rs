//! A retried request has one effect and the same answer.

use serde_json::json;

use crate::house::House;
use crate::orders::order;
use crate::tests;

tests![
    a_retry_is_answered_like_the_first,
    a_key_stands_for_one_request,
    concurrent_duplicates_have_one_effect,
    a_retried_batch_repeats_each_item,
    a_refusal_stores_nothing,
    a_command_that_changes_nothing_keeps_its_key,
    another_principal_has_keys_of_its_own,
    a_malformed_key_is_told,
];

async fn a_retry_is_answered_like_the_first(house: &House) {
    let tenant = house.tenant().await;
    let create =
        || tenant.post("/customers", &json!({"name": "Ada", "external_id": "c-1"})).header("idempotency-key", "k-1");
    let first = create().expect(201).await;
    tenant.patch(&format!("/customers/{}", first.id()), &json!({"name": "Countess"})).expect(200).await;
    let again = create().expect(201).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(
        (again.text, again.headers.get("etag"), again.headers.get("annals-sequence")),
        (first.text.clone(), first.headers.get("etag"), first.headers.get("annals-sequence"))
    );
    let quoted =
        tenant.post("/customers", &json!({"external_id": "c-1", "name": "Ada"})).header("idempotency-key", "\"k-1\"");
    assert_eq!(
        quoted.expect(201).await.id(),
        first.id(),
        "quoted is the same key, and the order of fields does not count"
    );
}

async fn a_key_stands_for_one_request(house: &House) {
    let tenant = house.tenant().await;
    let create = |name: &str| tenant.post("/customers", &json!({"name": name})).header("idempotency-key", "k");
    create("Ada").expect(201).await;
    create("Bob").problem(422, "idempotency-key-reused").await;
}

async fn concurrent_duplicates_have_one_effect(house: &House) {
    let tenant = house.tenant().await;
    let creates =
        (0..16).map(|_| tenant.post("/customers", &json!({"name": "Ada"})).header("idempotency-key", "k").send());
    let answers = futures::future::join_all(creates).await;
    let created: Vec<_> = answers.iter().filter(|a| a.status == 201).collect();
    assert!(!created.is_empty() && created.iter().all(|a| a.id() == created[0].id()));
    for answer in answers.iter().filter(|a| a.status != 201) {
        answer.is_problem(409, "idempotency-in-progress");
        assert!(answer.headers.contains_key("retry-after"));
    }
    let list = tenant.get("/customers").after(created[0]).expect(200).await;
    assert_eq!(list.data().len(), 1);
}

async fn a_retried_batch_repeats_each_item(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let items = json!({"items": [order("ext:c", 1), order("ext:nobody", 2), order("ext:c", 3)]});
    let send = || tenant.post("/orders/batch", &items).header("idempotency-key", "b");
    let first = send().expect(200).await;
    let again = send().expect(200).await;
    assert_eq!(first.data()[0]["resource"], again.data()[0]["resource"]);
    assert_eq!(first.data()[2]["resource"], again.data()[2]["resource"]);
    assert_eq!((again.data()[0]["status"].as_i64(), again.data()[1]["status"].as_i64()), (Some(201), Some(422)));
    let list = tenant.get("/orders").after(&first).expect(200).await;
    assert_eq!(list.data().len(), 2);
    // What failed stored nothing: once its customer is there, the same batch completes it.
    tenant.post("/customers", &json!({"external_id": "nobody"})).expect(201).await;
    let third = send().expect(200).await;
    assert_eq!(third.data()[1]["status"], 201);
    assert_eq!(third.data()[0]["resource"], first.data()[0]["resource"]);
}

async fn a_refusal_stores_nothing(house: &House) {
    let tenant = house.tenant().await;
    tenant
        .post("/customers", &json!({"email": "nonsense"}))
        .header("idempotency-key", "k")
        .problem(422, "validation-failed")
        .await;
    tenant.post("/customers", &json!({"email": "ada@example.com"})).header("idempotency-key", "k").expect(201).await;
}

async fn a_command_that_changes_nothing_keeps_its_key(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let filed =
        tenant.post("/privacy/requests", &json!({"customer": customer.id(), "kind": "erasure"})).expect(202).await;
    let path = format!("/privacy/requests/{}/cancel", filed.id());
    let first = tenant.post(&path, &json!({})).header("idempotency-key", "a").expect(200).await;
    let second = tenant.post(&path, &json!({})).header("idempotency-key", "b").expect(200).await;
    assert_eq!(first.sequence(), second.sequence(), "already so appends nothing");
    let replayed = tenant.post(&path, &json!({})).header("idempotency-key", "b").expect(200).await;
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(replayed.sequence(), second.sequence());
}

async fn another_principal_has_keys_of_its_own(house: &House) {
    let tenant = house.tenant().await;
    let other = tenant.key(&["commerce:write", "commerce:read"]).await;
    let first = tenant.post("/customers", &json!({})).header("idempotency-key", "k").expect(201).await;
    let second = other.post("/customers", &json!({})).header("idempotency-key", "k").expect(201).await;
    assert_ne!(first.id(), second.id());
}

async fn a_malformed_key_is_told(house: &House) {
    let tenant = house.tenant().await;
    for key in ["", "\"", &"x".repeat(256)] {
        tenant
            .post("/customers", &json!({}))
            .header("idempotency-key", key)
            .problem(400, "idempotency-key-invalid")
            .await;
    }
}
