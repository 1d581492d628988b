//! The topic as operators and other programs have it: who publishes, what is checked, what any client reads there.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::admin::{AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::broker::Broker;
use crate::client::Client;
use crate::house::{House, Lodging, Tenant};
use crate::lodging::{dev_file, root};
use crate::operations::verified;
use crate::orders::order;
use crate::processes::{Running, ready};
use crate::restored::answered;
use crate::tests;
use crate::topic::{Published, Topic};

tests![
    a_leader_that_is_killed_or_hangs_is_taken_over,
    a_projector_that_is_killed_or_hangs_is_taken_over,
    without_kafka_a_projector_that_is_killed_or_hangs_is_taken_over,
    lists_go_on_while_kafka_is_away,
    a_topic_that_is_not_as_it_should_be_is_named_and_worked_with,
    a_topic_that_cannot_be_worked_with_is_named,
    any_cloud_events_client_reads_the_topic,
    every_message_is_as_the_asyncapi_document_says,
];

/// How long it may take until another process publishes.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);

async fn relay(client: &Client) -> Value {
    client.get("!/health/ready").expect(200).await.body["checks"]["relay"].clone()
}

/// A member that Kafka does not hear of loses all that it was given; what is in the log must be read from there.
async fn lists_go_on_while_kafka_is_away(_: &House) {
    let (lodging, broker) = (Lodging::new().await, Broker::start().await);
    let kafka = [("ANNALS_KAFKA_BROKERS", broker.address())];
    let kafka = kafka.each_ref().map(|(name, value)| (*name, value.as_str()));
    let running = Running::start(&lodging, "all", &kafka);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let written = async |name: &str| {
        let made = tenant.post("/customers", &json!({"external_id": name})).expect(201).await;
        let list = answered(|| tenant.get("/customers?limit=1").after(&made)).await;
        assert_eq!(list.data()[0]["id"], made.id(), "{}", list.text);
        answered(|| tenant.get("/analytics/kpis").after(&made)).await;
    };
    written("with Kafka").await;
    broker.kill();
    let no_slots = async || {
        let shown = tenant.get("!/health/ready").expect(200).await.body["checks"]["projectors"].clone();
        shown.as_object().unwrap().values().all(|projector| projector["state"] != "live")
    };
    while !no_slots().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for n in 0..3 {
        written(&format!("without Kafka {n}")).await;
    }
    assert_eq!(running.end().await, 0);
    let running = Running::start(&lodging, "all", &kafka);
    tenant.until_answers().await;
    written("begun without Kafka").await;
    broker.up().await;
    written("with Kafka again").await;
    ready(&tenant).await;
    verified(&lodging, "commerce_customers").await;
    assert_eq!(running.end().await, 0);
    lodging.leave().await;
}

