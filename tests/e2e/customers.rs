//! Customers over HTTP.

use serde_json::{Value, json};

use crate::house::House;
use crate::tests;

tests![
    a_customer_is_created_read_changed_and_listed,
    a_customer_can_be_named_by_what_the_caller_calls_it,
    an_external_id_and_an_email_are_unique_in_their_tenant,
    a_change_names_only_what_changes_and_null_takes_away,
    what_was_read_can_be_sent_back,
    a_stale_if_match_is_told,
    personal_fields_are_null_for_who_may_not_see_them,
    a_customer_can_be_read_as_of_any_moment,
    a_list_is_paged_by_a_cursor_that_fits_one_query,
    a_batch_takes_the_good_and_tells_the_bad,
    an_email_that_was_given_up_is_free,
];

fn ada() -> Value {
    json!({"external_id": "c-1", "name": "Ada Lovelace", "email": "Ada@Example.com", "country": "GB"})
}

async fn a_customer_is_created_read_changed_and_listed(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    assert!(created.id().starts_with("cus_"));
    assert_eq!(created.header("location"), format!("/api/v1/customers/{}", created.id()));
    assert_eq!((created.header("etag"), created.body["object"].as_str()), ("\"1\"", Some("customer")));
    let read = tenant.get(&format!("/customers/{}", created.id())).expect(200).await;
    assert_eq!(read.body, created.body);
    assert_eq!(read.body["name"], "Ada Lovelace");
    assert_eq!((read.body["status"].as_str(), read.body["country"].as_str()), (Some("active"), Some("GB")));
    let changed = tenant.patch(&format!("/customers/{}", created.id()), &json!({"country": "FR"})).expect(200).await;
    assert_eq!((changed.header("etag"), changed.body["country"].as_str()), ("\"2\"", Some("FR")));
    assert_eq!(changed.sequence(), created.sequence() + 1);
    let list = tenant.get("/customers").after(&changed).expect(200).await;
    assert_eq!((list.body["object"].as_str(), list.body["has_more"].as_bool()), (Some("list"), Some(false)));
    assert_eq!(list.data(), std::slice::from_ref(&changed.body));
    assert!(list.header("annals-read-sequence").parse::<i64>().unwrap() >= changed.sequence());
}

async fn a_customer_can_be_named_by_what_the_caller_calls_it(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &json!({"external_id": "shop/1 ü"})).expect(201).await;
    let read = tenant.get("/customers/ext:shop%2F1%20%C3%BC").expect(200).await;
    assert_eq!(read.id(), created.id());
    tenant.get("/customers/ext:other").problem(404, "not-found").await;
}

async fn an_external_id_and_an_email_are_unique_in_their_tenant(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let first = tenant.post("/customers", &ada()).expect(201).await;
    let again = tenant.post("/customers", &json!({"external_id": "c-1"})).problem(409, "already-exists").await;
    assert!(again.text.contains(first.id()), "names the first: {}", again.text);
    tenant.post("/customers", &json!({"email": " ada@EXAMPLE.com"})).problem(409, "already-exists").await;
    let second = tenant.post("/customers", &json!({"email": "b@example.com"})).expect(201).await;
    tenant
        .patch(&format!("/customers/{}", second.id()), &json!({"email": "ada@example.com"}))
        .problem(409, "already-exists")
        .await;
    other.post("/customers", &ada()).expect(201).await;
}

async fn a_change_names_only_what_changes_and_null_takes_away(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    let path = format!("/customers/{}", created.id());
    let changed = tenant.patch(&path, &json!({"name": null})).expect(200).await;
    assert_eq!((&changed.body["name"], changed.body["email"].as_str()), (&Value::Null, Some("Ada@Example.com")));
    let same = tenant.patch(&path, &json!({})).expect(200).await;
    assert_eq!(same.header("etag"), "\"2\"", "nothing to change appends nothing");
}

async fn what_was_read_can_be_sent_back(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    let path = format!("/customers/{}", created.id());
    let mut body = created.body.clone();
    body["country"] = json!("FR");
    let changed = tenant.patch(&path, &body).expect(200).await;
    assert_eq!(changed.body["country"], "FR");
    body["status"] = json!("erased");
    let refused = tenant.patch(&path, &body).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/status"]);
}

async fn a_stale_if_match_is_told(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    let path = format!("/customers/{}", created.id());
    tenant.patch(&path, &json!({"country": "FR"})).header("if-match", "\"1\"").expect(200).await;
    tenant.patch(&path, &json!({"country": "DE"})).header("if-match", "\"1\"").problem(412, "version-conflict").await;
    let read = tenant.get(&path).expect(200).await;
    assert_eq!(read.body["country"], "FR");
}

async fn personal_fields_are_null_for_who_may_not_see_them(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    let blind = tenant.key(&["commerce:read", "audit:read"]).await;
    for path in ["", "/history"] {
        let read = blind.get(&format!("/customers/{}{path}", created.id())).expect(200).await;
        assert!(!read.text.contains("Ada") && !read.text.contains("c-1"), "{}", read.text);
    }
    let list = blind.get("/customers").after(&created).expect(200).await;
    assert_eq!((&list.data()[0]["name"], list.data()[0]["country"].as_str()), (&Value::Null, Some("GB")));
    let events = blind.get("/events").expect(200).await;
    assert!(!events.text.contains("Ada") && !events.text.contains("$sealed"), "{}", events.text);
}

