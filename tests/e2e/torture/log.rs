//! The log without HTTP before it: two stores, as two processes would have them, and callers who want what they must not
//! get.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use eventstore::{
    Append, AppendError, Claim, Committed, EventStore, IdempotencyRecord, NewEvent, Role, StreamAppend, new_id,
};
use futures::future::{join, join_all};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::Run;
use super::verify::verify_log;
use crate::house::{Lodging, connect};
use crate::random::Random;
use crate::server::Special;

fn event(payload: String, subjects: Vec<Uuid>) -> NewEvent {
    NewEvent {
        event_id: new_id(),
        event_type: "tenant.created",
        schema_version: 1,
        subjects,
        actor: "sys_00000000000000000000000001".into(),
        occurred_at: DateTime::<Utc>::UNIX_EPOCH,
        payload,
        metadata: "{}".into(),
        salt: [1; 16],
    }
}

/// One event for a stream that is new unless said otherwise, of so many bytes at least.
fn append(store: &EventStore, tenant: Uuid, stream_id: Uuid, bytes: usize, subjects: Vec<Uuid>) -> Append {
    let events = vec![event(format!("{{\"name\": \"Test\"{}}}", " ".repeat(bytes)), subjects)];
    let stream = StreamAppend { stream_type: "tenancy.tenant", stream_id, expected_version: 0, events };
    Append { tenant, epoch: store.epoch(), streams: vec![stream], ..Append::default() }
}

fn small(store: &EventStore, tenant: Uuid) -> Append {
    append(store, tenant, new_id(), 0, Vec::new())
}

const PERSONS: usize = 40;
const WRITERS: usize = 8;

pub(super) async fn nothing_is_said_of_an_erased_person(run: &Run) {
    let lodging = Lodging::new().await;
    let stores = [lodging.store().clone(), connect(&lodging.dsn).await];
    for _ in 0..run.times(3, 100) {
        let race = Race {
            tenant: new_id(),
            persons: (0..PERSONS).map(|_| new_id()).collect(),
            said: Mutex::default(),
            buried: Mutex::default(),
            appended: AtomicUsize::new(0),
        };
        let writers = (0..WRITERS).map(|writer| race.write(&stores[writer % 2], run.random(2 + writer as u64)));
        join(join_all(writers), race.bury_all(&stores, run.random(1))).await;
        let (said, buried) = (race.said.into_inner().unwrap(), race.buried.into_inner().unwrap());
        for (person, committed) in &said {
            let end = buried[person];
            assert!(committed.position < end.position, "{person}: {committed:?} after the tombstone at {end:?}");
        }
        // What the log says itself, whatever the writers were told.
        for event in stores[0].read_tenant(race.tenant, 0, i64::MAX, &Default::default(), i64::MAX).await.unwrap() {
            for person in event.subjects.iter().flatten() {
                assert!(event.position < buried[person].position, "{person} at {}", event.position);
            }
        }
        run.count("events about persons", said.len());
        run.count("tombstones", buried.len());
        if run.is_over() {
            break;
        }
    }
    verify_log(&lodging).await;
    stores[1].close().await;
    lodging.leave().await;
}

/// Writers against whoever buries the persons that they write about.
struct Race {
    tenant: Uuid,
    persons: Vec<Uuid>,
    said: Mutex<Vec<(Uuid, Committed)>>,
    buried: Mutex<HashMap<Uuid, Committed>>,
    appended: AtomicUsize,
}

