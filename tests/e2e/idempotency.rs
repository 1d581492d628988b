//! A retried request has one effect and the same answer.

use eventstore::Role;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::house::{House, Lodging};
use crate::orders::order;
use crate::processes::{Running, ready};
use crate::restored::until_taken;
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
    a_day_without_its_table_heals_and_holds_nobody_up,
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

/// As a restored old backup lacks the table of today, and as a clock that was days ahead for a moment wants another one.
async fn a_day_without_its_table_heals_and_holds_nobody_up(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let plan = json!({ "name": "Pro", "price": { "amount": 100, "currency": "USD" }, "interval": "month" });
    let keyed = |key: &'static str| tenant.post("/plans", &plan).header("idempotency-key", key);
    let made = keyed("before").expect(201).await;
    let mut owner = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let drop_days = "DO $$ DECLARE part text; BEGIN
        FOR part IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'idempotency_keys'::regclass LOOP
            EXECUTE 'DROP TABLE ' || part;
        END LOOP; END $$";
    sqlx::raw_sql(drop_days).execute(&mut owner).await.unwrap();
    let healed = keyed("healed").expect(201).await;
    assert_eq!(keyed("healed").expect(201).await.header("idempotent-replayed"), "true");
    assert_ne!(healed.id(), made.id());

    // While somebody reads the tables none can be made: who has a key is told so, and nobody else waits for that.
    sqlx::raw_sql(drop_days).execute(&mut owner).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE idempotency_keys IN ACCESS SHARE MODE").execute(&mut owner).await.unwrap();
    let rename = |name: &'static str| tenant.patch(&format!("/plans/{}", made.id()), &json!({ "name": name }));
    let both = futures::future::join(keyed("held").send(), rename("Held").expect(200));
    let (held, renamed) = both.await;
    held.is_problem(503, "unavailable");
    assert_eq!(renamed.body["name"], "Held");
    sqlx::raw_sql("COMMIT").execute(&mut owner).await.unwrap();
    let held = until_taken(|| keyed("held")).await;
    assert_eq!((held.status, held.headers.get("idempotent-replayed")), (201, None), "nothing was stored before");

    sqlx::raw_sql("UPDATE log_head SET at = clock_timestamp() + interval '4 days'").execute(&mut owner).await.unwrap();
    let ahead = keyed("ahead").expect(201).await;
    let again = keyed("ahead").expect(201).await;
    assert_eq!((again.id(), again.header("idempotent-replayed")), (ahead.id(), "true"));
    owner.close().await.unwrap();
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}
