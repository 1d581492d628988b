//! Callers at two processes who want the same thing: a version, a name, the rest of an order's money.

use std::collections::BTreeMap;

use futures::future::{join, join_all};
use serde_json::json;

use super::Run;
use super::fleet::Fleet;
use super::verify::verify_log;
use crate::client::Client;
use crate::house::Lodging;
use crate::orders::order;

const CALLERS: usize = 16;
const STREAMS: usize = 20;

pub(super) async fn of_all_callers_at_one_version_one_wins(run: &Run) {
    let fleet = Fleet::start(run, Lodging::new().await, &["serve", "serve"]).await;
    let clients = fleet.clients();
    let creations = (0..STREAMS).map(|_| clients[0].post("/customers", &json!({})).expect(201));
    let paths: Vec<_> =
        join_all(creations).await.iter().map(|customer| format!("/customers/{}", customer.id())).collect();
    let callers = (0..CALLERS).map(|caller| change_what_others_change(run, &clients[caller % 2], caller, &paths));
    let mut winners = BTreeMap::new();
    let mut losers = 0;
    for (won, lost) in join_all(callers).await {
        losers += lost;
        for (stream, version, name) in won {
            let other = winners.insert((stream, version), name.clone());
            assert!(other.is_none(), "{other:?} and {name} both won version {version} of {}", paths[stream]);
        }
    }
    let mut versions = 0;
    for (stream, path) in paths.iter().enumerate() {
        let history = clients[stream % 2].get(&format!("{path}/history?limit=100")).expect(200).await;
        let last = clients[stream % 2].get(path).expect(200).await;
        let version: u64 = last.header("etag").trim_matches('"').parse().unwrap();
        for event in history.data().iter().filter(|event| event["version"] != 1) {
            let key = (stream, event["version"].as_u64().unwrap());
            assert_eq!(event["data"]["name"], json!(winners[&key]), "{path} {event}");
        }
        assert_eq!((2..=version).filter(|version| !winners.contains_key(&(stream, *version))).count(), 0);
        versions += version - 1;
    }
    assert_eq!(winners.len() as u64, versions, "every version has the winner who was told so");
    assert!(losers > 0, "nobody raced");
    run.count("versions won", winners.len());
    run.count("losers told", losers);
    verify_log(fleet.lodging()).await;
    fleet.leave(run).await;
}

/// What a caller won (stream, version, name) and how often it was told that another was first.
async fn change_what_others_change(
    run: &Run,
    client: &Client,
    caller: usize,
    paths: &[String],
) -> (Vec<(usize, u64, String)>, usize) {
    let mut random = run.random(caller as u64);
    // The version that it has seen last; at first that of the creation.
    let mut seen = vec![1_u64; paths.len()];
    let (mut won, mut lost) = (Vec::new(), 0);
    for change in 0..run.times(60, 1_000) {
        let (stream, name) = (random.below(paths.len()), format!("{caller}-{change}"));
        let patch = client.patch(&paths[stream], &json!({ "name": name }));
        let answer = patch.header("if-match", format!("\"{}\"", seen[stream])).send().await;
        run.journal.note("change", json!({ "by": name, "of": stream, "seen": seen[stream], "status": answer.status }));
        if answer.status == 200 {
            seen[stream] += 1;
            assert_eq!(answer.header("etag"), format!("\"{}\"", seen[stream]), "{name}");
            won.push((stream, seen[stream], name));
        } else {
            answer.is_problem(412, "version-conflict");
            lost += 1;
            let now = client.get(&paths[stream]).expect(200).await;
            let version = now.header("etag").trim_matches('"').parse().unwrap();
            assert!(version > seen[stream], "{name} was told of a conflict with nobody");
            seen[stream] = version;
        }
        if run.is_over() {
            break;
        }
    }
    (won, lost)
}

pub(super) async fn racing_pairs_break_no_rule(run: &Run) {
    let fleet = Fleet::start(run, Lodging::new().await, &["serve", "serve"]).await;
    let clients = fleet.clients();
    let mut random = run.random(1);
    for race in 0..run.times(25, 400) {
        let (first, second) = if random.below(2) == 0 { (0, 1) } else { (1, 0) };
        let (first, second) = (&clients[first], &clients[second]);
        let ((), (), ()) =
            futures::join!(one_takes_a_name(first, second, race), one_moves_to_a_name(first, second, race), async {
                if race % 5 == 0 {
                    money_is_given_back_once(&clients, race).await;
                }
            });
        run.count("races", 3);
        if run.is_over() {
            break;
        }
    }
    verify_log(fleet.lodging()).await;
    fleet.leave(run).await;
}

/// Two create with one name and one address: one has them, the other hears who.
async fn one_takes_a_name(first: &Client, second: &Client, race: usize) {
    let body = json!({ "external_id": format!("n-{race}"), "email": format!("n-{race}@example.com") });
    let (one, other) = join(first.post("/customers", &body).send(), second.post("/customers", &body).send()).await;
    let (winner, loser) = if one.status == 201 { (one, other) } else { (other, one) };
    assert_eq!(winner.status, 201, "{}", winner.text);
    loser.is_problem(409, "already-exists");
    assert!(loser.text.contains(winner.id()), "{} does not name {}", loser.text, winner.id());
}

/// One moves to an address while another comes with it: one has it, and the address that was left is free if it was.
async fn one_moves_to_a_name(first: &Client, second: &Client, race: usize) {
    let address = |which: &str| json!({ "email": format!("{which}-{race}@example.com") });
    let moving = first.post("/customers", &address("old")).expect(201).await;
    let path = format!("/customers/{}", moving.id());
    let (moved, came) =
        join(first.patch(&path, &address("new")).send(), second.post("/customers", &address("new")).send()).await;
    let late = second.post("/customers", &address("old")).send().await;
    match (moved.status, came.status) {
        (200, 409) => assert_eq!(late.status, 201, "{}", late.text),
        (409, 201) => late.is_problem(409, "already-exists"),
        _ => panic!("{} {} and {} {}", moved.status, moved.text, came.status, came.text),
    }
}

/// Many want a part of what was paid: as many get it as there are parts.
async fn money_is_given_back_once(clients: &[Client], race: usize) {
    let customer = clients[0].post("/customers", &json!({})).expect(201).await;
    let placed = clients[1].post("/orders", &order(customer.id(), 100)).expect(201).await;
    let path = format!("/orders/{}", placed.id());
    let refund = json!({ "amount": { "amount": 30, "currency": "USD" } });
    let refunds = (0..CALLERS).map(|caller| {
        let post = clients[caller % 2].post(&format!("{path}/refund"), &refund);
        post.header("idempotency-key", format!("r-{race}-{caller}")).send()
    });
    let statuses: Vec<_> = join_all(refunds).await.iter().map(|answer| answer.status).collect();
    let count = |status| statuses.iter().filter(|each| **each == status).count();
    assert_eq!((count(200), count(422)), (3, CALLERS - 3), "{statuses:?}");
    let read = clients[0].get(&path).expect(200).await;
    assert_eq!(read.body["refunded"]["amount"], 90);
}
