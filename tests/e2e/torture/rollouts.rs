//! A newer version takes over from an older one, with an event of a new version, a new column, and rows that it makes anew,
//! while clients write and read: nobody meets an error, and nobody reads backwards.
//!
//! The older one is this tree. `./dev torture` makes the newer one of it with `tests/rollouts/next.patch`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use eventstore::EventFilter;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Run;
use super::verify::folded;
use crate::client::{Answer, Client};
use crate::house::{Lodging, Tenant};
use crate::operations::until;
use crate::processes::{Running, ready};
use crate::random::Random;

/// How many notes there are before.
const NOTES_BEFORE: usize = 20_000;
/// How many tenants write, and read what they have written: so many that each process has the slots of some.
const WRITERS: u64 = 6;
/// How long the clients go on between two steps.
const STEP: Duration = Duration::from_secs(3);
/// How long processes of both versions project side by side once the rows are new: longer than a reader's patience.
const SIDE_BY_SIDE: Duration = Duration::from_secs(10);
const NOTES: &str = "/admin/projections/crm_notes";
const KINDS: [&str; 4] = ["general", "call", "meeting", "complaint"];

/// The processes of one version.
struct Version<'a> {
    run: &'a Run,
    lodging: &'a Lodging,
    name: &'static str,
    program: PathBuf,
}

impl Version<'_> {
    /// A process of that role, and where it listens.
    fn start(&self, role: &str) -> (Running, String) {
        let address = self.lodging.free_address();
        let mut command = self.lodging.command_of(&self.program, &[role]);
        command.env("ANNALS_LISTEN", &address).env("ANNALS_LOG", "info,api::edge=warn");
        let log = std::fs::File::create(self.run.journal.path(&format!("{}-{role}.log", self.name))).unwrap();
        self.run.journal.note("start", json!({ "version": self.name, "role": role }));
        (Running::of(command, log.into()), address)
    }

    async fn done(&self, arguments: &[&str]) -> String {
        let output = self.lodging.command_of(&self.program, arguments).output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {told} {}", String::from_utf8_lossy(&output.stderr));
        self.run.journal.note("done", json!({ "version": self.name, "command": arguments }));
        told
    }
}

async fn end(run: &Run, process: Running, what: &str) {
    assert_eq!(process.end().await, 0, "{what} ends well");
    run.journal.note("ended", json!({ "process": what }));
}

pub(super) async fn a_newer_version_takes_over_unseen(run: &Run) {
    let newer = std::env::var("NEXT_ANNALS").expect("the newer version is made by ./dev torture");
    let lodging = Lodging::new().await;
    let older = Version { run, lodging: &lodging, name: "older", program: crate::lodging::binary() };
    let newer = Version { run, lodging: &lodging, name: "newer", program: newer.into() };
    let [relay, project, work, serve] = ["relay", "project", "work", "serve"].map(|role| older.start(role));
    let tenant = lodging.tenant().await.moved_to(&serve.1);
    ready(&tenant).await;
    let mut writers = vec![tenant.clone()];
    for _ in 1..WRITERS {
        writers.push(lodging.tenant().await.moved_to(&serve.1));
    }
    for writer in &writers {
        writer.post("/customers", &json!({ "external_id": "ada" })).expect(201).await;
    }
    write_history(&tenant).await;
    until(&tenant, NOTES, |notes| notes["lag_events"] == 0).await;

    let (clients, over) = (watch::Sender::new(tenant.client.clone()), watch::Sender::new(false));
    let mut going = JoinSet::new();
    for (part, writer) in (0..).zip(&writers) {
        going.spawn(write(run.random(part), writer.secret.clone(), clients.subscribe(), over.subscribe()));
    }
    for path in ["/notes?limit=5", "/notes?kind=complaint&limit=5", "/customers?limit=5", "/audit-logs?limit=5"] {
        going.spawn(read(path, clients.subscribe(), over.subscribe()));
    }
    tokio::time::sleep(STEP).await;

    newer.done(&["migrate"]).await;
    tokio::time::sleep(STEP).await;
    let projecting = newer.start("project");
    until(&tenant, NOTES, |notes| notes["revision"] == 2 && notes["building"].is_null()).await;
    run.journal.note("made anew", json!({}));
    tokio::time::sleep(SIDE_BY_SIDE).await;
    end(run, project.0, "the older project").await;
    let (publishing, working) = (newer.start("relay"), newer.start("work"));
    end(run, relay.0, "the older relay").await;
    end(run, work.0, "the older work").await;
    tokio::time::sleep(STEP).await;
    let serving = newer.start("serve");
    ready(&tenant.client.at(&serving.1)).await;
    // What balances load sends clients to the newer one from here on, and lets the older one finish what it has begun.
    clients.send_replace(tenant.client.at(&serving.1));
    tokio::time::sleep(STEP).await;
    end(run, serve.0, "the older serve").await;
    tokio::time::sleep(STEP).await;
    over.send_replace(true);
    let mut written = 0;
    for counted in going.join_all().await {
        written += counted;
    }
    run.count("notes written meanwhile", written);

    assert!(versions(&lodging, &tenant).await.is_superset(&[2, 3].into()), "both have written");
    newer.done(&["projections", "verify", "crm_notes"]).await;
    newer.done(&["verify-log"]).await;
    let shown =
        folded(&tenant.client.at(&serving.1), "/notes", usize::try_from(tenant.events_head().await).unwrap()).await;
    assert!(shown.values().all(|note| note["urgent"] == json!(note["kind"] == "complaint")), "the newer one's rows");
    for (process, _) in [projecting, publishing, working, serving] {
        end(run, process, "a newer process").await;
    }
    lodging.leave().await;
}