async fn a_customer_can_be_read_as_of_any_moment(house: &House) {
    let tenant = house.tenant().await;
    let created = tenant.post("/customers", &ada()).expect(201).await;
    let path = format!("/customers/{}", created.id());
    let changed = tenant.patch(&path, &json!({"name": "Ada King"})).expect(200).await;
    let then = tenant.get(&format!("{path}?as_of={}", created.sequence())).expect(200).await;
    assert_eq!((then.body["name"].as_str(), then.header("etag")), (Some("Ada Lovelace"), "\"1\""));
    tenant.get(&format!("{path}?as_of={}", created.sequence() - 1)).problem(404, "not-found").await;
    tenant.get(&format!("{path}?as_of={}", changed.sequence() + 1)).problem(422, "validation-failed").await;
    tenant.get(&format!("{path}?as_of=2999-01-01T00:00:00Z")).problem(422, "validation-failed").await;
    tenant.get(&format!("{path}?as_of=soon")).problem(422, "validation-failed").await;
    let history = tenant.get(&format!("{path}/history")).expect(200).await;
    let recorded =
        history.data().iter().find(|e| e["version"] == 1).unwrap()["recorded_at"].as_str().unwrap().to_owned();
    let then = tenant.get(&format!("{path}?as_of={recorded}")).expect(200).await;
    assert_eq!(then.body["name"], "Ada Lovelace");
    let types: Vec<_> = history.data().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert!(types.contains(&"customer.created") && types.contains(&"customer.changed") && types.len() == 2);
}

async fn a_list_is_paged_by_a_cursor_that_fits_one_query(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let items: Vec<Value> = (0..25)
        .map(|n| json!({"external_id": format!("c-{n}"), "country": if n % 2 == 0 { "GB" } else { "FR" }}))
        .collect();
    let batch = tenant.post("/customers/batch", &json!({"items": items})).expect(200).await;
    let mut seen = Vec::new();
    let mut path = "/customers?limit=10".to_owned();
    loop {
        let page = tenant.get(&path).after(&batch).expect(200).await;
        seen.extend(page.data().iter().map(|c| c["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        assert_eq!(page.body["has_more"], true);
        path = format!("/customers?limit=10&cursor={cursor}");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|a, b| a > b), "newest first");
    let page = tenant.get("/customers?limit=10").expect(200).await;
    let cursor = page.body["next_cursor"].as_str().unwrap();
    tenant.get(&format!("/customers?limit=5&cursor={cursor}")).expect(200).await;
    tenant.get(&format!("/customers?country=GB&cursor={cursor}")).problem(400, "invalid-cursor").await;
    tenant.get(&format!("/orders?cursor={cursor}")).problem(400, "invalid-cursor").await;
    other.get(&format!("/customers?cursor={cursor}")).problem(400, "invalid-cursor").await;
    tenant.get("/customers?cursor=x").problem(400, "invalid-cursor").await;
    let french = tenant.get("/customers?country=FR&limit=100").expect(200).await;
    assert_eq!(french.data().len(), 12);
}

async fn a_batch_takes_the_good_and_tells_the_bad(house: &House) {
    let tenant = house.tenant().await;
    let items = json!({"items": [{"external_id": "a"}, {"country": "XX"}, {"external_id": "a"}, {"colour": "red"}, {"external_id": "b"}, 7, {"name": {"$sealed": "AQ"}}, {"name": "a\u{0}b"}]});
    let batch = tenant.post("/customers/batch", &items).expect(200).await;
    let mut statuses: Vec<_> = batch.data().iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!((statuses[1], statuses[3], statuses[4], statuses[5]), (422, 422, 201, 422));
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 409, 422, 422, 422, 422, 422]);
    let pointers = batch.data()[6]["problem"]["errors"][0]["pointer"].as_str();
    assert_eq!(pointers, Some("/items/6/name/$sealed"));
    assert_eq!(batch.body["object"], "batch");
    assert_eq!(batch.data()[1]["problem"]["code"], "validation-failed");
    assert_eq!(batch.data()[3]["problem"]["code"], "unknown-field");
    let list = tenant.get("/customers").after(&batch).expect(200).await;
    assert_eq!(list.data().len(), 2);
}

async fn an_email_that_was_given_up_is_free(house: &House) {
    let tenant = house.tenant().await;
    let first = tenant.post("/customers", &json!({"email": "ada@example.com"})).expect(201).await;
    tenant.patch(&format!("/customers/{}", first.id()), &json!({"email": "king@example.com"})).expect(200).await;
    tenant.post("/customers", &json!({"email": "ada@example.com"})).expect(201).await;
    tenant.post("/customers", &json!({"email": "king@example.com"})).problem(409, "already-exists").await;
}
