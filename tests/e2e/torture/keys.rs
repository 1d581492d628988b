//! Keyed requests that are sent again and again: at the same time, to two processes, while these are killed or stopped,
//! and over midnight, where the table of a day gives way to the next one's.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::future::{join, join_all};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Run;
use super::fleet::Fleet;
use super::load::{settled, told};
use super::verify::verify_log;
use crate::client::{Answer, Client};
use crate::house::Lodging;
use crate::orders::order;
use crate::server::{CLOCK_SKEW, Special};

/// How often each request is sent at the same time.
const DUPLICATES: usize = 4;
/// How many keys are used at the same time.
const AT_A_TIME: usize = 8;
/// How many requests a process has in hand when it is stopped.
const IN_HAND: usize = 200;
/// How far the clock of one process is behind that of the database, in seconds; as a skew.
const BEHIND: i64 = -600;

/// What is asked under a key, and what was answered.
struct Request {
    key: String,
    path: String,
    body: Value,
}

type Told = (u16, String, [Option<String>; 2]);

/// Sends a request as often as that, to both processes in turn; all are answered alike.
async fn send(clients: &[Client], request: &Request, times: usize) -> Answer {
    let sendings = (0..times).map(|number| ask(clients, number, request));
    let answers = join_all(sendings).await;
    let mut heard: Vec<Told> =
        answers.iter().map(|answer| (answer.status, answer.text.clone(), told(answer))).collect();
    heard.dedup();
    assert_eq!(heard.len(), 1, "{} is answered in more ways than one: {heard:#?}", request.key);
    answers.into_iter().next().unwrap()
}

async fn ask(clients: &[Client], first: usize, request: &Request) -> Answer {
    let answer = settled(clients, first, |client| {
        client.post(&request.path, &request.body).header("idempotency-key", &request.key)
    });
    let answer = answer.await;
    assert!(answer.status < 300, "{}: {}", request.key, answer.text);
    answer
}

/// A new order under one key, and a part of its money back under another. Nothing but the keys tells that they are
/// repeated.
async fn buy_and_return(run: &Run, clients: &[Client], customer: &str, number: usize) -> [(Request, Told); 2] {
    let body = order(customer, 100);
    let placing = Request { key: format!("place-{number}"), path: "/orders".into(), body };
    let placed = send(clients, &placing, DUPLICATES).await;
    let body = json!({ "amount": { "amount": 40, "currency": "USD" } });
    let path = format!("/orders/{}/refund", placed.id());
    let returning = Request { key: format!("return-{number}"), path, body };
    let returned = send(clients, &returning, DUPLICATES).await;
    assert_eq!(returned.body["refunded"]["amount"], 40, "{}", returning.key);
    run.journal.note("answered", json!({ "keys": [placing.key, returning.key], "order": placed.id() }));
    let heard = |answer: Answer| (answer.status, answer.text.clone(), told(&answer));
    [(placing, heard(placed)), (returning, heard(returned))]
}

/// Each repeated once more is answered as it was.
async fn repeat(clients: &[Client], all: &[(Request, Told)]) {
    let mut repeats = futures::stream::FuturesUnordered::new();
    for (index, (request, first)) in all.iter().enumerate() {
        repeats.push(async move {
            let again = ask(clients, index, request).await;
            assert_eq!(again.header("idempotent-replayed"), "true", "{}", request.key);
            assert_eq!(&(again.status, again.text.clone(), told(&again)), first, "{}", request.key);
        });
    }
    while repeats.next().await.is_some() {}
}

/// As many effects as keys.
async fn count(run: &Run, fleet: &Fleet, keys: &[(Request, Told)]) {
    let mut effects = BTreeMap::<_, usize>::new();
    for event in fleet.log().await {
        *effects.entry(event.event_type).or_default() += 1;
    }
    let asked = |which: &str| keys.iter().filter(|(request, _)| request.key.starts_with(which)).count();
    assert_eq!((effects["order.placed"], effects["order.refunded"]), (asked("place"), asked("return")));
    run.count("keys with one effect", keys.len());
    verify_log(fleet.lodging()).await;
}

pub(super) async fn a_key_has_one_effect_whoever_is_killed(run: &Run) {
    let fleet = Fleet::start(run, Lodging::new().await, &["serve", "serve"]).await;
    let clients = fleet.clients();
    let customer = clients[0].post("/customers", &json!({})).expect(201).await.id().to_owned();
    let (keys, kills) = (run.times(120, 3_000), run.times(6, 150));
    let done = watch::Sender::new(0);
    let requests = async {
        let each = (0..keys).map(|number| {
            let (clients, customer, done) = (&clients, &customer, &done);
            async move {
                let both = buy_and_return(run, clients, customer, number).await;
                done.send_modify(|done| *done += 1);
                both
            }
        });
        let each: Vec<_> = each.collect();
        futures::stream::iter(each).buffered(AT_A_TIME).collect::<Vec<_>>().await
    };
    let strikes = async {
        let (mut random, mut watched) = (run.random(1), done.subscribe());
        for kill in 1..=kills {
            let after = kill * keys / (kills + 1);
            watched.wait_for(|done| *done >= after).await.unwrap();
            let victim = random.below(2);
            fleet.signal(victim, "KILL");
            run.journal.note("kill", json!({ "victim": victim, "after": after }));
            run.count("kills", 1);
        }
    };
    let (answered, ()) = join(requests, strikes).await;
    let answered: Vec<_> = answered.into_iter().flatten().collect();
    repeat(&clients, &answered).await;
    count(run, &fleet, &answered).await;
    fleet.leave(run).await;
}

