//! Kafka is killed, hangs, and loses what it was given, under load, while whoever publishes and projects is killed and
//! stopped, too: no command fails, no event is missed or applied twice, and nobody has to lend a hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Run;
use super::fleet::Fleet;
use super::load::Load;
use crate::backup::{end, equal_the_fold, projectors, until_read};
use crate::broker::Broker;
use crate::house::{Lodging, Tenant};
use crate::random::Random;
use crate::topic::Topic;

const CALLERS: usize = 2;
/// Tenants beside that of the load: their slots are in other partitions.
const OTHERS: usize = 3;
/// Who is there: those from the third on are killed and stopped.
const ROLES: [&str; 6] = ["serve", "serve", "relay", "relay", "project", "project"];
/// How many bytes each partition loses at its end: some batches, not all.
const TAIL: u64 = 2_000;
/// How long Kafka hangs.
const HANGS: Duration = Duration::from_secs(3);

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is killed and started again.
    Killed,
    /// It hangs for a while.
    Hangs,
    /// The topic is deleted.
    Deleted,
    /// All that the topic has expires.
    Expired,
    /// It is killed, and each partition loses its end.
    TailCut,
}

const FAULTS: [Fault; 5] = [Fault::Killed, Fault::TailCut, Fault::Deleted, Fault::Expired, Fault::Hangs];

pub(super) async fn whatever_kafka_loses_nothing_is_missed(run: &Run) {
    let broker = Broker::start().await;
    let lodging = Lodging::new().await;
    let topic = Topic { brokers: broker.address(), name: lodging.topic.clone() };
    let member = |role| (role, vec![("ANNALS_KAFKA_BROKERS", broker.address())]);
    let fleet = Fleet::start_with(run, lodging, ROLES.map(member).into()).await;
    let mut others = Vec::new();
    for index in 0..OTHERS {
        others.push(fleet.other_tenant_at(index % 2).await);
    }
    let load = Load::new(run, fleet.clients(), CALLERS);
    let stop = AtomicBool::new(false);
    let writers = futures::future::join_all(others.iter().map(|other| write(other, &stop)));
    let blows = async {
        strike(run, &fleet, &load, &broker, &topic).await;
        load.stop();
        stop.store(true, Ordering::SeqCst);
    };
    futures::join!(load.work(), writers, blows);
    assert_eq!(load.unsettled(), 0, "no command needs Kafka");

    lose_what_nobody_has_read(&fleet, &broker, &topic, &others).await;
    let (begun, dsn) = (Instant::now(), fleet.lodging().dsn.clone());
    until_read(&dsn, end(&dsn).await, projectors(&dsn).await).await;
    run.journal.note("caught up", json!({ "seconds": begun.elapsed().as_secs_f64() }));
    load.hold_to_account(&fleet).await;
    equal_the_fold(fleet.lodging(), &dsn, None).await;
    fleet.leave(run).await;
}

/// One fault after the other, each after so many answers more.
async fn strike(run: &Run, fleet: &Fleet, load: &Load<'_>, broker: &Broker, topic: &Topic) {
    let mut random = run.random(1);
    for number in 0..run.times(FAULTS.len(), 200) {
        load.until_answered(load.answered() + random.between(20, 100)).await;
        // Each at least once.
        let fault = FAULTS.get(number).copied().unwrap_or_else(|| FAULTS[random.below(FAULTS.len())]);
        run.journal.note("fault", json!({ "fault": format!("{fault:?}") }));
        run.count("faults of Kafka", 1);
        befall(fault, broker, topic).await;
        harm_a_process(run, fleet, &mut random).await;
        if run.is_over() {
            break;
        }
    }
    load.until_answered(load.answered() + 100).await;
}

async fn harm_a_process(run: &Run, fleet: &Fleet, random: &mut Random) {
    let (victim, blow) = (random.between(2, ROLES.len()), random.below(3));
    run.journal.note("blow", json!({ "role": ROLES[victim], "index": victim, "blow": blow }));
    match blow {
        0 => fleet.signal(victim, "KILL"),
        1 => {
            // Longer than its lease is good for: it wakes up as a zombie.
            fleet.signal(victim, "STOP");
            tokio::time::sleep(Duration::from_secs(2)).await;
            fleet.signal(victim, "CONT");
        }
        _ => return,
    }
    run.count("processes killed or stopped", 1);
}

async fn befall(fault: Fault, broker: &Broker, topic: &Topic) {
    match fault {
        Fault::Killed => {
            broker.kill();
            broker.up().await;
        }
        Fault::Hangs => {
            broker.signal("STOP");
            tokio::time::sleep(HANGS).await;
            broker.signal("CONT");
        }
        Fault::Deleted => {
            topic.admin().delete_topics(&[&topic.name], &Topic::options()).await.unwrap();
        }
        Fault::Expired => topic.expire().await,
        Fault::TailCut => {
            broker.kill();
            broker.cut_tails(topic, TAIL);
            broker.up().await;
        }
    }
}

/// Events are published, and lost before any projector hears of them. Nothing comes after them.
async fn lose_what_nobody_has_read(fleet: &Fleet, broker: &Broker, topic: &Topic, tenants: &[Tenant]) {
    let projectors = |name| (4..ROLES.len()).for_each(|index| fleet.signal(index, name));
    projectors("STOP");
    for tenant in tenants {
        let lost = tenant.post("/customers", &json!({"external_id": "lost"})).expect(201).await;
        topic.until_has(lost.id()).await;
    }
    broker.kill();
    broker.cut_tails(topic, TAIL);
    broker.up().await;
    projectors("CONT");
}

/// A client that writes until it is told to stop; every command is answered, and well.
async fn write(tenant: &Tenant, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        tenant.post("/customers", &json!({"external_id": format!("c-{number}")})).expect(201).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
