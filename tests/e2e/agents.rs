//! Agents and their runs, end to end, against a provider of ours.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::{House, Tenant};
use crate::privacy::erase;
use crate::provider::Provider;
use crate::tests;

tests![
    a_run_goes_its_whole_way,
    whoever_prefers_to_wait_gets_the_end,
    a_run_is_done_in_the_version_that_it_began_with,
    secrets_are_used_and_never_shown,
    a_retry_comes_when_it_is_due,
    what_may_go_better_is_repeated_and_what_may_not_is_not,
    a_busy_provider_is_left_alone_as_long_as_it_asks,
    bad_answers_fail_the_run_with_a_reason,
    a_call_that_is_called_off_ends,
    a_model_is_asked_counted_and_priced,
    one_key_is_one_run,
    what_is_wrong_with_an_agent_is_told,
    what_is_wrong_with_a_run_is_told,
    an_erasure_takes_input_output_and_errors,
    figures_of_agents_follow_their_runs,
];

pub(crate) async fn agent(tenant: &Tenant, body: &Value) -> Answer {
    tenant.post("/agents", body).expect(201).await
}

/// Executes and waits for the end.
pub(crate) async fn run(tenant: &Tenant, agent: &str, body: &Value) -> Answer {
    let path = format!("/agents/{agent}/execute");
    let answer = tenant.post(&path, body).header("prefer", "wait=20").expect(202).await;
    assert!(answer.body["ended_at"].is_string(), "{}", answer.text);
    answer
}

fn input() -> Value {
    json!({"input": {"question": "canary question"}})
}

async fn a_run_goes_its_whole_way(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("ok")).await;
    assert!(agent.id().starts_with("agt_"), "{}", agent.text);
    let taken = tenant.post(&format!("/agents/{}/execute", agent.id()), &input()).expect(202).await;
    assert!(taken.id().starts_with("run_"), "{}", taken.text);
    assert_eq!((&taken.body["status"], &taken.body["attempts"]), (&json!("pending"), &json!(0)));
    let path = format!("/runs/{}", taken.id());
    assert_eq!(taken.header("location"), format!("/api/v1{path}"));
    let done = tenant.until(&path, |run| run["status"] == "succeeded").await;
    let key = format!("{}:1", taken.id());
    assert_eq!(done.body["result"], json!({"key": key, "echo": {"question": "canary question"}}));
    assert_eq!((&done.body["attempts"], &done.body["agent_version"]), (&json!(1), &json!(1)));
    let asked = &provider.calls()[0];
    assert_eq!(asked.headers["x-secret"], "canary-secret-header");
    assert!(asked.headers["user-agent"].to_str().unwrap().starts_with("annals/"));
    assert!(asked.headers.get("authorization").is_none() && asked.headers.get("cookie").is_none(), "nothing of ours");
    let history = tenant.get(&format!("{path}/history")).expect(200).await;
    let types: Vec<&str> = history.data().iter().rev().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["run.requested", "run.attempt_started", "run.succeeded"]);
    let list = tenant.get(&format!("/runs?agent={}&status=succeeded", agent.id())).after(&done_write(&tenant).await);
    let list = list.expect(200).await;
    assert_eq!(list.data()[0]["id"], taken.body["id"], "{}", list.text);
    assert!(
        list.data()[0].get("input").is_none() && !list.text.contains("canary"),
        "lists have no input: {}",
        list.text
    );
    let blind = tenant.key(&["agents:read"]).await;
    let read = blind.get(&path).expect(200).await;
    assert_eq!((&read.body["input"], &read.body["result"]), (&Value::Null, &Value::Null), "{}", read.text);
}

/// Any write after all that was done: whoever waits for it has seen the rest.
async fn done_write(tenant: &Tenant) -> Answer {
    tenant.post("/customers", &json!({})).expect(201).await
}

