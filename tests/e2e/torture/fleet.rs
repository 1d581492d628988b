//! The processes of a house under torture. Whatever ends is started again, as a service manager would.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use domain::TypedId;
use eventstore::{EventFilter, RecordedEvent};
use serde_json::json;
use tokio::task::JoinHandle;

use super::Run;
use crate::client::Client;
use crate::house::{Lodging, Tenant, connect};
use crate::processes::{Running, ready};

/// See the module. Its processes end when it is dropped.
pub(crate) struct Fleet {
    pub(crate) tenant: Tenant,
    kept: Arc<Kept>,
    keeper: JoinHandle<()>,
}

/// What is started again where it ends.
struct Kept {
    lodging: Lodging,
    members: Vec<Member>,
    /// Whether the server stays down.
    server_rests: AtomicBool,
}

struct Member {
    role: &'static str,
    address: String,
    log: PathBuf,
    settings: Vec<(&'static str, String)>,
    running: Mutex<Option<Running>>,
}

impl Fleet {
    /// Processes of these roles, without Kafka, and a tenant.
    pub(crate) async fn start(run: &Run, lodging: Lodging, roles: &[&'static str]) -> Self {
        let members: Vec<_> = roles.iter().map(|role| (*role, Vec::new())).collect();
        Self::start_with(run, lodging, members).await
    }

    /// The same, with settings of their own.
    pub(crate) async fn start_with(
        run: &Run,
        lodging: Lodging,
        members: Vec<(&'static str, Vec<(&'static str, String)>)>,
    ) -> Self {
        let member = |(index, (role, settings)): (usize, (&'static str, Vec<_>))| {
            let (address, log) = (lodging.free_address(), run.journal.path(&format!("{role}-{index}.log")));
            let running = Mutex::new(Some(start(&lodging, role, &address, &log, &settings)));
            Member { role, address, log, settings, running }
        };
        let members = members.into_iter().enumerate().map(member).collect();
        let tenant = lodging.tenant().await;
        let kept = Arc::new(Kept { lodging, members, server_rests: AtomicBool::new(false) });
        let keeper = tokio::spawn(keep(Arc::downgrade(&kept)));
        let fleet = Self { tenant, kept, keeper };
        fleet.ready().await;
        fleet
    }

    pub(crate) fn lodging(&self) -> &Lodging {
        &self.kept.lodging
    }

    /// The processes that answer the API.
    fn serving(&self) -> impl Iterator<Item = &Member> {
        self.kept.members.iter().filter(|member| matches!(member.role, "serve" | "all"))
    }

    /// A client of the tenant at each process that answers the API.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.serving().map(|member| self.tenant.at(&member.address)).collect()
    }

    /// The tenant at one of them.
    pub(crate) fn tenant_at(&self, index: usize) -> Tenant {
        self.tenant.moved_to(&self.serving().nth(index).unwrap().address)
    }

    /// Another tenant, at one of them.
    pub(crate) async fn other_tenant_at(&self, index: usize) -> Tenant {
        let other = self.lodging().tenant().await;
        other.moved_to(&self.serving().nth(index).unwrap().address)
    }

    /// Waits until all that answer the API are ready.
    pub(crate) async fn ready(&self) {
        for client in self.clients() {
            ready(&client).await;
        }
    }

    /// Sends a signal to the process of that number.
    pub(crate) fn signal(&self, index: usize, name: &str) {
        self.kept.members[index].running.lock().unwrap().as_ref().unwrap().signal(name);
    }

    /// The tenant's log, in order, by connections of its own: those of the lodging may be broken.
    pub(crate) async fn log(&self) -> Vec<RecordedEvent> {
        let store = connect(&self.lodging().dsn).await;
        let all = store.read_tenant(self.tenant.id.uuid(), 0, i64::MAX, &EventFilter::default(), i64::MAX).await;
        let life = store.tail().incarnation();
        store.close().await;
        assert_eq!(life, 1, "a log that has lost nothing goes on in its first life");
        all.unwrap()
    }

    /// How many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.kept.members.len()
    }

    /// Whether the server stays down where it ends.
    pub(crate) fn let_server_rest(&self, rests: bool) {
        self.kept.server_rests.store(rests, Ordering::SeqCst);
    }

    /// Ends everything in good order.
    pub(crate) async fn leave(self, run: &Run) {
        self.keeper.abort();
        for member in &self.kept.members {
            let code = take(member).end().await;
            run.journal.note("ended", json!({ "role": member.role, "code": code }));
            assert_eq!(code, 0, "{} ends well", member.role);
        }
        self.lodging().leave().await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.keeper.abort();
        for member in &self.kept.members {
            if let Some(running) = member.running.lock().unwrap().as_mut() {
                running.kill_now();
            }
        }
    }
}

fn take(member: &Member) -> Running {
    member.running.lock().unwrap().take().unwrap()
}

fn start(lodging: &Lodging, role: &str, address: &str, log: &Path, settings: &[(&str, String)]) -> Running {
    // A line for each request would be most of what is written.
    let log_lines = ("ANNALS_LOG", "info,api::edge=warn");
    let mut all = vec![("ANNALS_LISTEN", address), ("ANNALS_KAFKA_BROKERS", ""), log_lines];
    all.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
    let output = std::fs::File::options().create(true).append(true).open(log).unwrap();
    Running::start_into(lodging, role, &all, output.into())
}

async fn keep(kept: Weak<Kept>) {
    while let Some(kept) = kept.upgrade() {
        for member in &kept.members {
            let mut running = member.running.lock().unwrap();
            if running.as_mut().is_some_and(Running::has_ended) {
                *running = Some(start(&kept.lodging, member.role, &member.address, &member.log, &member.settings));
            }
        }
        if let Some(server) = kept.lodging.private_server()
            && !server.runs()
            && !kept.server_rests.load(Ordering::SeqCst)
        {
            server.try_up().await;
        }
        drop(kept);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
