//! `kill -9` of everything, under load.

use serde_json::json;

use super::Run;
use super::fleet::Fleet;
use super::load::Load;
use crate::house::Lodging;

const CALLERS: usize = 12;

/// Whom a blow hits.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The database server as a whole.
    Server,
    /// A process of the server that serves a connection of that role: the server breaks all connections off.
    Backend(&'static str),
    /// One of our processes.
    Process(usize),
    /// A caller, in the middle of whatever it does.
    Caller(usize),
}

pub(super) async fn nothing_acknowledged_is_lost_whoever_is_killed(run: &Run) {
    let lodging = Lodging::private(Default::default()).await;
    let fleet = Fleet::start(run, lodging, &["serve", "serve", "project"]).await;
    let load = Load::new(run, fleet.clients(), CALLERS);
    futures::join!(load.work(), strike(run, &fleet, &load));
    load.hold_to_account(&fleet).await;
    fleet.leave(run).await;
}

/// Kills one after the other, each after so many answers more.
async fn strike(run: &Run, fleet: &Fleet, load: &Load<'_>) {
    let (mut random, mut after) = (run.random(1), 0);
    for _ in 0..run.times(10, 100) {
        after += random.between(20, 100);
        load.until_answered(after).await;
        let victim = match random.below(10) {
            0..=1 => Victim::Server,
            2..=3 => Victim::Backend(["annals_writer", "annals_api", "annals_projector"][random.below(3)]),
            4..=7 => Victim::Process(random.below(fleet.len())),
            _ => Victim::Caller(random.below(load.callers())),
        };
        let server = fleet.lodging().server();
        match victim {
            Victim::Server => server.kill(),
            Victim::Backend(role) => {
                let backends = server.backends(role);
                if let Some(pid) = backends.get(random.below(backends.len().max(1))) {
                    crate::server::signal(*pid, "KILL");
                }
            }
            Victim::Process(index) => fleet.signal(index, "KILL"),
            Victim::Caller(caller) => load.kill(caller),
        }
        run.count("kills", 1);
        run.journal.note("kill", json!({ "victim": format!("{victim:?}"), "after": after }));
        if run.is_over() {
            break;
        }
    }
    load.until_answered(load.answered() + 100).await;
    load.stop();
}