async fn whoever_prefers_to_wait_gets_the_end(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let quick = agent(&tenant, &provider.agent("wait/200")).await;
    let path = format!("/agents/{}/execute", quick.id());
    let done = tenant.post(&path, &input()).header("prefer", "respond-async, wait=20").expect(202).await;
    assert_eq!(done.body["status"], "succeeded", "{}", done.text);
    assert_eq!(done.header("preference-applied"), "wait=20");
    assert_eq!(done.body, tenant.get(&format!("/runs/{}", done.id())).expect(200).await.body);
    let hanging = agent(&tenant, &provider.agent("hang")).await;
    let path = format!("/agents/{}/execute", hanging.id());
    let waited = tenant.post(&path, &input()).header("prefer", "wait=1").expect(202).await;
    assert!(["pending", "running"].contains(&waited.body["status"].as_str().unwrap()), "{}", waited.text);
    let at_once = tenant.post(&path, &input()).header("prefer", "wait=0").expect(202).await;
    assert_eq!(at_once.body["ended_at"], Value::Null);
    tenant.post(&path, &input()).header("prefer", "wait=soon").problem(400, "bad-request").await;
}

async fn a_run_is_done_in_the_version_that_it_began_with(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("wait/400")).await;
    let first = tenant.post(&format!("/agents/{}/execute", agent.id()), &input()).expect(202).await;
    let mut changed = provider.agent("ok");
    changed.as_object_mut().unwrap().remove("name");
    let configured = tenant.post(&format!("/agents/{}/configure", agent.id()), &changed).expect(200).await;
    assert_eq!((configured.header("etag"), &configured.body["name"]), ("\"2\"", &json!("wait/400")));
    let second = run(&tenant, agent.id(), &input()).await;
    let first = tenant.until(&format!("/runs/{}", first.id()), |run| run["status"] == "succeeded").await;
    assert_eq!((&first.body["agent_version"], &second.body["agent_version"]), (&json!(1), &json!(2)));
    let before = tenant.get(&format!("/agents/{}?as_of={}", agent.id(), agent.sequence())).expect(200).await;
    assert_eq!(before.body["http"]["url"], provider.url("wait/400"));
}

async fn secrets_are_used_and_never_shown(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let made = agent(&tenant, &provider.agent("ok")).await;
    let path = format!("/agents/{}", made.id());
    assert_eq!(made.body["http"]["headers"]["x-secret"], "********");
    let seen = tenant.get(&path).expect(200).await;
    let body = json!({"kind": seen.body["kind"], "http": seen.body["http"], "retry": seen.body["retry"]});
    let configured = tenant.post(&format!("{path}/configure"), &body).expect(200).await;
    assert_eq!(configured.body["timeout_seconds"], 30, "what is left out is as at the beginning");
    run(&tenant, made.id(), &input()).await;
    assert_eq!(provider.calls()[0].headers["x-secret"], "canary-secret-header", "a secret that is sent back stays");
    let last = done_write(&tenant).await;
    for path in [path.clone(), format!("{path}/history"), "/agents".into(), "/events?limit=100".into()] {
        let answer = tenant.get(&path).after(&last).expect(200).await;
        assert!(!answer.text.contains("canary-secret") && !answer.text.contains("$secret"), "{path}: {}", answer.text);
    }
    let mut other = body.clone();
    other["http"]["headers"] = json!({"x-other": "********"});
    let refused = tenant.post(&format!("{path}/configure"), &other).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/http/headers/x-other"], "{}", refused.text);
    // A secret goes nowhere but where it was given for.
    let elsewhere = Provider::start().await;
    let mut moved = body.clone();
    moved["http"]["url"] = json!(elsewhere.url("ok"));
    moved["http"].as_object_mut().unwrap().remove("origin");
    let refused = tenant.post(&format!("{path}/configure"), &moved).problem(422, "validation-failed").await;
    assert_eq!(refused.pointers(), ["/http/headers/x-secret"], "{}", refused.text);
    // What a path or a query may hold is sealed, too.
    let blind = tenant.key(&["agents:read"]).await;
    let seen = blind.get(&path).expect(200).await;
    assert_eq!((&seen.body["http"]["url"], &seen.body["http"]["origin"]), (&Value::Null, &made.body["http"]["origin"]));
}

