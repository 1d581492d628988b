//! Hosts that are killed and stopped while they work: every attempt reaches its provider, is answered once in the log, and
//! no run is lost or stuck.

use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;
use std::time::Duration;

use eventstore::EventFilter;
use serde_json::{Value, json};

use super::Run;
use crate::agents::agent;
use crate::hosts::{host, served};
use crate::house::{Lodging, Tenant};
use crate::processes::Running;
use crate::provider::Provider;
use crate::random::Random;

/// How many hosts there are, and after how many runs one of them is killed or stopped.
const HOSTS: usize = 3;
const EACH: usize = 20;
/// How long a host is stopped, in seconds: longer than a claim is good for, so it wakes up in the middle of what others
/// have done.
const STOPPED: Duration = Duration::from_secs(4);

/// What the log says of each run: its attempts, and how many outcomes each has.
async fn outcomes(lodging: &Lodging, tenant: &Tenant) -> HashMap<String, BTreeMap<i64, usize>> {
    let store = lodging.store();
    let tenant_id = domain::TypedId::uuid(&tenant.id);
    let all = store.read_tenant(tenant_id, 0, i64::MAX, &EventFilter::default(), i64::MAX).await.unwrap();
    let mut runs = HashMap::<String, BTreeMap<i64, usize>>::new();
    for event in all.iter().filter(|event| event.stream_type == "agents.run") {
        let id = domain::RunId::from(event.stream_id).to_string();
        let data: Value = serde_json::from_str(event.payload.as_deref().unwrap()).unwrap();
        let attempts = runs.entry(id).or_default();
        let Some(attempt) = data["attempt"].as_i64() else { continue };
        let answered = usize::from(event.event_type != "run.attempt_started");
        *attempts.entry(attempt).or_default() += answered;
    }
    runs
}

pub(super) async fn runs_survive_hosts_that_are_killed_and_stopped(run: &Run) {
    let (lodging, serve, tenant) = served().await;
    let provider = Provider::start().await;
    let mut random = run.random(1);
    let mut agents = Vec::new();
    for manner in ["ok", "wait/100", "wait/700", "flaky/1", "status/400"] {
        agents.push(agent(&tenant, &provider.agent(manner)).await.id().to_owned());
    }
    let mut hosts: Vec<Running> = (0..HOSTS).map(|_| host(&lodging)).collect();
    let mut runs = Vec::new();
    for blow in 0..run.times(10, 1_000) {
        for _ in 0..EACH {
            let path = format!("/agents/{}/execute", agents[random.below(agents.len())]);
            let taken = tenant.post(&path, &json!({"input": {"n": runs.len()}})).expect(202).await;
            runs.push(taken.id().to_owned());
        }
        strike(run, &lodging, &mut hosts, &mut random).await;
        // Some of the first are there until the end; the work must not pile up behind those who do it.
        if let Some(earlier) = blow.checked_sub(10) {
            until_ended(&tenant, &runs[earlier * EACH]).await;
        }
        if run.is_over() {
            break;
        }
    }
    for run in &runs {
        until_ended(&tenant, run).await;
    }
    run.count("runs", runs.len());
    account(&runs, &provider.keys(), &outcomes(&lodging, &tenant).await);
    for process in hosts {
        process.kill().await;
    }
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn until_ended(tenant: &Tenant, run: &str) {
    tenant.until(&format!("/runs/{run}"), |run| run["ended_at"].is_string()).await;
}

/// One of the hosts is killed, and another comes for it; or it is stopped for a while.
async fn strike(run: &Run, lodging: &Lodging, hosts: &mut [Running], random: &mut Random) {
    let (victim, kills) = (random.below(HOSTS), random.below(2) == 0);
    run.journal.note("blow", json!({ "host": victim, "kills": kills }));
    run.count("hosts killed or stopped", 1);
    if kills {
        hosts[victim].signal("KILL");
        let killed = std::mem::replace(&mut hosts[victim], host(lodging));
        killed.kill().await;
        return;
    }
    hosts[victim].signal("STOP");
    let pid = hosts[victim].pid();
    tokio::spawn(async move {
        tokio::time::sleep(STOPPED).await;
        // It may have been killed meanwhile.
        let _ = std::process::Command::new("kill").args(["-s", "CONT", &pid]).stderr(Stdio::null()).status();
    });
}

/// What was called is in the log, and what is in the log was called, and answered once.
fn account(runs: &[String], keys: &HashMap<String, usize>, logged: &HashMap<String, BTreeMap<i64, usize>>) {
    assert_eq!(logged.len(), runs.len());
    for (run, attempts) in logged {
        for (attempt, answered) in attempts {
            let called = keys.get(&format!("{run}:{attempt}")).copied().unwrap_or_default();
            assert!(called >= 1, "{run}:{attempt} never reached the provider");
            assert_eq!(*answered, 1, "{run}:{attempt} has one outcome");
        }
    }
    for key in keys.keys() {
        let (run, attempt) = key.split_once(':').unwrap();
        assert!(logged[run].contains_key(&attempt.parse().unwrap()), "{key} was called and is not in the log");
    }
}
