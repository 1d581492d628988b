//! What operators see of processes: where each stands, what it waits for, who is at it, and its last steps.

use domain::tenancy::TestClock;
use serde_json::{Value, json};

use crate::billing::{plan, subscribe};
use crate::client::Client;
use crate::clock::advance;
use crate::house::{House, Lodging, Tenant};
use crate::privacy::erase;
use crate::processes::{Running, ready};
use crate::provider::Provider;
use crate::tests;

tests![
    what_waits_is_shown_with_what_it_waits_for,
    the_steps_of_an_erasure_say_what_caused_what,
    a_clock_has_steps_too,
    pages_of_what_waits_go_on,
    what_is_wrong_with_a_process_is_told,
];

const PROCESSES: &str = "/admin/processes";

async fn listed(client: &Client, filter: &str) -> Vec<Value> {
    client.get(&format!("{PROCESSES}?limit=100{filter}")).expect(200).await.data().to_vec()
}

fn ids(processes: &[Value]) -> Vec<&str> {
    processes.iter().map(|process| process["id"].as_str().unwrap()).collect()
}

/// What `annals processes` prints.
async fn told(lodging: &Lodging, arguments: &[&str]) -> Value {
    let output = lodging.command(&[&["processes"], arguments].concat()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Has an agent of that manner begin a run, which is not waited for.
async fn begun(tenant: &Tenant, provider: &Provider, manner: &str) -> String {
    let mut agent = provider.agent(manner);
    agent["timeout_seconds"] = json!(60);
    agent["retry"] = json!({"attempts": 2, "initial_seconds": 600, "factor": 1.0});
    let agent = tenant.post("/agents", &agent).expect(201).await;
    let body = json!({"input": {"question": "canary question"}});
    tenant.post(&format!("/agents/{}/execute", agent.id()), &body).expect(202).await.id().to_owned()
}

async fn what_waits_is_shown_with_what_it_waits_for(_: &House) {
    let (lodging, provider) = (Lodging::new().await, Provider::start().await);
    let settings = [("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_ERASURE_DELAY_SECONDS", "3600")];
    let serve = Running::start(&lodging, "serve", &settings);
    let (tenant, other) = (lodging.tenant().await, lodging.tenant().await);
    ready(&tenant).await;
    let customer = tenant.post("/customers", &json!({"name": "Canary Name"})).expect(201).await;
    let plan = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let subscription = subscribe(&tenant, customer.id(), plan.id()).await;
    let failing = begun(&tenant, &provider, "status/503").await;

    // Nobody works: what is due now is overdue, what is due in a month is not.
    let all = listed(&tenant, "").await;
    assert_eq!(ids(&all), [failing.as_str(), subscription.id()], "{all:?}");
    let told_of =
        |process: &Value, fields: &[&str]| fields.iter().map(|field| process[*field].clone()).collect::<Vec<_>>();
    let fields = ["kind", "status", "waits_for", "overdue", "holder", "held_until"];
    assert_eq!(
        told_of(&all[0], &fields),
        [json!("run"), json!("pending"), json!("attempt 1"), json!(true), Value::Null, Value::Null]
    );
    assert_eq!(
        told_of(&all[1], &fields[..4]),
        [json!("subscription"), json!("active"), json!("renewal"), json!(false)]
    );
    assert_eq!(all[1]["due_at"], subscription.body["current_period"]["end"]);
    assert_eq!(ids(&listed(&tenant, "&overdue=true").await), [failing.as_str()]);
    assert_eq!(ids(&listed(&tenant, "&kind=subscription").await), [subscription.id()]);
    assert!(listed(&tenant, "&kind=subscription&overdue=true").await.is_empty());

    // Each tenant sees its own; the command line sees all.
    assert!(listed(&other, "").await.is_empty());
    for id in [failing.as_str(), subscription.id()] {
        other.get(&format!("{PROCESSES}/{id}")).problem(404, "not-found").await;
    }
    let theirs = begun(&other, &provider, "hang").await;
    assert_eq!(ids(told(&lodging, &["list"]).await["data"].as_array().unwrap()).len(), 3);
    let one = told(&lodging, &["list", "--tenant", &other.id.to_string(), "--overdue", "--kind", "run"]).await;
    assert_eq!(ids(one["data"].as_array().unwrap()), [theirs.as_str()]);

    // Somebody works: an erasure waits for the end of its delay, a run for its next attempt, another for an answer.
    let work = Running::start(&lodging, "work", &[settings[0], ("ANNALS_LISTEN", &lodging.free_address())]);
    let request = json!({"customer": customer.id(), "kind": "erasure"});
    let request = tenant.post("/privacy/requests", &request).expect(202).await;
    let path = format!("{PROCESSES}/{}", request.id());
    for _ in 0..600 {
        if tenant.get(&path).send().await.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let filed = tenant.get(&path).expect(200).await;
    assert_eq!(told_of(&filed.body, &fields[..4]), [json!("erasure"), json!("idle"), json!("approval"), json!(false)]);
    let approve = format!("/privacy/requests/{}/approve", request.id());
    let approved = tenant.approver.post(&approve, &json!({})).expect(200).await;
    let waits = tenant.until(&path, |process| process["status"] == "waiting").await;
    assert_eq!(waits.body["waits_for"], "the end of the delay");
    assert_eq!((&waits.body["due_at"], &waits.body["overdue"]), (&approved.body["execute_after"], &json!(false)));
    let failed = tenant.until(&format!("{PROCESSES}/{failing}"), |process| process["waits_for"] == "attempt 2").await;
    let run = tenant.get(&format!("/runs/{failing}")).expect(200).await;
    assert_eq!(failed.body["due_at"], run.body["next_attempt_at"]);
    let last = &failed.body["steps"][0];
    assert_eq!((&last["type"], &last["error"]), (&json!("run.attempt_failed"), &json!("provider-status")), "{last}");
    assert_eq!((&last["waits_until"], &last["cause"]), (&failed.body["due_at"], &json!(format!("{failing}:1"))));
    let held = other.until(&format!("{PROCESSES}/{theirs}"), |process| process["holder"].is_string()).await;
    assert_eq!(held.body["waits_for"], "the answer to attempt 1");
    assert_eq!((&held.body["due_at"], &held.body["overdue"]), (&Value::Null, &json!(false)));
    assert!(held.body["held_until"].is_string(), "{}", held.text);
    assert!(listed(&tenant, "&overdue=true").await.is_empty());
    let shown = told(&lodging, &["show", waits.body["id"].as_str().unwrap()]).await;
    assert_eq!((&shown["tenant"], &shown["status"]), (&json!(tenant.id.to_string()), &json!("waiting")));
    for text in [&filed.text, &waits.text, &failed.text, &held.text, &shown.to_string()] {
        assert!(!text.to_lowercase().contains("canary"), "{text}");
    }
    let output = lodging.command(&["processes", "show", customer.id()]).output().await.unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is no process"));
    drop(provider);
    assert_eq!((work.end().await, serve.end().await), (0, 0));
    lodging.leave().await;
}

async fn the_steps_of_an_erasure_say_what_caused_what(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"name": "Canary Name"})).expect(201).await;
    let request = erase(&tenant, customer.id()).await;
    let path = format!("{PROCESSES}/{}", request.id());
    let done = tenant.until(&path, |process| process["status"] == "done").await;
    assert!(done.id().starts_with("era_"), "{}", done.text);
    assert_eq!((&done.body["waits_for"], &done.body["due_at"]), (&Value::Null, &Value::Null));
    assert!(!listed(&tenant, "").await.iter().any(|process| process["id"] == done.body["id"]), "it waits no more");
    let steps = done.body["steps"].as_array().unwrap();
    let heard = tenant.get(&format!("/privacy/requests/{}/history", request.id())).expect(200).await;
    assert_eq!(heard.data().len(), 4, "{}", heard.text);
    // The first step was caused by an event, and each command caused one that is named.
    assert!(steps.last().unwrap()["cause"].is_string(), "{}", done.text);
    let sent: Vec<_> = steps.iter().rev().filter(|step| step["sends"].is_object()).collect();
    let effects = |step: &Value| {
        step["sends"]["effects"].as_array().unwrap().iter().map(|effect| effect["type"].clone()).collect::<Vec<_>>()
    };
    let expected = [
        ("start_request", request.id(), vec!["privacy_request.started"]),
        ("begin_erasure", customer.id(), vec!["customer.erasure_begun"]),
        ("destroy_keys", customer.id(), vec![]),
        ("complete_erasure", customer.id(), vec!["customer.erased"]),
        ("complete_request", request.id(), vec!["privacy_request.completed"]),
    ];
    assert_eq!(sent.len(), expected.len(), "{}", done.text);
    for (step, (command, to, caused)) in sent.into_iter().zip(expected) {
        assert_eq!((&step["sends"]["command"], &step["sends"]["to"]), (&json!(command), &json!(to)));
        assert_eq!(effects(step), caused, "{step}");
    }
    let outcomes: Vec<_> = steps.iter().rev().filter_map(|step| step["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["done", "done", "keys_destroyed", "done", "done"]);
    assert!(!done.text.to_lowercase().contains("canary"), "{}", done.text);
}

async fn a_clock_has_steps_too(house: &House) {
    let tenant = house.test_tenant().await;
    advance(&tenant, commands::clock::now() + chrono::TimeDelta::days(3)).await;
    let path = format!("{PROCESSES}/{}", TestClock::id(tenant.id));
    let clock = tenant.get(&path).expect(200).await;
    assert_eq!((&clock.body["kind"], &clock.body["status"]), (&json!("test_clock"), &json!("ready")));
    let types: Vec<_> = clock.body["steps"].as_array().unwrap().iter().map(|step| step["type"].clone()).collect();
    assert_eq!(types, ["test_clock.advanced", "test_clock.advance_begun", "test_clock.started"]);
}

async fn pages_of_what_waits_go_on(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let plan = tenant.post("/plans", &plan(1_000, "month")).expect(201).await;
    let mut begun = Vec::new();
    for _ in 0..5 {
        begun.push(subscribe(&tenant, customer.id(), plan.id()).await.id().to_owned());
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = tenant.get(&format!("{PROCESSES}?limit=2{cursor}")).expect(200).await;
        seen.extend(ids(page.data()).into_iter().map(str::to_owned));
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, begun, "the longest due first");
}

async fn what_is_wrong_with_a_process_is_told(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    for id in [
        "run_01h455vb4pex5vsknk084sn02q",
        "era_01h455vb4pex5vsknk084sn02q",
        "clk_01h455vb4pex5vsknk084sn02q",
        "prq_01h455vb4pex5vsknk084sn02q",
        "nothing",
        customer.id(),
    ] {
        tenant.get(&format!("{PROCESSES}/{id}")).problem(404, "not-found").await;
    }
    for (query, pointer) in [("kind=order", "?kind"), ("overdue=perhaps", "?overdue"), ("limit=0", "?limit")] {
        let refused = tenant.get(&format!("{PROCESSES}?{query}")).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    tenant.get(&format!("{PROCESSES}?tenant={}", tenant.id)).problem(422, "unknown-field").await;
    tenant.get(&format!("{PROCESSES}?cursor=abc")).problem(400, "invalid-cursor").await;
    let without = tenant.key(&["commerce:read", "audit:read", "billing:read"]).await;
    without.get(PROCESSES).problem(403, "forbidden").await;
    without.get(&format!("{PROCESSES}/run_01h455vb4pex5vsknk084sn02q")).problem(403, "forbidden").await;
    house.visitor().get(PROCESSES).problem(401, "unauthenticated").await;
}