async fn a_retry_comes_when_it_is_due(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let mut body = provider.agent("flaky/2");
    body["retry"] = json!({"attempts": 3, "initial_seconds": 0, "factor": 1});
    let agent = agent(&tenant, &body).await;
    let (tenant, agent) = (&tenant, agent.id());
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let runs = (0..20).map(|_| async move {
        let run = run(tenant, agent, &input()).await;
        let history = tenant.get(&format!("/runs/{}/history", run.id())).expect(200).await;
        let events: Vec<&Value> = history.data().iter().rev().collect();
        for pair in events.windows(2).filter(|pair| pair[0]["type"] == "run.attempt_failed") {
            let late = time(&pair[1]["data"]["at"]) - time(&pair[0]["data"]["next_attempt_at"]);
            assert!(
                late.num_milliseconds() < 3_000,
                "no claim, which would stand for three seconds, is in its way: {late}"
            );
        }
    });
    futures::future::join_all(runs).await;
}

async fn what_may_go_better_is_repeated_and_what_may_not_is_not(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let outcome = async |manner: &str| {
        let agent = agent(&tenant, &provider.agent(manner)).await;
        let run = run(&tenant, agent.id(), &input()).await;
        let of = |field: &str| run.body[field].clone();
        (of("status"), of("attempts"), run.body["error"]["code"].clone(), run.body["error"]["provider_status"].clone())
    };
    assert_eq!(outcome("flaky/2").await, (json!("succeeded"), json!(3), Value::Null, Value::Null));
    for status in [408, 500, 503] {
        let (ended, attempts, code, told) = outcome(&format!("status/{status}")).await;
        assert_eq!((ended, attempts), (json!("failed"), json!(3)), "{status} may go better");
        assert_eq!((code, told), (json!("provider-status"), json!(status)));
    }
    for status in [400, 401, 404, 422, 418] {
        let (ended, attempts, code, told) = outcome(&format!("status/{status}")).await;
        assert_eq!((ended, attempts), (json!("failed"), json!(1)), "{status} stays as it is");
        assert_eq!((code, told), (json!("provider-status"), json!(status)));
    }
    let keys = provider.keys();
    assert!(keys.values().all(|times| *times == 1), "each attempt has a key of its own: {keys:?}");
}

async fn a_busy_provider_is_left_alone_as_long_as_it_asks(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("busy/1")).await;
    let taken = tenant.post(&format!("/agents/{}/execute", agent.id()), &input()).expect(202).await;
    let path = format!("/runs/{}", taken.id());
    let waits = tenant.until(&path, |run| run["error"]["code"] == "provider-busy").await;
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let wait = time(&waits.body["next_attempt_at"]) - time(&waits.body["started_at"]);
    assert!((1_000..3_000).contains(&wait.num_milliseconds()), "a second as it asked, not our 50 ms: {wait}");
    tenant.until(&path, |run| run["status"] == "succeeded").await;
}

async fn bad_answers_fail_the_run_with_a_reason(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (manner, code, attempts) in [
        ("html", "invalid-response", 1),
        ("endless", "result-too-large", 1),
        ("large/140000", "result-too-large", 1),
        ("redirect/ok", "redirected", 1),
        ("hang", "timed-out", 3),
        ("nobody", "connection", 3),
    ] {
        let mut body = provider.agent(manner);
        body["timeout_seconds"] = json!(1);
        if manner == "nobody" {
            body["http"]["url"] = json!(format!("http://{nobody}/"));
        }
        let agent = agent(&tenant, &body).await;
        let run = run(&tenant, agent.id(), &input()).await;
        let ended = if code == "timed-out" { "timed_out" } else { "failed" };
        assert_eq!(
            (&run.body["status"], &run.body["attempts"]),
            (&json!(ended), &json!(attempts)),
            "{manner}: {}",
            run.text
        );
        assert_eq!(run.body["error"]["code"], code, "{manner}");
        assert_eq!(run.body["result"], Value::Null, "{manner}");
    }
    let large = agent(&tenant, &provider.agent("large/130000")).await;
    let run = run(&tenant, large.id(), &input()).await;
    assert_eq!((&run.body["status"], run.body["result"].as_str().unwrap().len()), (&json!("succeeded"), 130_000));
}

