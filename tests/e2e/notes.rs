//! Notes about customers over HTTP: the example of `docs/adding-a-context.md`.

use serde_json::{Value, json};

use crate::house::House;
use crate::privacy::erase;
use crate::tests;

tests![a_note_is_written_rewritten_listed_and_archived, a_note_goes_with_its_customer];

async fn a_note_is_written_rewritten_listed_and_archived(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    tenant.post("/customers", &json!({"external_id": "d"})).expect(201).await;
    let note = tenant.post("/notes", &json!({"customer": "ext:c", "text": "likes jazz"})).expect(201).await;
    assert!(note.id().starts_with("nte_"));
    assert_eq!((&note.body["customer"], note.body["status"].as_str()), (&customer.body["id"], Some("active")));
    let path = format!("/notes/{}", note.id());
    let rewritten = tenant.patch(&path, &json!({"text": "likes swing"})).expect(200).await;
    assert_eq!(rewritten.body["text"], "likes swing");
    let archived = tenant.post(&format!("{path}/archive"), &json!({})).expect(200).await;
    assert_eq!(archived.body["status"], "archived");
    tenant.patch(&path, &json!({"text": "no"})).problem(409, "note-archived").await;
    let list = tenant.get("/notes?customer=ext:c&status=archived").after(&archived).expect(200).await;
    assert_eq!(list.data(), std::slice::from_ref(&archived.body));
    assert!(tenant.get("/notes?customer=ext:d").expect(200).await.data().is_empty());
    let blind = tenant.key(&["crm:read"]).await;
    assert_eq!(blind.get(&path).expect(200).await.body["text"], Value::Null);
}

async fn a_note_goes_with_its_customer(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let note = tenant.post("/notes", &json!({"customer": customer.id(), "text": "likes jazz"})).expect(201).await;
    erase(&tenant, customer.id()).await;
    let path = format!("/notes/{}", note.id());
    assert_eq!(tenant.get(&path).expect(200).await.body["text"], Value::Null);
    tenant.patch(&path, &json!({"text": "more"})).problem(409, "subject-erased").await;
    tenant.post("/notes", &json!({"customer": customer.id(), "text": "more"})).problem(409, "subject-erased").await;
    tenant.post(&format!("{path}/archive"), &json!({})).expect(200).await;
}