pub(super) async fn a_key_has_one_effect_over_midnight(run: &Run) {
    let lodging = Lodging::private(Special { clock: true, ..Special::default() }).await;
    // The clock of the first process is behind the database's: what day it is, the database alone knows.
    let members = vec![("serve", vec![(CLOCK_SKEW, BEHIND.to_string())]), ("serve", vec![])];
    let fleet = Fleet::start_with(run, lodging, members).await;
    let clients = fleet.clients();
    let customer = clients[0].post("/customers", &json!({})).expect(201).await.id().to_owned();
    let (mut random, mut answered) = (run.random(1), Vec::new());
    for _ in 0..run.times(1, 20) {
        // Midnight passes while a process hangs.
        let midnight = move_clock_before_midnight(&fleet, TimeDelta::minutes(2)).await;
        let old_day = answered.len();
        buy_and_return_some(run, &clients, &customer, &mut answered).await;
        let wakes_at = midnight + TimeDelta::seconds([1, 60, 300, 20_000][random.below(4)]);
        answered.extend(stopped_over_midnight(run, &fleet, &customer, midnight, wakes_at).await);
        repeat(&clients, &answered[old_day..]).await;
        // And while all go on.
        let midnight = move_clock_before_midnight(&fleet, TimeDelta::seconds(2)).await;
        let old_day = answered.len();
        while now(&fleet).await < midnight + TimeDelta::seconds(1) {
            buy_and_return_some(run, &clients, &customer, &mut answered).await;
        }
        repeat(&clients, &answered[old_day..]).await;
        run.count("midnights", 2);
        if run.is_over() {
            break;
        }
    }
    count(run, &fleet, &answered).await;
    fleet.leave(run).await;
}

async fn buy_and_return_some(run: &Run, clients: &[Client], customer: &str, answered: &mut Vec<(Request, Told)>) {
    let first = answered.len();
    let each = (first..first + AT_A_TIME).map(|number| buy_and_return(run, clients, customer, number));
    answered.extend(join_all(each).await.into_iter().flatten());
}

/// Moves the clock to so long before the next midnight, which it gives.
async fn move_clock_before_midnight(fleet: &Fleet, lead: TimeDelta) -> DateTime<Utc> {
    let midnight = now(fleet).await.with_time(NaiveTime::MIN).unwrap() + TimeDelta::days(1);
    move_clock(fleet, midnight - lead).await;
    midnight
}

async fn move_clock(fleet: &Fleet, to: DateTime<Utc>) {
    // In whole seconds: not before that.
    let ahead = to - commands::clock::now() + TimeDelta::milliseconds(999);
    fleet.lodging().set_clock_ahead(ahead).await;
}

/// What time it is for the database.
async fn now(fleet: &Fleet) -> DateTime<Utc> {
    let mut conn = fleet.lodging().server().superuser().await;
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut conn).await.unwrap()
}

/// A process has many requests in hand and is stopped; the other is sent the same and answers them on the old day; the
/// first goes on in the new one.
async fn stopped_over_midnight(
    run: &Run,
    fleet: &Fleet,
    customer: &str,
    midnight: DateTime<Utc>,
    wakes_at: DateTime<Utc>,
) -> Vec<(Request, Told)> {
    let clients = fleet.clients();
    let request = |number| {
        let key = format!("place-in-hand-{midnight}-{number}");
        Request { key, path: "/orders".into(), body: order(customer, 100) }
    };
    let requests: Vec<_> = (0..IN_HAND).map(request).collect();
    let first = join_all(requests.iter().map(|request| ask(&clients[..1], 0, request)));
    let second = async {
        // Some are answered, some are on their way, and some have not begun.
        tokio::time::sleep(Duration::from_millis(30)).await;
        fleet.signal(0, "STOP");
        let second = join_all(requests.iter().map(|request| ask(&clients[1..], 0, request))).await;
        let answered_at = now(fleet).await;
        assert!(answered_at < midnight, "the other answered on the old day, not at {answered_at}");
        move_clock(fleet, wakes_at).await;
        fleet.signal(0, "CONT");
        second
    };
    let (first, second) = join(first, second).await;
    let mut all = Vec::new();
    for ((request, first), second) in requests.into_iter().zip(first).zip(second) {
        assert_eq!((first.status, &first.text), (second.status, &second.text), "{}", request.key);
        all.push((request, (second.status, second.text.clone(), told(&second))));
    }
    run.journal.note("stopped over midnight", json!({ "in_hand": IN_HAND, "wakes_at": wakes_at }));
    all
}
