//! Events of other versions of this program: of earlier ones, which are read as if they had been written today, and of
//! later ones, which are stood before.

use std::time::Duration;

use commands::Vault;
use domain::cqrs::Adapted;
use domain::crm::Note;
use domain::{AnyId, Context, NoteId, OrderId, TenantId, TypedId};
use eventstore::cqrs::CqrsStore;
use eventstore::{Append, Committed, EventStore, NewEvent, Role, StreamAppend, new_id};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use uuid::Uuid;

use crate::house::{House, Lodging, Tenant, binary};
use crate::orders::order;
use crate::processes::{Running, ready};
use crate::tests;
use crate::verify::verify;

tests![
    a_note_of_the_first_version_reads_like_any_other,
    an_event_of_the_future_stops_whoever_reads_it_and_nobody_else,
    a_process_manager_stands_before_what_it_does_not_know,
    schemas_are_shown_in_every_version,
];

/// Appends an event to a new stream as another version of the program would.
pub(crate) async fn append(
    store: &EventStore,
    tenant: Uuid,
    stream: (&'static str, Uuid),
    event: NewEvent,
) -> Committed {
    let subjects = event.subjects.clone();
    let stream = StreamAppend { stream_type: stream.0, stream_id: stream.1, expected_version: 0, events: vec![event] };
    let append = Append { tenant, epoch: store.epoch(), about: subjects, streams: vec![stream], ..Append::default() };
    store.append(append).await.unwrap()
}

pub(crate) fn event(kind: (&'static str, i32), payload: &str) -> NewEvent {
    NewEvent {
        event_id: new_id(),
        event_type: kind.0,
        schema_version: kind.1,
        subjects: Vec::new(),
        actor: "sys_00000000000000000000000001".into(),
        occurred_at: commands::clock::now(),
        payload: payload.into(),
        metadata: "{}".into(),
        salt: [1; 16],
    }
}

/// `note.written` as its first version had it.
pub(crate) async fn written_v1(vault: &Vault, tenant: Uuid, customer: &str, text: &str) -> NewEvent {
    let person = customer.parse::<AnyId>().unwrap().uuid();
    let open = json!({"class": "support", "subject": person, "value": text});
    let mut event = event(("note.written", 1), "");
    let payload = json!({"customer": customer, "text": {"$open": open}}).to_string();
    let sealed = vault.seal(tenant, event.event_id, payload).await.unwrap();
    assert!(sealed.new_slots.is_empty(), "the customer has a name, and so keys");
    (event.payload, event.subjects) = (sealed.payload, sealed.subjects);
    event
}

async fn a_note_of_the_first_version_reads_like_any_other(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c", "name": "Ada"})).expect(201).await;
    let (id, tenant_id) = (NoteId::from(new_id()), tenant.id.uuid());
    let v1 = written_v1(house.lodging.executor().vault(), tenant_id, customer.id(), "likes jazz").await;
    append(&house.store, tenant_id, ("crm.note", id.uuid()), v1).await;
    let path = format!("/notes/{id}");
    let note = tenant.get(&path).expect(200).await;
    assert_eq!((&note.body["text"], &note.body["kind"]), (&json!("likes jazz"), &json!("general")));
    // It goes on like any other, and others have a kind of their own.
    let rewritten = tenant.patch(&path, &json!({"text": "likes swing"})).expect(200).await;
    assert_eq!((&rewritten.body["text"], &rewritten.body["kind"]), (&json!("likes swing"), &json!("general")));
    let body = json!({"customer": "ext:c", "kind": "complaint", "text": "too loud"});
    let complaint = tenant.post("/notes", &body).expect(201).await;
    for (kind, note) in [("general", &rewritten), ("complaint", &complaint)] {
        let list = tenant.get(&format!("/notes?kind={kind}")).after(&complaint).expect(200).await;
        assert_eq!(list.data(), std::slice::from_ref(&note.body), "{kind}");
    }
    // What is stored stays as it was stored.
    let history = tenant.get(&format!("{path}/history")).expect(200).await;
    let first = history.data().last().unwrap();
    assert_eq!((&first["schema_version"], &first["data"]["text"]), (&json!(1), &json!("likes jazz")));
    assert!(first["data"].get("kind").is_none(), "{first}");
    let types = tenant.get(&format!("/notes/{}/history", complaint.id())).expect(200).await;
    assert_eq!(
        (&types.data()[0]["schema_version"], &types.data()[0]["data"]["kind"]),
        (&json!(2), &json!("complaint"))
    );
    let ctx = Context::new(tenant.id, AnyId::new("sys", new_id()), commands::clock::now());
    let cqrs = CqrsStore::new(house.store.clone(), ctx);
    let events = cqrs_es::EventStore::<Adapted<Note>>::load_events(&cqrs, &id.to_string()).await.unwrap();
    assert_eq!(events.len(), 2, "cqrs-es reads both");
}

/// Waits until health says this of a projector.
async fn until_state(tenant: &Tenant, projector: &str, state: &str) {
    let mut told = Value::Null;
    for _ in 0..600 {
        told = tenant.get("!/health/ready").expect(200).await.body["checks"]["projectors"][projector].clone();
        if told["state"] == state {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{projector} never came to be {state}: {told}");
}

/// How far a projector has come in the slot of a tenant.
async fn checkpoint(lodging: &Lodging, tenant: TenantId, projector: &str) -> i64 {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Projector).unwrap()).await.unwrap();
    sqlx::query_scalar("SELECT position FROM projection_checkpoints WHERE projector = $1 AND slot = $2")
        .bind(projector)
        .bind(i16::from(eventstore::bytes::slot(tenant.uuid())))
        .fetch_one(&mut conn)
        .await
        .unwrap()
}

async fn an_event_of_the_future_stops_whoever_reads_it_and_nobody_else(_: &House) {
    let lodging = Lodging::new().await;
    let settings = [("ANNALS_KAFKA_BROKERS", "")];
    let all = Running::start(&lodging, "all", &settings);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let before = tenant.post("/orders", &order("ext:c", 5)).expect(201).await;
    tenant.get("/orders").after(&before).expect(200).await;
    let (id, of) = (OrderId::from(new_id()), tenant.id.uuid());
    let future = event(("order.placed", 9), r#"{"customers":["cus_01h455vb4pex5vsknk084sn02q"]}"#);
    let future = append(lodging.store(), of, ("commerce.order", id.uuid()), future).await;
    // A type that is new in a stream that is read, and one in a stream that nobody here knows.
    let pinned = append(lodging.store(), of, ("crm.note", new_id()), event(("note.pinned", 1), "{}")).await;
    append(lodging.store(), of, ("future.thing", new_id()), event(("thing.happened", 1), "{}")).await;
    for projector in ["commerce_orders", "analytics_sales", "crm_notes"] {
        until_state(&tenant, projector, "paused").await;
    }
    // Whoever reads only that stream is told why it can't be shown; commands go on, and so does what reads other streams.
    let problem = tenant.get(&format!("/orders/{id}")).problem(503, "unavailable").await;
    assert!(problem.body["detail"].as_str().unwrap().contains("`order.placed` in version 9"), "{}", problem.text);
    let refund = tenant.post(&format!("/orders/{id}/refund"), &json!({})).header("idempotency-key", "r");
    refund.problem(503, "unavailable").await;
    let after = tenant.post("/orders", &order("ext:c", 7)).expect(201).await;
    tenant.get(&format!("/orders/{}", after.id())).expect(200).await;
    let customers = tenant.get("/customers").after(&after).expect(200).await;
    assert_eq!(customers.data().len(), 1);
    let trail = tenant.get("/audit-logs?action=thing.").after(&after).expect(200).await;
    assert_eq!(trail.data().len(), 1, "the trail reads no payload");
    tenant.get("/orders").after(&after).problem(503, "read-model-behind").await;
    assert_eq!(all.end().await, 0);
    // Nothing was passed over, and nothing is when the same program starts again.
    let all = Running::start(&lodging, "all", &settings);
    ready(&tenant).await;
    for (projector, stands_before) in [("commerce_orders", future), ("analytics_sales", future), ("crm_notes", pinned)]
    {
        until_state(&tenant, projector, "paused").await;
        assert!(checkpoint(&lodging, tenant.id, projector).await < stands_before.position, "{projector}");
    }
    assert_eq!(all.end().await, 0);
    let output = lodging.command(&["schema", "check"]).output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &printed["ok"]), (Some(1), &json!(false)), "{told}");
    let types = printed["types"].as_array().unwrap();
    let mut unknown: Vec<_> = types.iter().filter(|kind| kind["known"] == false).map(|kind| &kind["type"]).collect();
    unknown.retain(|kind| told.contains(kind.as_str().unwrap()));
    assert_eq!(unknown, ["note.pinned", "order.placed", "thing.happened"], "{told}");
    let placed = types.iter().find(|kind| kind["type"] == "order.placed" && kind["schema_version"] == 1).unwrap();
    assert_eq!((&placed["count"], &placed["newest"]), (&json!(2), &json!(1)));
    let (code, _, told) = verify(&lodging).await;
    assert!(code == 1 && told.contains("does not know `order.placed` in version 9"), "{told}");
    lodging.leave().await;
}

async fn a_process_manager_stands_before_what_it_does_not_know(_: &House) {
    let lodging = Lodging::new().await;
    let work = Running::start(&lodging, "work", &[]);
    let tenant = lodging.tenant().await;
    let unknown = event(("privacy_request.expedited", 1), "{}");
    let unknown = append(lodging.store(), tenant.id.uuid(), ("privacy.request", new_id()), unknown).await;
    // Elsewhere a type that is not known is none of its business; the log goes on behind it.
    append(lodging.store(), tenant.id.uuid(), ("future.thing", new_id()), event(("thing.happened", 1), "{}")).await;
    let mut cursor = 0;
    for _ in 0..600 {
        cursor = lodging.store().process_cursor("processes").await.unwrap();
        if cursor == unknown.position - 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cursor, unknown.position - 1, "it has come to just before what it does not know");
    assert_eq!(work.end().await, 0);
    assert_eq!(lodging.store().process_cursor("processes").await.unwrap(), unknown.position - 1);
    lodging.leave().await;
}

async fn schemas_are_shown_in_every_version(_: &House) {
    let show = async |arguments: &[&str]| {
        let output = Command::new(binary()).args(["schema", "show"]).args(arguments).output().await.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (ok, printed, told) = show(&["note.written"]).await;
    assert!(ok, "{told}");
    let newest: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&newest["schema_version"], &newest["stream_type"]), (&json!(2), &json!("crm.note")));
    assert_eq!(newest["upcasters"], json!([{"from": 1, "to": 2, "by": "without_a_kind"}]));
    assert!(newest["schema"]["properties"].get("kind").is_some() && newest["description"] == "The note was written.");
    let first: Value = serde_json::from_str(&show(&["note.written", "--version", "1"]).await.1).unwrap();
    assert!(first["schema"]["properties"].get("kind").is_none(), "{first}");
    let (ok, _, told) = show(&["note.written", "--version", "3"]).await;
    assert!(!ok && told.contains("has versions 1 to 2"), "{told}");
    let (ok, _, told) = show(&["note.writen"]).await;
    assert!(!ok && told.contains("`note.written`"), "{told}");
}
