//! Callers that work on, whatever happens: each has resources of its own, knows what it was answered, and repeats what
//! was not answered under the same key until it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::AnyId;
use eventstore::RecordedEvent;
use futures::StreamExt;
use futures::future::{Either, join_all, select};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::Run;
use super::fleet::Fleet;
use super::shared::Shared;
use super::verify::{folded, verify_log};
use crate::client::{Answer, Call, Client};
use crate::orders::order;
use crate::random::Random;

/// How long a caller waits for an answer before it asks again.
pub(super) const PATIENCE: Duration = Duration::from_secs(35);
/// How long it waits before it asks again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long nothing may be answered at all, whatever is broken.
const STANDSTILL: Duration = Duration::from_secs(60);

/// All callers, and what they were answered.
pub(crate) struct Load<'a> {
    run: &'a Run,
    clients: Vec<Client>,
    /// How many commands were answered for good.
    answered: watch::Sender<usize>,
    /// How many attempts were told that there is no answer now, and how many had none.
    refused: watch::Sender<usize>,
    unsettled: AtomicUsize,
    stopped: AtomicBool,
    /// A caller that hears this has died, and begins again with what its journal says.
    deaths: Vec<Notify>,
    made: Mutex<Made>,
    shared: Shared,
}

/// What was acknowledged.
#[derive(Default)]
struct Made {
    keyed: Vec<Acknowledged>,
    customers: usize,
    changes: usize,
    refunds: usize,
    orders: Vec<Order>,
}

/// A keyed request and its answer.
struct Acknowledged {
    path: String,
    key: String,
    body: Value,
    status: u16,
    text: String,
    headers: [Option<String>; 2],
}

struct Order {
    id: String,
    total: i64,
    refunded: i64,
}

struct Customer {
    id: String,
    version: u64,
}

struct Caller<'a> {
    load: &'a Load<'a>,
    number: usize,
    random: Random,
    /// The number of its next command.
    next: usize,
    customers: Vec<Customer>,
    orders: Vec<Order>,
}

impl<'a> Load<'a> {
    pub(crate) fn new(run: &'a Run, clients: Vec<Client>, callers: usize) -> Self {
        let deaths = (0..callers).map(|_| Notify::new()).collect();
        Self {
            run,
            clients,
            answered: watch::Sender::new(0),
            refused: watch::Sender::new(0),
            unsettled: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            deaths,
            made: Mutex::default(),
            shared: Shared::default(),
        }
    }

    /// Commands, until told to stop.
    pub(crate) async fn work(&self) {
        let callers = (0..self.deaths.len()).map(|number| async move {
            let random = self.run.random(1_000 + number as u64);
            let mut caller = Caller { load: self, number, random, next: 0, customers: vec![], orders: vec![] };
            while !self.stopped.load(Ordering::SeqCst) {
                caller.step().await;
                self.answered.send_modify(|answered| *answered += 1);
            }
            self.made.lock().unwrap().orders.extend(caller.orders);
        });
        join_all(callers).await;
    }

    pub(crate) fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// Waits until so many commands were answered.
    pub(crate) async fn until_answered(&self, count: usize) {
        let begun = Instant::now();
        let mut watched = self.answered.subscribe();
        let mut answered = self.answered();
        while answered < count {
            let waiting = tokio::time::timeout(STANDSTILL, watched.changed());
            let resumed = waiting.await;
            assert!(resumed.is_ok(), "nothing was answered for {STANDSTILL:?}, {:?} in all", begun.elapsed());
            answered = self.answered();
        }
    }

    /// Waits until one more attempt is told that there is no answer now.
    pub(crate) async fn until_refused(&self, within: Duration) {
        let (mut refused, known) = (self.refused.subscribe(), *self.refused.borrow());
        let told = tokio::time::timeout(within, refused.wait_for(|refused| *refused > known)).await;
        told.expect("whoever asks is told within the bound").unwrap();
    }