async fn a_call_that_is_called_off_ends(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let mut body = provider.agent("hang");
    body["timeout_seconds"] = json!(60);
    let agent = agent(&tenant, &body).await;
    let taken = tenant.post(&format!("/agents/{}/execute", agent.id()), &input()).expect(202).await;
    let path = format!("/runs/{}", taken.id());
    provider.until_called(1).await;
    let cancelled = tenant.post(&format!("{path}/cancel"), &json!({})).expect(200).await;
    assert_eq!(cancelled.body["status"], "cancelled");
    provider.until_broken_off(1).await;
    tenant.post(&format!("{path}/cancel"), &json!({})).problem(409, "run-ended").await;
    let status = format!("/agents/{}/status", agent.id());
    let idle = tenant.until(&status, |status| status["queue"]["running"] == 0 && status["queue"]["pending"] == 0).await;
    assert_eq!(idle.body["health"], "unknown", "what was called off says nothing: {}", idle.text);
    let history = tenant.get(&format!("{path}/history")).expect(200).await;
    assert_eq!(history.data()[0]["type"], "run.cancelled", "nothing follows the end");
}

async fn a_model_is_asked_counted_and_priced(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let llm = |manner: &str| {
        json!({
            "name": "Model", "kind": "llm",
            "llm": {
                "base_url": provider.url(&format!("llm/{manner}")), "model": "small-1", "system_prompt": "canary prompt",
                "api_key": "canary-secret-key", "prices": {"currency": "USD", "prompt_per_million": 15, "completion_per_million": 60},
            },
        })
    };
    let made = agent(&tenant, &llm("ok")).await;
    assert_eq!(
        (&made.body["llm"]["api_key"], &made.body["llm"]["system_prompt"]),
        (&json!("********"), &json!("canary prompt"))
    );
    let done = run(&tenant, made.id(), &json!({"input": {"prompt": "canary hello"}})).await;
    assert_eq!(done.body["result"], json!({"text": "Hello.", "model": "small-1", "finish_reason": "stop"}));
    assert_eq!(done.body["usage"], json!({"prompt_tokens": 9, "completion_tokens": 12}));
    assert_eq!(done.body["cost"], json!({"amount_micros": 9 * 15 + 12 * 60, "currency": "USD"}));
    let asked = &provider.calls()[0];
    assert_eq!(asked.headers["authorization"], "Bearer canary-secret-key");
    assert_eq!(
        asked.body,
        json!({"model": "small-1", "messages": [
            {"role": "system", "content": "canary prompt"}, {"role": "user", "content": "canary hello"},
        ]})
    );
    let refused = agent(&tenant, &llm("none")).await;
    let failed = run(&tenant, refused.id(), &json!({"input": {"prompt": "canary hello"}})).await;
    assert_eq!((&failed.body["error"]["provider_status"], &failed.body["attempts"]), (&json!(401), &json!(1)));
    assert!(failed.body["error"]["detail"].as_str().unwrap().contains("canary provider words"), "{}", failed.text);
}

