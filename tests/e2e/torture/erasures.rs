//! Persons are erased while two processes write about them.

use std::sync::atomic::{AtomicBool, Ordering};

use domain::AnyId;
use futures::future::{join, join_all};
use serde_json::{Value, json};

use super::Run;
use super::fleet::Fleet;
use super::verify::verify_log;
use crate::client::Client;
use crate::house::Lodging;
use crate::orders::order;
use crate::privacy::erase;

const WRITERS: usize = 6;

pub(super) async fn an_erasure_ends_what_others_write(run: &Run) {
    let fleet = Fleet::start(run, Lodging::new().await, &["serve", "serve", "work"]).await;
    let clients = fleet.clients();
    let mut random = run.random(1);
    let mut erased = Vec::new();
    for _ in 0..run.times(4, 60) {
        let body = json!({ "name": "Ada", "email": format!("{}@example.com", erased.len()) });
        let customer = clients[0].post("/customers", &body).expect(201).await;
        let note = clients[1].post("/notes", &json!({ "customer": customer.id(), "text": "jazz" })).expect(201).await;
        let over = AtomicBool::new(false);
        let writers =
            (0..WRITERS).map(|writer| write_about(&clients[writer % 2], writer, customer.id(), note.id(), &over));
        let tenant = fleet.tenant_at(random.below(2));
        let erasing = async {
            erase(&tenant, customer.id()).await;
            over.store(true, Ordering::SeqCst);
        };
        let (written, ()) = join(join_all(writers), erasing).await;
        run.count("writes about persons", written.iter().sum());
        run.count("erasures", 1);
        erased.push(customer.id().to_owned());
        if run.is_over() {
            break;
        }
    }
    check_log(&fleet, &erased).await;
    for (index, customer) in erased.iter().enumerate() {
        let read = clients[index % 2].get(&format!("/customers/{customer}")).expect(200).await;
        assert_eq!((read.body["status"].as_str(), &read.body["name"]), (Some("erased"), &Value::Null));
    }
    verify_log(fleet.lodging()).await;
    fleet.leave(run).await;
}

/// Writes until the person is erased; each write has its effect, or is told why not.
async fn write_about(client: &Client, writer: usize, customer: &str, note: &str, over: &AtomicBool) -> usize {
    let mut written = 0;
    for number in 0.. {
        let text = format!("{writer}-{number}");
        let answer = match writer % 3 {
            0 => client.patch(&format!("/customers/{customer}"), &json!({ "name": text })).send().await,
            1 => client.post("/orders", &order(customer, 1)).send().await,
            _ => client.patch(&format!("/notes/{note}"), &json!({ "text": text })).send().await,
        };
        match answer.status {
            200 | 201 => written += 1,
            409 => answer.is_problem(409, "subject-erased"),
            // Keys are being destroyed: nothing is opened until that is known everywhere.
            503 => assert!(answer.headers.contains_key("retry-after"), "{}", answer.text),
            status => panic!("{status}: {}", answer.text),
        }
        if over.load(Ordering::SeqCst) {
            break;
        }
    }
    written
}

/// After the tombstone nothing is sealed for the person, and nothing names the person but the erasure itself.
async fn check_log(fleet: &Fleet, erased: &[String]) {
    let log = fleet.log().await;
    for customer in erased {
        let id: AnyId = customer.parse().unwrap();
        let stone = log
            .iter()
            .find(|event| event.stream_id == id.uuid() && event.event_type == "customer.erasure_begun")
            .expect("the erasure has begun");
        let about = log.iter().filter(|event| event.subjects.iter().flatten().any(|subject| *subject == id.uuid()));
        for event in about.filter(|event| event.position > stone.position) {
            let payload = event.payload.as_deref().unwrap();
            assert!(
                !payload.contains("$sealed")
                    && !["order.placed", "note.written", "customer.changed"].contains(&&*event.event_type),
                "{} about {customer} at {}, after the tombstone at {}",
                event.event_type,
                event.position,
                stone.position
            );
        }
    }
}