    /// How many attempts had no answer, or one that said to come back.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::SeqCst)
    }

    /// Lets every caller end what it has begun.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Kills a caller in the middle of whatever it does.
    pub(crate) fn kill(&self, caller: usize) {
        self.deaths[caller].notify_waiters();
    }

    pub(crate) fn callers(&self) -> usize {
        self.deaths.len()
    }

    /// Once all callers have ended: nothing that was acknowledged is lost, doubled or told otherwise, the log keeps its
    /// promises, and the lists show what it says.
    pub(crate) async fn hold_to_account(&self, fleet: &Fleet) {
        fleet.ready().await;
        self.repeat_all().await;
        verify_log(fleet.lodging()).await;
        let log = fleet.log().await;
        self.compare(&log);
        self.shared.compare(self.run, &log);
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let shown = folded(&self.clients[0], "/orders", log.len()).await;
        assert_eq!(shown.len(), made.orders.len(), "the list has every order");
        for order in made.orders {
            assert_eq!(shown[&order.id]["refunded"]["amount"], json!(order.refunded), "{}", order.id);
        }
        let shown = folded(&self.clients[1], "/customers", log.len()).await;
        assert_eq!(shown.len(), made.customers, "the list has every customer");
    }

    /// Compares what was acknowledged with the log: every effect is there, once, where its answer said.
    fn compare(&self, log: &[RecordedEvent]) {
        let made = self.made.lock().unwrap();
        let expected = [
            ("customer.created", made.customers),
            ("customer.changed", made.changes),
            ("order.placed", made.orders.len()),
            ("order.refunded", made.refunds),
        ];
        for (event_type, count) in expected {
            let stored = log.iter().filter(|event| event.event_type == event_type).count();
            assert_eq!(stored, count, "{event_type}: as many as were acknowledged");
            self.run.count("effects, each once", stored);
        }
        for first in made.keyed.iter().filter(|first| first.headers[0].is_some()) {
            let answer: Value = serde_json::from_str(&first.text).unwrap();
            let sequence: usize = first.headers[1].as_ref().unwrap().parse().unwrap();
            let id: AnyId = answer["id"].as_str().unwrap().parse().unwrap();
            let (event, etag) = (&log[sequence - 1], first.headers[0].as_deref().unwrap());
            assert_eq!(
                (event.stream_id, format!("\"{}\"", event.version).as_str()),
                (id.uuid(), etag),
                "{}",
                first.key
            );
        }
    }

    /// Repeats every keyed request that was acknowledged: each is answered as it was, and has no second effect.
    async fn repeat_all(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let repeats = made.keyed.iter().enumerate().map(|(index, first)| async move {
            let client = &self.clients[index % self.clients.len()];
            let again = client.post(&first.path, &first.body).header("idempotency-key", &first.key).send().await;
            assert_eq!((again.status, &again.text), (first.status, &first.text), "{} {}", first.path, first.key);
            assert_eq!(told(&again), first.headers, "{} {}", first.path, first.key);
            // A batch is answered item by item.
            assert!(again.headers.contains_key("idempotent-replayed") || first.path.ends_with("/batch"));
        });
        futures::stream::iter(repeats).buffer_unordered(16).collect::<Vec<()>>().await;
        self.run.count("answers repeated", made.keyed.len());
        *self.made.lock().unwrap() = made;
    }
}