/// The one of these relays that leads.
async fn leader(relays: &[(Running, Client)]) -> usize {
    for _ in 0..600 {
        for (index, (_, client)) in relays.iter().enumerate() {
            if client.try_get("!/health/ready").await == Some(200) && relay(client).await["leading"] == true {
                return index;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody publishes");
}

async fn a_leader_that_is_killed_or_hangs_is_taken_over(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let start = || {
        let address = lodging.free_address();
        (Running::start(&lodging, "relay", &[("ANNALS_LISTEN", &address)]), tenant.at(&address))
    };
    let mut relays = vec![start(), start()];
    for (_, client) in &relays {
        ready(client).await;
    }
    let topic = Topic::shared(&lodging.topic);
    let (mut took, mut placed) = (Vec::new(), 0);
    for round in 0..5 {
        let leads = leader(&relays).await;
        placed += 1;
        tenant.post("/customers", &json!({"external_id": format!("before-{round}")})).expect(201).await;
        let tail = topic.tail();
        let begun = Instant::now();
        let (was, stopped) = (relays.swap_remove(leads), round % 2 == 1);
        was.0.signal(if stopped { "STOP" } else { "KILL" });
        placed += 1;
        let created = tenant.post("/customers", &json!({"external_id": format!("after-{round}")})).expect(201).await;
        let id = created.id().to_owned();
        tokio::task::spawn_blocking(move || tail.until(|message| message.body["subject"] == *id)).await.unwrap();
        took.push(begun.elapsed());
        if stopped {
            // It wakes up and finds that another one leads.
            was.0.signal("CONT");
            relays.push(was);
            for _ in 0..200 {
                let leading = [relay(&relays[0].1).await, relay(&relays[1].1).await];
                if leading.iter().filter(|relay| relay["leading"] == true).count() == 1 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } else {
            let another = start();
            ready(&another.1).await;
            relays.push(another);
        }
    }
    took.sort_unstable();
    eprintln!("a leader was taken over from in {took:?}");
    assert!(took[took.len() / 2] < TAKEN_OVER_WITHIN, "{took:?}");
    // Whatever each of them did: nothing is missing, and each tenant's events come in order.
    let (sequences, gaps) = topic.consume();
    let last = tenant.events_head().await;
    assert_eq!(gaps, 0);
    assert_eq!(sequences[&tenant.id.to_string()], (1..=last).collect::<Vec<_>>(), "{placed} were placed");
    for (relay, _) in relays {
        assert_eq!(relay.end().await, 0);
    }
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn a_projector_that_is_killed_or_hangs_is_taken_over(_: &House) {
    // Kafka gives up a member that it has not heard of for six seconds.
    projectors_are_taken_over(&[], Duration::from_secs(9)).await;
}

async fn without_kafka_a_projector_that_is_killed_or_hangs_is_taken_over(_: &House) {
    projectors_are_taken_over(&[("ANNALS_KAFKA_BROKERS", "")], Duration::from_secs(5)).await;
}

/// Two processes share the slots, and of these one is lost: whose slots those were is seen again by all tenants.
async fn projectors_are_taken_over(kafka: &[(&str, &str)], within: Duration) {
    let lodging = Lodging::new().await;
    let start = |role| {
        let address = lodging.free_address();
        let settings: Vec<_> = kafka.iter().copied().chain([("ANNALS_LISTEN", address.as_str())]).collect();
        (Running::start(&lodging, role, &settings), address)
    };
    let serve = Running::start(&lodging, "serve", kafka);
    let relay = kafka.is_empty().then(|| start("relay").0);
    let mut tenants = vec![lodging.tenant().await];
    ready(&tenants[0]).await;
    for _ in 1..8 {
        tenants.push(lodging.tenant().await);
    }
    let mut projectors = std::collections::VecDeque::from([start("project"), start("project")]);
    let first = tenants[0].post("/customers", &json!({})).expect(201).await;
    answered(|| tenants[0].get("/customers").after(&first)).await;
    let mut took = Vec::new();
    for round in 0..4 {
        let live = |runner: &Value| runner["state"] == "live" && (1..64).contains(&runner["slots"].as_i64().unwrap());
        let shared = |shown: &Value| {
            let runners = shown["runners"].as_array().unwrap();
            runners.len() == 2 && runners.iter().all(live)
        };
        tenants[0].until("/admin/projections/commerce_customers", shared).await;
        let (was, address) = projectors.pop_front().unwrap();
        let stopped = round % 2 == 1;
        was.signal(if stopped { "STOP" } else { "KILL" });
        let begun = Instant::now();
        let seen = tenants.iter().map(|tenant| async move {
            let made = tenant.post("/customers", &json!({})).expect(201).await;
            answered(|| tenant.get("/customers?limit=1").after(&made)).await
        });
        futures::future::join_all(seen).await;
        took.push(begun.elapsed());
        if stopped {
            was.signal("CONT");
            projectors.push_back((was, address));
        } else {
            projectors.push_back(start("project"));
        }
    }
    eprintln!("projectors were taken over from in {took:?}");
    assert!(took.iter().all(|took| *took < within), "{took:?}");
    for (projector, _) in projectors {
        assert_eq!(projector.end().await, 0);
    }
    for process in relay.into_iter().chain([serve]) {
        assert_eq!(process.end().await, 0);
    }
    lodging.leave().await;
}

/// Waits until readiness is so, and gives what it says of the relay.
async fn until_status(tenant: &Tenant, status: &str, topic: impl Fn(&Value) -> bool) -> Value {
    let mut told = Value::Null;
    for _ in 0..600 {
        told = tenant.get("!/health/ready").expect(200).await.body;
        if told["status"] == status && topic(&told["checks"]["relay"]) {
            return told["checks"]["relay"].clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {status}: {told}");
}

async fn a_topic_that_is_not_as_it_should_be_is_named_and_worked_with(_: &House) {
    let lodging = Lodging::new().await;
    let topic = Topic::shared(&lodging.topic);
    let made = NewTopic::new(&topic.name, 4, TopicReplication::Fixed(1))
        .set("retention.ms", "3600000")
        .set("retention.bytes", "1000000000")
        .set("max.message.bytes", "20000");
    topic.admin().create_topics([&made], &Topic::options()).await.unwrap();
    let log = std::fs::File::create(lodging.log_file()).unwrap();
    let all = Running::start_into(&lodging, "all", &[], log.into());
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let told = until_status(&tenant, "degraded", |relay| relay["topic"].is_array()).await;
    let faults: Vec<&str> = told["topic"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect();
    let named = ["4 partitions", "ANNALS_KAFKA_RETENTION_HOURS", "retention.bytes", "max.message.bytes"];
    assert!(faults.iter().zip(named).all(|(fault, name)| fault.contains(name)) && faults.len() == 4, "{faults:?}");
    let log = std::fs::read_to_string(lodging.log_file()).unwrap();
    assert!(faults.iter().all(|fault| log.contains(&fault.replace('"', "\\\""))), "the log names them too: {log}");

    // What fits goes whole, what does not as a stub, and both are read.
    tenant.post("/customers", &json!({"external_id": "c", "name": "Ada"})).expect(201).await;
    let long = json!({"customer": "ext:c", "text": "\u{1F3B5}".repeat(5_000)});
    let long = tenant.post("/notes", &long).expect(201).await;
    let short = tenant.post("/notes", &json!({"customer": "ext:c", "text": "short"})).expect(201).await;
    assert_eq!(tenant.get("/notes").after(&short).expect(200).await.data().len(), 2);
    let stubs_of = stubs(&topic, short.id()).await;
    assert_eq!((stubs_of[long.id()], stubs_of[short.id()]), (true, false));

    // It is mended while all goes on: the sizes and partitions are new, and nobody is restarted.
    let mended = AlterConfig::new(ResourceSpecifier::Topic(&topic.name))
        .set("retention.ms", "604800000")
        .set("max.message.bytes", "1048576");
    topic.admin().alter_configs([&mended], &Topic::options()).await.unwrap();
    topic.admin().create_partitions([&NewPartitions::new(&topic.name, 8)], &Topic::options()).await.unwrap();
    until_status(&tenant, "ready", |relay| relay["leading"] == true).await;
    for _ in 0..3 {
        // Slots that have moved to another partition are fed from there.
        let other = lodging.tenant().await;
        let placed = other.post("/customers", &json!({"external_id": "c"})).expect(201).await;
        assert_eq!(answered(|| other.get("/customers").after(&placed)).await.data().len(), 1);
    }
    let long =
        tenant.post("/notes", &json!({"customer": "ext:c", "text": "\u{1F3B6}".repeat(5_000)})).expect(201).await;
    assert_eq!(answered(|| tenant.get("/notes").after(&long)).await.data().len(), 3);
    assert!(!stubs(&topic, long.id()).await[long.id()], "it goes whole now");
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

/// Waits until a stream is in the topic; answers of every stream whether its last event is a stub.
async fn stubs(topic: &Topic, subject: &str) -> HashMap<String, bool> {
    topic.until_has(subject).await;
    let stub = |message: &Published| Some((message.body["subject"].as_str()?.to_owned(), message.is_stub()));
    topic.read().iter().filter_map(stub).collect()
}

async fn a_topic_that_cannot_be_worked_with_is_named(_: &House) {
    for (partitions, setting, named) in [
        (12, ("cleanup.policy", "delete"), "12 partitions"),
        (8, ("cleanup.policy", "compact"), "cleanup.policy is `compact`"),
        (8, ("max.message.bytes", "4000"), "max.message.bytes is 4000"),
    ] {
        let lodging = Lodging::new().await;
        let topic = Topic::shared(&lodging.topic);
        let made = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1)).set(setting.0, setting.1);
        topic.admin().create_topics([&made], &Topic::options()).await.unwrap();
        let all = Running::start(&lodging, "all", &[]);
        let tenant = lodging.tenant().await;
        ready(&tenant).await;
        let told = until_status(&tenant, "degraded", |relay| relay["error"].is_string()).await;
        assert!(told["error"].as_str().unwrap().contains(named), "{told}");
        // Commands and reads by id need none of it.
        let created = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
        tenant.get(&format!("/customers/{}", created.id())).expect(200).await;
        assert_eq!(all.end().await, 0);
        lodging.leave().await;
    }
}

/// Some of everything, and the last sequence of it.
async fn some_events(tenant: &Tenant) -> i64 {
    let body = json!({"external_id": "c", "name": "Ada Łovelace \"\u{1F3B5}\"", "email": "ada@example.com"});
    tenant.post("/customers", &body).expect(201).await;
    tenant.patch("/customers/ext:c", &json!({"country": "GB"})).expect(200).await;
    tenant.post("/notes", &json!({"customer": "ext:c", "text": "likes jazz"})).expect(201).await;
    for amount in 1..=20 {
        tenant.post("/orders", &order("ext:c", amount)).expect(201).await;
    }
    let llm = json!({"base_url": "https://models.example.com/v1", "model": "small", "api_key": "hidden"});
    tenant.post("/agents", &json!({"name": "Model", "kind": "llm", "llm": llm})).expect(201).await;
    tenant.events_head().await
}

/// kcat reads, the SDK of CloudEvents for Python parses: neither knows anything of us.
async fn any_cloud_events_client_reads_the_topic(house: &House) {
    let tenant = house.tenant().await;
    let last = some_events(&tenant).await;
    let topic = Topic::shared(&house.lodging.topic);
    let mut events = Vec::new();
    for _ in 0..100 {
        let kcat =
            ["-C", "-e", "-q", "-J", "-o", "beginning", "-X", "group.id=kcat", "-b", &topic.brokers, "-t", &topic.name];
        let read = Command::new("kcat").args(kcat).output().await.expect("kcat is there");
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        events = parsed(&read.stdout, &tenant).await;
        if events.len() >= usize::try_from(last).unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = tenant.get("/events?after=0&limit=100").expect(200).await;
    // In order and whole: the sequences are dense.
    let sequences: Vec<i64> = events.iter().map(|event| text(&event["annalssequence"]).parse().unwrap()).collect();
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    for event in &events {
        assert_eq!(event["source"], format!("/tenants/{}", tenant.id));
        let schema = house.visitor().get(&format!("!{}", text(&event["dataschema"]))).expect(200).await;
        assert_eq!(schema.header("content-type"), "application/schema+json");
        let told = told
            .data()
            .iter()
            .find(|told| text(&event["annalssequence"]).parse() == Ok(told["sequence"].as_i64().unwrap()));
        let told = told.unwrap_or_else(|| panic!("the API does not know {event}"));
        assert_eq!((&event["type"], &event["annalsactor"]), (&told["type"], &told["actor"]));
        assert_eq!(
            (&event["subject"], &event["annalsversion"]),
            (&told["stream"], &json!(told["version"].to_string()))
        );
        if event["type"] == "order.placed" {
            assert_eq!(event["data"], told["data"]);
        }
    }
    let created = events.iter().find(|event| event["type"] == "customer.created").unwrap();
    assert!(created["data"]["name"]["$sealed"].is_string(), "{created}");
    assert!(!events.iter().any(|event| event.to_string().contains("ada@example.com")), "nothing personal is open");
    house.visitor().get("!/schemas/events/customer.created/99").problem(404, "not-found").await;
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The events of a tenant, each once, in the order in which they came, as the SDK parses them.
async fn parsed(kcat: &[u8], tenant: &Tenant) -> Vec<Value> {
    let python = dev_file("venv-tests/bin/python");
    let script = root().join("tests/e2e/cloud_events.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(tenant.id.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("Python is there");
    child.stdin.take().unwrap().write_all(kcat).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "the SDK refuses what we publish");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn every_message_is_as_the_asyncapi_document_says(house: &House) {
    let tenant = house.tenant().await;
    some_events(&tenant).await;
    let last = tenant.post("/customers", &json!({"external_id": "last"})).expect(201).await;
    let topic = Topic::shared(&house.lodging.topic);
    topic.until_has(last.id()).await;
    let document = house.visitor().get("!/asyncapi.json").expect(200).await.body;
    let mut validators = HashMap::new();
    let messages = tokio::task::spawn_blocking(move || topic.read()).await.unwrap();
    let (mut events, mut beats) = (0, 0);
    for message in &messages {
        let name = match message.is_heartbeat() {
            true => "annals.heartbeat".to_owned(),
            false => format!("{}.v{}", text(&message.body["type"]), text(&message.body["annalsschemaversion"])),
        };
        let described = &document["components"]["messages"][&name];
        assert!(described.is_object(), "{name} is not described");
        assert_eq!(message.content_type.as_deref(), described["contentType"].as_str());
        let validator = validators.entry(name).or_insert_with_key(|name| {
            let payload = format!("#/components/messages/{name}/payload");
            let schema = json!({
                "$schema": "http://json-schema.org/draft-07/schema#",
                "allOf": [{ "$ref": payload }],
                "components": document["components"],
            });
            jsonschema::validator_for(&schema).unwrap()
        });
        let told: Vec<String> = validator.iter_errors(&message.body).map(|error| error.to_string()).collect();
        assert!(told.is_empty(), "{told:?}: {}", message.body);
        if message.is_heartbeat() {
            assert_eq!(message.key, None);
            beats += 1;
        } else {
            let tenant = text(&message.body["source"]).strip_prefix("/tenants/");
            assert_eq!(message.key.as_deref(), tenant);
            let slot = message.number("annalsslot").unwrap();
            assert_eq!(i64::from(message.partition), slot % 8, "partitions are those of the slots");
            events += 1;
        }
    }
    assert!(events > 20 && beats > 0, "{events} events, {beats} heartbeats");
    let kafka = &document["channels"]["events"]["bindings"]["kafka"];
    assert_eq!(kafka["partitions"], 8);
}
