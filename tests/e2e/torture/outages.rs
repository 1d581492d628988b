//! The database server runs out of disk, takes no writes, hangs, or is gone: whoever asks meanwhile is told to come back,
//! nothing acknowledged is lost, and writes resume by themselves.

use std::time::Duration;

use eventstore::Role;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::Run;
use super::fleet::Fleet;
use super::load::Load;
use crate::house::Lodging;
use crate::server::Special;

const CALLERS: usize = 8;
/// How long a write may take to be told that there is no answer.
const TOLD_WITHIN: Duration = Duration::from_secs(35);
/// How much disk a server with a small one has, in megabytes: a new cluster has a third of it.
const DISK: u32 = 160;

/// A house under load, on a server that something is done to after so many answers.
async fn outage(run: &Run, special: Special, during: impl AsyncFn(&Run, &Fleet, &Load<'_>)) {
    let lodging = Lodging::private(special).await;
    let fleet = Fleet::start(run, lodging, &["serve", "serve", "project"]).await;
    let load = Load::new(run, fleet.clients(), CALLERS);
    let mut random = run.random(1);
    let outages = async {
        let mut after = 0;
        for _ in 0..run.times(1, 5) {
            after += random.between(50, 150);
            load.until_answered(after).await;
            run.journal.note("outage", json!({ "after": after }));
            during(run, &fleet, &load).await;
            run.journal.note("over", json!({}));
            run.count("outages", 1);
            // What stood still goes on, with nobody's help.
            after = load.answered() + 50;
            load.until_answered(after).await;
            if run.is_over() {
                break;
            }
        }
        load.stop();
    };
    futures::join!(load.work(), outages);
    load.hold_to_account(&fleet).await;
    fleet.leave(run).await;
}

pub(super) async fn a_full_disk_hurts_nobody_for_ever(run: &Run) {
    // A disk for everything: the server breaks down when its write-ahead log can't grow, and is started in vain until
    // there is room. One for the tables alone: it refuses what makes them grow.
    for log_elsewhere in [false, true] {
        let special = Special { disk: Some(DISK), log_elsewhere, ..Special::default() };
        outage(run, special, async |_, fleet, load| {
            let server = fleet.lodging().server();
            server.fill_disk();
            load.until_refused(TOLD_WITHIN).await;
            server.free_disk();
        })
        .await;
    }
}

pub(super) async fn a_server_that_takes_no_writes_is_waited_for(run: &Run) {
    outage(run, Special::default(), async |_, fleet, load| {
        // A process that can't say that it is running opens nothing: what is personal is not shown meanwhile.
        let blind = fleet.tenant_at(0).key(&["commerce:read"]).await;
        let some = blind.get("/customers?limit=1").expect(200).await;
        let server = fleet.lodging().server();
        server.administer("ALTER SYSTEM SET default_transaction_read_only = on").await;
        server.administer("SELECT pg_reload_conf()").await;
        load.until_refused(TOLD_WITHIN).await;
        // Who only reads is none the worse.
        blind.get(&format!("/customers/{}", some.data()[0]["id"].as_str().unwrap())).expect(200).await;
        server
            .administer("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only")
            .await;
        server.administer("SELECT pg_reload_conf()").await;
    })
    .await;
}

pub(super) async fn a_server_that_is_gone_is_waited_for(run: &Run) {
    outage(run, Special::default(), async |run, fleet, load| {
        let server = fleet.lodging().server();
        fleet.let_server_rest(true);
        server.end("INT").await;
        load.until_refused(TOLD_WITHIN).await;
        for client in fleet.clients() {
            let read = client.get("/customers").problem(503, "unavailable").await;
            assert!(read.headers.contains_key("retry-after"), "{}", read.text);
            assert_eq!(client.try_get("!/health/ready").await, Some(503), "whoever sends requests here knows");
            assert_eq!(client.try_get("!/health/live").await, Some(200), "nobody restarts what is well");
        }
        tokio::time::sleep(Duration::from_secs(run.times(0, 60) as u64)).await;
        fleet.let_server_rest(false);
    })
    .await;
}

pub(super) async fn a_server_that_hangs_is_waited_for(run: &Run) {
    outage(run, Special::default(), async |run, fleet, load| {
        let server = fleet.lodging().server();
        server.signal_all("STOP");
        if run.times(0, 1) == 1 {
            load.until_refused(TOLD_WITHIN).await;
            tokio::time::sleep(Duration::from_secs(25)).await;
        } else {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        server.signal_all("CONT");
    })
    .await;
}

/// Transactions of two processes can't be told apart from one after the other: some are refused by the server, which
/// nobody who asks must notice.
pub(super) async fn a_serialisation_failure_is_tried_again_unseen(run: &Run) {
    let lodging = Lodging::new().await;
    let mut owner = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let (_, database) = lodging.dsn.url.rsplit_once('/').unwrap();
    let alter = format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'");
    sqlx::query(AssertSqlSafe(alter)).execute(&mut owner).await.unwrap();
    owner.close().await.unwrap();
    let fleet = Fleet::start(run, lodging, &["serve", "serve", "project"]).await;
    let load = Load::new(run, fleet.clients(), CALLERS);
    let stop = async {
        load.until_answered(run.times(300, 5_000)).await;
        load.stop();
    };
    futures::join!(load.work(), stop);
    assert_eq!(load.unsettled(), 0, "nobody was told to come back");
    let said = ["serve-0.log", "serve-1.log"].map(|name| std::fs::read_to_string(run.journal.path(name)).unwrap());
    let failures = said.iter().map(|said| said.matches("could not serialize").count()).sum();
    assert!(failures > 0, "the server never refused a transaction");
    run.count("serialisation failures", failures);
    load.hold_to_account(&fleet).await;
    fleet.leave(run).await;
}