async fn one_key_is_one_run(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("ok")).await;
    let path = format!("/agents/{}/execute", agent.id());
    let keyed = || tenant.post(&path, &input()).header("idempotency-key", "once");
    let first = keyed().expect(202).await;
    tenant.until(&format!("/runs/{}", first.id()), |run| run["status"] == "succeeded").await;
    let second = keyed().header("prefer", "wait=5").expect(202).await;
    assert_eq!((second.id(), second.header("idempotent-replayed")), (first.id(), "true"));
    assert_eq!(second.body["status"], "succeeded", "whoever repeats and waits gets the end: {}", second.text);
    let third = keyed().expect(202).await;
    assert_eq!(third.body, first.body, "a replay shows what was answered first");
    let other = json!({"input": {"question": "another"}});
    tenant.post(&path, &other).header("idempotency-key", "once").problem(422, "idempotency-key-reused").await;
    assert_eq!(provider.calls().len(), 1);
}

async fn what_is_wrong_with_an_agent_is_told(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let head = tenant.events_head().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = provider.agent("ok");
        change(&mut body);
        body
    };
    let cases: Vec<(Value, &str)> = vec![
        (with(&|b| b["kind"] = json!("carrier-pigeon")), "/kind"),
        (with(&|b| b["kind"] = json!("llm")), "/llm"),
        (with(&|b| b["http"] = Value::Null), "/http"),
        (with(&|b| b["name"] = json!("")), "/name"),
        (with(&|b| b["timeout_seconds"] = json!(0)), "/timeout_seconds"),
        (with(&|b| b["timeout_seconds"] = json!(601)), "/timeout_seconds"),
        (with(&|b| b["retry"] = json!({"initial_seconds": 1, "factor": 2})), "/retry/attempts"),
        (with(&|b| b["retry"]["attempts"] = Value::Null), "/retry/attempts"),
        (with(&|b| b["retry"]["attempts"] = json!(11)), "/retry/attempts"),
        (with(&|b| b["retry"]["attempts"] = json!(0)), "/retry/attempts"),
        (with(&|b| b["retry"]["initial_seconds"] = json!(-1)), "/retry/initial_seconds"),
        (with(&|b| b["retry"]["factor"] = json!(1e300)), "/retry/factor"),
        (with(&|b| b["http"]["headers"] = json!({"host": "x"})), "/http/headers/host"),
        (with(&|b| b["http"]["headers"] = json!({"Idempotency-Key": "x"})), "/http/headers/Idempotency-Key"),
        (with(&|b| b["http"]["headers"] = json!({"x-a": "b\r\nx-b: c"})), "/http/headers/x-a"),
        (with(&|b| b["http"]["headers"] = json!({"x a": "b"})), "/http/headers/x a"),
        (with(&|b| b["http"]["headers"] = json!({"x-a": "ä"})), "/http/headers/x-a"),
    ];
    for (body, pointer) in cases {
        let refused = tenant.post("/agents", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    for url in [
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://0x0a.1/",
        "http://[::ffff:127.0.0.1]/",
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http://93.184.216.34/",
        "nonsense",
        "http://100.64.0.1/",
        "http://[64:ff9b::7f00:1]/",
        "",
    ] {
        let refused = tenant
            .post("/agents", &with(&|b| b["http"]["url"] = json!(url)))
            .problem(422, "webhook-url-forbidden")
            .await;
        assert_eq!(refused.pointers(), ["/http/url"], "{url}: {}", refused.text);
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn what_is_wrong_with_a_run_is_told(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let agent = agent(&tenant, &provider.agent("ok")).await;
    let head = tenant.events_head().await;
    let path = format!("/agents/{}/execute", agent.id());
    for (body, pointer) in [
        (json!({}), "/input"),
        (json!({"input": "text"}), "/input"),
        (json!({"input": [1]}), "/input"),
        (json!({"input": {"a": {"$sealed": "AQ"}}}), "/input/a/$sealed"),
        (json!({"input": {"a": {"$secret": "AQ"}}}), "/input/a/$secret"),
        (json!({"input": {"text": "x".repeat(131_072)}}), "/input"),
        (json!({"input": {}, "customer": "ext:nobody"}), "/customer"),
        (json!({"input": {}, "task_type": ""}), "/task_type"),
        (json!({"input": {}, "task_type": "advice for Ada"}), "/task_type"),
    ] {
        let refused = tenant.post(&path, &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    tenant.post("/agents/ext:nobody/execute", &input()).problem(404, "not-found").await;
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
    let largest = json!({"input": {"text": "x".repeat(131_072 - r#"{"text":""}"#.len())}});
    let done = run(&tenant, agent.id(), &largest).await;
    assert_eq!(done.body["error"]["code"], "result-too-large", "the echo is larger than what it echoes");
}

async fn an_erasure_takes_input_output_and_errors(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let about = json!({"input": {"question": "canary question"}, "customer": customer.id()});
    let good = agent(&tenant, &provider.agent("ok")).await;
    let bad = agent(&tenant, &provider.agent("status/400")).await;
    let done = run(&tenant, good.id(), &about).await;
    let failed = run(&tenant, bad.id(), &about).await;
    assert!(failed.body["error"]["detail"].as_str().unwrap().starts_with("canary provider words"), "{}", failed.text);
    let metrics = async || {
        let seen = done_write(&tenant).await;
        tenant.get("/agents/metrics").after(&seen).expect(200).await.body["total"].clone()
    };
    let before = metrics().await;
    erase(&tenant, customer.id()).await;
    for run in [&done, &failed] {
        let path = format!("/runs/{}", run.id());
        let read = tenant.get(&path).expect(200).await;
        assert_eq!((&read.body["input"], &read.body["result"]), (&Value::Null, &Value::Null), "{}", read.text);
        assert_eq!(read.body["status"], run.body["status"], "what happened stays");
        let history = tenant.get(&format!("{path}/history")).expect(200).await;
        assert!(!format!("{}{}", read.text, history.text).contains("canary"), "{}", history.text);
    }
    assert_eq!(metrics().await, before, "no figure changes");
    tenant.post(&format!("/agents/{}/execute", good.id()), &about).problem(409, "subject-erased").await;
}

async fn figures_of_agents_follow_their_runs(house: &House) {
    let (tenant, provider) = (house.tenant().await, Provider::start().await);
    let (good, bad) =
        (agent(&tenant, &provider.agent("ok")).await, agent(&tenant, &provider.agent("status/503")).await);
    for _ in 0..4 {
        run(&tenant, good.id(), &input()).await;
    }
    run(&tenant, bad.id(), &input()).await;
    let seen = done_write(&tenant).await;
    let metrics = tenant.get("/agents/metrics").after(&seen).expect(200).await;
    let total = &metrics.body["total"];
    assert_eq!(
        (&total["runs"]["succeeded"], &total["runs"]["failed"], &total["attempts"]),
        (&json!(4), &json!(1), &json!(7))
    );
    assert!((total["success_rate"].as_f64().unwrap() - 0.8).abs() < 1e-9, "{}", metrics.text);
    assert!(total["p50_seconds"].as_f64().unwrap() <= total["p95_seconds"].as_f64().unwrap(), "{}", metrics.text);
    assert_eq!(metrics.body["agents"].as_array().unwrap().len(), 2, "{}", metrics.text);
    let one = tenant.get(&format!("/agents/metrics?agent={}", good.id())).after(&seen).expect(200).await;
    assert_eq!(one.body["total"]["runs"]["succeeded"], 4);
    let health = async |id: &str| {
        tenant.get(&format!("/agents/{id}/status")).after(&seen).expect(200).await.body["health"].clone()
    };
    assert_eq!((health(good.id()).await, health(bad.id()).await), (json!("healthy"), json!("failing")));
    let history = tenant.get(&format!("/agents/execution-history?agent={}", bad.id())).after(&seen).expect(200).await;
    assert_eq!((history.data().len(), &history.data()[0]["status"]), (1, &json!("failed")), "{}", history.text);
    assert_eq!(history.data()[0]["error"], json!({"code": "provider-status"}), "{}", history.text);
    let kpis = tenant.get("/analytics/kpis").after(&seen).expect(200).await;
    assert_eq!(kpis.body["runs"]["value"]["succeeded"], 4, "{}", kpis.text);
}