impl Race {
    async fn write(&self, store: &EventStore, mut random: Random) {
        while self.buried.lock().unwrap().len() < self.persons.len() {
            let person = self.persons[random.below(self.persons.len())];
            // As whoever appends must: the epoch first, then whether the person may still be written about.
            let said = append(store, self.tenant, new_id(), 0, vec![person]);
            let known = store.subjects(self.tenant, &[person]).await.unwrap();
            if known.get(&person).is_some_and(|row| row.erased) {
                self.appended.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            match store.append(Append { about: vec![person], ..said }).await {
                Ok(committed) => self.said.lock().unwrap().push((person, committed)),
                Err(AppendError::SubjectErased(who)) => assert_eq!(who, person),
                Err(error) => panic!("{error}"),
            }
            self.appended.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Each after so many appends more, by one of the two stores; now and then the epoch rises for another reason.
    async fn bury_all(&self, stores: &[EventStore; 2], mut random: Random) {
        let mut after = 0;
        for person in &self.persons {
            after += random.between(2, 12);
            while self.appended.load(Ordering::SeqCst) < after {
                tokio::task::yield_now().await;
            }
            if random.below(3) == 0 {
                stores[random.below(2)].raise_epoch().await.unwrap();
            }
            let store = &stores[random.below(2)];
            let stone = append(store, self.tenant, *person, 0, Vec::new());
            let committed = store.append(Append { tombstone: Some(*person), ..stone }).await.unwrap();
            self.buried.lock().unwrap().insert(*person, committed);
        }
    }
}

/// What is wrong with an append.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Bytes,
    EventTooLarge,
    Version,
    Name,
    Person,
}

pub(super) async fn a_fault_is_told_to_whoever_makes_it_and_nobody_else(run: &Run) {
    let lodging = Lodging::new().await;
    let stores = [lodging.store().clone(), connect(&lodging.dsn).await];
    let mut random = run.random(1);
    for _ in 0..run.times(10, 300) {
        let tenant = new_id();
        let (erased, holder) = (new_id(), new_id());
        // Whoever checked a person under this epoch, or before it, may not know of the tombstone.
        let before = stores[0].epoch();
        let stone = append(&stores[0], tenant, erased, 0, Vec::new());
        stores[0].append(Append { tombstone: Some(erased), ..stone }).await.unwrap();
        let claim = |stream_id| Claim { kind: "commerce.customer.email".into(), key: [7; 32], stream_id };
        let held = append(&stores[0], tenant, holder, 0, Vec::new());
        stores[0].append(Append { claims: vec![claim(holder)], ..held }).await.unwrap();
        let appends = (0..200).map(|number| {
            let store = &stores[number % 2];
            let fault = match random.below(30) {
                0 => Fault::Bytes,
                1 => Fault::EventTooLarge,
                2 => Fault::Version,
                3 => Fault::Name,
                4 => Fault::Person,
                _ => Fault::None,
            };
            let mut faulty = small(store, tenant);
            match fault {
                Fault::Bytes => faulty.streams[0].events[0].payload = "{\"a\": \"\0\"}".into(),
                Fault::EventTooLarge => faulty.streams[0].events[0].payload = "x".repeat(257 * 1024),
                Fault::Version => faulty.streams[0].stream_id = holder,
                Fault::Name => faulty.claims = vec![claim(faulty.streams[0].stream_id)],
                Fault::Person => (faulty.about, faulty.epoch) = (vec![erased], before),
                Fault::None => {}
            }
            async move { (fault, store.append(faulty).await) }
        });
        let mut good = 0;
        for (fault, result) in join_all(appends.collect::<Vec<_>>()).await {
            let told = match &result {
                Ok(_) => Fault::None,
                Err(AppendError::Refused(_)) => Fault::Bytes,
                Err(AppendError::TooLarge { .. }) => Fault::EventTooLarge,
                Err(AppendError::Conflict { .. }) => Fault::Version,
                Err(AppendError::ClaimTaken { .. }) => Fault::Name,
                Err(AppendError::SubjectErased(_)) => Fault::Person,
                Err(error) => panic!("{fault:?}: {error}"),
            };
            assert_eq!(told, fault, "{result:?}");
            good += i64::from(fault == Fault::None);
            run.count("faults told", usize::from(fault != Fault::None));
        }
        assert_eq!(stores[0].tenant_head(tenant).await.unwrap(), good + 2);
        if run.is_over() {
            break;
        }
    }
    verify_log(&lodging).await;
    stores[1].close().await;
    lodging.leave().await;
}

/// How many appends are pushed in at a time while nothing is committed.
const PUSH: usize = 1_000;
/// More than may wait anywhere.
const FAR_TOO_MANY: usize = 100_000;

pub(super) async fn a_full_queue_says_so_and_one_tenant_cannot_fill_it_for_another(run: &Run) {
    let lodging = Lodging::new().await;
    let store = lodging.store().clone();
    let (importer, other) = (new_id(), new_id());
    for bytes in [0, 250 * 1024] {
        let mut holder = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
        let mut held = holder.begin().await.unwrap();
        let (base,): (i64,) =
            sqlx::query_as("SELECT position FROM log_head FOR UPDATE").fetch_one(&mut *held).await.unwrap();
        let refused = AtomicUsize::new(0);
        let mut waiting = Vec::new();
        while refused.load(Ordering::SeqCst) == 0 && waiting.len() < FAR_TOO_MANY {
            for _ in 0..if bytes > 1_000 { 10 } else { PUSH } {
                let (store, refused) = (store.clone(), &refused);
                let append = append(&store, importer, new_id(), bytes, Vec::new());
                let mut going = Box::pin(async move {
                    let result = store.append(append).await;
                    refused.fetch_add(usize::from(result == Err(AppendError::Unavailable)), Ordering::SeqCst);
                    result
                });
                // Begun here, so that it stands in the queue behind those before it.
                if futures::poll!(&mut going).is_pending() {
                    waiting.push(going);
                }
            }
            tokio::task::yield_now().await;
        }
        assert!(refused.load(Ordering::SeqCst) > 0, "the queue takes anything");
        // Whoever asks for little is taken in all the same, and is not behind everything that waits.
        let mut little = Box::pin(store.append(small(&store, other)));
        let taken_in = futures::poll!(&mut little);
        assert!(taken_in.is_pending(), "the other tenant is taken in: {taken_in:?}");
        held.rollback().await.unwrap();
        holder.close().await.unwrap();
        let (imported, little) = join(join_all(waiting), little).await;
        let imported: Vec<_> = imported.into_iter().map(|result| result.unwrap().position - base).collect();
        let (last, little) = (*imported.iter().max().unwrap(), little.unwrap().position - base);
        run.journal.note("queue", json!({ "taken in": imported.len(), "last": last, "the other": little }));
        run.count("taken in", imported.len());
        assert_eq!(last, imported.len() as i64 + 1, "all that were taken in are committed, and none that was refused");
        assert!(little < last * 9 / 10, "the other tenant stands at {little} of {last}");
    }
    verify_log(&lodging).await;
    lodging.leave().await;
}

/// A process looks a key up, finds nothing, and hangs over midnight, however long; another is asked the same meanwhile.
pub(super) async fn a_key_is_known_on_the_next_day_by_whoever_has_hung_since(run: &Run) {
    let lodging = Lodging::private(Special { clock: true, ..Special::default() }).await;
    let stores = [lodging.store().clone(), connect(&lodging.dsn).await];
    let tenant = new_id();
    let keyed = |number: u8, store: &EventStore| {
        let append = small(store, tenant);
        let record = IdempotencyRecord {
            key: [number; 32],
            item: 0,
            fingerprint: [6; 32],
            status: 201,
            stream_type: "tenancy.tenant".into(),
            stream_id: append.streams[0].stream_id,
            version: 1,
            sequence: 0,
        };
        Append { idempotency: Some(record), ..append }
    };
    for (number, later) in [0, 60, 300, 43_200].into_iter().enumerate() {
        let number = number as u8;
        let hung = keyed(number, &stores[1]);
        let first = keyed(number, &stores[0]);
        stores[0].append(first.clone()).await.unwrap();
        let today = commands::clock::now().with_time(NaiveTime::MIN).unwrap() + TimeDelta::days(i64::from(number) + 1);
        let ahead = today + TimeDelta::seconds(later) - commands::clock::now();
        lodging.set_clock_ahead(ahead + TimeDelta::seconds(1)).await;
        for store in &stores {
            match store.append(hung.clone()).await {
                Err(AppendError::Duplicate(record)) => assert_eq!(record.stream_id, first.streams[0].stream_id),
                other => panic!("{later} s into the next day: {other:?}"),
            }
        }
        run.count("keys of yesterday", 1);
    }
    assert_eq!(stores[0].tenant_head(tenant).await.unwrap(), 4);
    stores[1].close().await;
    lodging.leave().await;
}