async fn write_history(tenant: &Tenant) {
    let written = (0..NOTES_BEFORE).map(|number| async move {
        let note = json!({ "customer": "ext:ada", "kind": KINDS[number % KINDS.len()], "text": number.to_string() });
        tenant.post("/notes", &note).expect(201).await;
    });
    futures::stream::iter(written).buffer_unordered(64).collect::<Vec<()>>().await;
}

/// The versions of `note.written` in the log.
async fn versions(lodging: &Lodging, tenant: &Tenant) -> BTreeSet<i32> {
    let filter = EventFilter { event_type: Some("note.written".into()), stream: None };
    let tenant = domain::TypedId::uuid(&tenant.id);
    let all = lodging.store().read_tenant(tenant, 0, i64::MAX, &filter, i64::MAX).await.unwrap();
    all.iter().map(|event| event.schema_version).collect()
}

fn expect(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
}

/// How far the rows that an answer is made of have come.
fn seen(answer: &Answer) -> i64 {
    answer.header("annals-read-sequence").split('@').next().unwrap().parse().unwrap()
}

/// Writes notes, one after the other, and reads each in every way; gives how many.
async fn write(
    mut random: Random,
    secret: String,
    clients: watch::Receiver<Client>,
    over: watch::Receiver<bool>,
) -> usize {
    let mut written = 0;
    while !*over.borrow() {
        let client = || clients.borrow().with_key(Some(&secret));
        let kind = KINDS[random.below(KINDS.len())];
        let body = json!({ "customer": "ext:ada", "kind": kind, "text": "Asks for engines." });
        let note = client().post("/notes", &body).send().await;
        expect(&note, 201, "a note is written");
        let shown = client().get(&format!("/notes/{}", note.id())).send().await;
        expect(&shown, 200, "and read");
        assert_eq!((&shown.body["kind"], &shown.body["text"]), (&json!(kind), &json!("Asks for engines.")));
        let listed = client().get("/notes?limit=5").after(&note).send().await;
        expect(&listed, 200, "and listed");
        assert!(seen(&listed) >= note.sequence(), "a list shows what was written before it");
        let other =
            client().patch(&format!("/notes/{}", note.id()), &json!({ "text": "Has bought one." })).send().await;
        expect(&other, 200, "and rewritten");
        written += 1;
    }
    written
}

/// Reads a list again and again: it never goes back.
async fn read(path: &str, clients: watch::Receiver<Client>, over: watch::Receiver<bool>) -> usize {
    let mut last = 0;
    while !*over.borrow() {
        let client = clients.borrow().clone();
        let listed = client.get(path).send().await;
        expect(&listed, 200, path);
        let now = seen(&listed);
        assert!(now >= last, "{path} showed {last} and now {now}");
        last = now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    0
}