/// Sends a request to one process after the other until its outcome is known.
pub(crate) async fn settled(clients: &[Client], first: usize, call: impl Fn(&Client) -> Call) -> Answer {
    for client in clients.iter().cycle().skip(first) {
        if let Some(answer) = call(client).within(PATIENCE).await.filter(is_settled) {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("there is always another attempt")
}

/// What an answer says in its headers.
pub(crate) fn told(answer: &Answer) -> [Option<String>; 2] {
    ["etag", "annals-sequence"].map(|name| Some(answer.headers.get(name)?.to_str().unwrap().to_owned()))
}

/// Whether the outcome of the request is known now.
fn is_settled(answer: &Answer) -> bool {
    match answer.status {
        503 => assert!(answer.headers.contains_key("retry-after"), "{}", answer.text),
        409 if answer.body["code"] == "idempotency-in-progress" => {}
        status => {
            assert!(status < 500, "{status}: {}", answer.text);
            return true;
        }
    }
    false
}

impl Caller<'_> {
    async fn step(&mut self) {
        self.next += 1;
        match self.random.below(13) {
            _ if self.customers.is_empty() => self.create_customer().await,
            0 => self.create_customer().await,
            1 | 2 => self.change(false).await,
            3 | 4 => self.change(true).await,
            _ if self.orders.is_empty() => self.place().await,
            5..=7 => self.place().await,
            8 => self.place_many().await,
            9 => self.refund_too_much().await,
            12 => self.load.shared.rename(&self.load.clients, self.number, &self.name()).await,
            _ => self.refund().await,
        }
    }

    fn name(&self) -> String {
        format!("{}-{}", self.number, self.next)
    }

    /// One attempt at one of the processes; none where its outcome is not known.
    async fn attempt(&self, number: usize, call: impl FnOnce(&Client) -> Call) -> Option<Answer> {
        let clients = &self.load.clients;
        let client = (self.number + self.next + number) % clients.len();
        let death = self.load.deaths[self.number].notified();
        let asking = call(&clients[client]).within(PATIENCE);
        let answer = match select(Box::pin(asking), Box::pin(death)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => None,
        };
        let status = answer.as_ref().map(|answer| answer.status);
        self.load
            .run
            .journal
            .note("attempt", json!({ "command": self.name(), "number": number, "at": client, "status": status }));
        if status == Some(503) {
            self.load.refused.send_modify(|refused| *refused += 1);
        }
        let settled = answer.filter(is_settled);
        if settled.is_none() {
            self.load.unsettled.fetch_add(1, Ordering::SeqCst);
            self.load.run.count("outcomes unknown at first", 1);
            tokio::time::sleep(PAUSE).await;
        }
        settled
    }

    /// Asks until the outcome is known.
    async fn settle(&self, call: impl Fn(&Client) -> Call) -> Answer {
        for number in 0.. {
            if let Some(answer) = self.attempt(number, &call).await {
                return answer;
            }
        }
        unreachable!("there is always another attempt")
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let key = self.name();
        self.load.run.journal.note("intent", json!({ "command": key, "path": path, "body": body }));
        let post = |client: &Client| client.post(path, body).header("idempotency-key", &key);
        let mut answer = self.settle(post).await;
        // Items of a batch are settled one by one.
        while answer.status == 200 && answer.body["object"] == "batch" {
            let open = |item: &Value| {
                let in_progress = item["problem"]["code"] == "idempotency-in-progress";
                assert!(in_progress || matches!(item["status"].as_u64(), Some(201 | 503)), "{key}: {item}");
                item["status"] != 201
            };
            if !answer.data().iter().any(open) {
                break;
            }
            answer = self.settle(post).await;
        }
        self.load.run.journal.note(
            "answer",
            json!({ "command": key, "status": answer.status, "headers": told(&answer), "id": answer.body["id"] }),
        );
        if answer.status < 300 {
            let (status, text, headers) = (answer.status, answer.text.clone(), told(&answer));
            let first = Acknowledged { path: path.to_owned(), key, body: body.clone(), status, text, headers };
            self.load.made.lock().unwrap().keyed.push(first);
        }
        answer
    }

    async fn create_customer(&mut self) {
        let name = self.name();
        let body = json!({ "external_id": name, "name": name, "email": format!("{name}@example.com") });
        let made = self.post("/customers", &body).await;
        assert_eq!(made.status, 201, "{name}: {}", made.text);
        self.customers.push(Customer { id: made.id().to_owned(), version: 1 });
        self.load.made.lock().unwrap().customers += 1;
    }

    /// Changes a customer of its own, at the version that it has seen. There is no key: where an attempt was not
    /// answered, the version tells whether it had its effect.
    async fn change(&mut self, address: bool) {
        let name = self.name();
        let index = self.random.below(self.customers.len());
        let customer = &self.customers[index];
        let (field, value) = if address { ("email", format!("{name}@example.org")) } else { ("name", name.clone()) };
        let (path, body) = (format!("/customers/{}", customer.id), json!({ field: value }));
        let (seen, next) = (format!("\"{}\"", customer.version), format!("\"{}\"", customer.version + 1));
        self.load.run.journal.note("intent", json!({ "command": name, "path": path, "body": body, "version": seen }));
        let patch = |client: &Client| client.call(Method::PATCH, &path).json(&body).header("if-match", &seen);
        let mut number = 0;
        let answer = loop {
            match self.attempt(number, patch).await {
                Some(answer) => break answer,
                None => number += 1,
            }
        };
        self.load.run.journal.note("answer", json!({ "command": name, "status": answer.status }));
        if answer.status == 412 && number > 0 {
            let now = self.settle(|client| client.get(&path)).await;
            assert_eq!(
                (now.header("etag"), &now.body[field]),
                (next.as_str(), &json!(value)),
                "{name} found another change of its customer"
            );
        } else {
            assert_eq!(answer.status, 200, "{name}: {}", answer.text);
            assert_eq!((answer.header("etag"), &answer.body[field]), (next.as_str(), &json!(value)), "{name}");
        }
        self.customers[index].version += 1;
        self.load.made.lock().unwrap().changes += 1;
    }

    fn new_order(&mut self, name: &str) -> (i64, Value) {
        let total = self.random.between(100, 1_000) as i64;
        let customer = self.random.below(self.customers.len());
        let mut body = order(&self.customers[customer].id, total);
        body["external_id"] = json!(name);
        (total, body)
    }

    async fn place(&mut self) {
        let name = self.name();
        let (total, body) = self.new_order(&name);
        let placed = self.post("/orders", &body).await;
        assert_eq!(placed.status, 201, "{name}: {}", placed.text);
        self.orders.push(Order { id: placed.id().to_owned(), total, refunded: 0 });
    }

    async fn place_many(&mut self) {
        let name = self.name();
        let count = self.random.between(2, 12);
        let (totals, items): (Vec<_>, Vec<_>) = (0..count).map(|n| self.new_order(&format!("{name}-{n}"))).unzip();
        let placed = self.post("/orders/batch", &json!({ "items": items })).await;
        assert_eq!(placed.status, 200, "{name}: {}", placed.text);
        for (total, item) in totals.into_iter().zip(placed.data()) {
            let id = item["resource"]["id"].as_str().unwrap().to_owned();
            self.orders.push(Order { id, total, refunded: 0 });
        }
    }

    async fn refund(&mut self) {
        let index = self.random.below(self.orders.len());
        let order = &self.orders[index];
        let rest = order.total - order.refunded;
        if rest == 0 {
            return self.place().await;
        }
        let amount = self.random.between(1, rest as usize + 1) as i64;
        let answer = self.give_back(index, amount).await;
        assert_eq!(answer.status, 200, "{}: {}", self.name(), answer.text);
        self.orders[index].refunded += amount;
        assert_eq!(answer.body["refunded"]["amount"], self.orders[index].refunded, "{}", self.name());
        self.load.made.lock().unwrap().refunds += 1;
    }

    async fn refund_too_much(&mut self) {
        let index = self.random.below(self.orders.len());
        let rest = self.orders[index].total - self.orders[index].refunded;
        let answer = self.give_back(index, rest + 1).await;
        let code = if rest == 0 { (409, "order-refunded") } else { (422, "validation-failed") };
        answer.is_problem(code.0, code.1);
    }

    async fn give_back(&self, index: usize, amount: i64) -> Answer {
        let path = format!("/orders/{}/refund", self.orders[index].id);
        self.post(&path, &json!({ "amount": { "amount": amount, "currency": "USD" } })).await
    }
}
