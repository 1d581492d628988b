//! Lists as of a moment, and what differs between two: what is answered of the past is what was answered then.

mod shop;

use std::collections::BTreeMap;

use eventstore::Role;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::agents::agent;
use crate::billing::{plan, subscribe};
use crate::client::{Answer, Client};
use crate::house::{House, Lodging, Tenant};
use crate::operations::{until, verified};
use crate::privacy::erase;
use crate::processes::{Running, ready};
use crate::restored::answered;
use crate::tests;
use shop::{Differences, Shop, difference};

tests![
    the_past_is_listed_as_it_was_and_differs_by_what_changed,
    a_page_of_the_past_goes_on_where_it_began,
    a_difference_names_what_the_caller_sees,
    the_erased_show_nothing_in_the_past,
    nobody_sees_the_past_of_another_tenant,
    what_is_asked_wrongly_of_the_past_is_told,
    each_state_is_kept_once_and_made_anew_alike,
    rows_without_a_history_get_one_by_themselves,
];

/// The types that have a history: where they are listed, and their projectors.
const TYPES: [(&str, &str, &str); 4] = [
    ("customer", "/customers", "commerce_customers"),
    ("order", "/orders", "commerce_orders"),
    ("subscription", "/subscriptions", "billing_subscriptions"),
    ("agent", "/agents", "agents_agents"),
];

/// All entries of a list, page by page, and how the last page was answered.
async fn all(client: &Client, path: &str, limit: usize) -> (Vec<Value>, Answer) {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let page = client.get(&format!("{path}{sign}limit={limit}{cursor}")).expect(200).await;
        entries.extend_from_slice(page.data());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (entries, page),
        }
    }
}

/// A path with one more parameter.
fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { '&' } else { '?' })
}

/// What lists showed at a moment.
struct Moment {
    sequence: i64,
    recorded_at: String,
    lists: BTreeMap<String, Vec<Value>>,
}

async fn moment(tenant: &Tenant, paths: &[String]) -> Moment {
    let sequence = tenant.events_head().await;
    let event = tenant.get(&format!("/events?after={}", sequence - 1)).expect(200).await;
    let recorded_at = event.data()[0]["recorded_at"].as_str().unwrap().to_owned();
    let mut lists = BTreeMap::new();
    for path in paths {
        let seen = tenant.get(&with(path, "limit=100")).header("annals-min-sequence", sequence.to_string());
        let seen = seen.expect(200).await;
        assert_eq!(seen.body["next_cursor"], Value::Null, "one page has all");
        lists.insert(path.clone(), seen.data().to_vec());
    }
    Moment { sequence, recorded_at, lists }
}

/// What `/diff` tells, by id; those of which nothing differs any more are left out.
async fn told(client: &Client, query: &str, limit: usize) -> Differences {
    let (entries, _) = all(client, &format!("/diff?{query}"), limit).await;
    let ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first, each once: {ids:?}");
    let fields = |entry: &Value| {
        let of = |field: &Value| {
            (field["pointer"].as_str().unwrap().to_owned(), field["before"].clone(), field["after"].clone())
        };
        entry["fields"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let all = entries.iter().map(|entry| (entry["id"].as_str().unwrap().to_owned(), fields(entry)));
    all.filter(|(_, fields)| !fields.is_empty()).collect()
}

async fn the_past_is_listed_as_it_was_and_differs_by_what_changed(house: &House) {
    let tenant = house.tenant().await;
    let seed = u64::from(std::process::id());
    let mut shop = Shop::open(&tenant, seed).await;
    let mut paths: Vec<String> = TYPES.iter().map(|(_, path, _)| (*path).to_owned()).collect();
    paths.extend([
        "/customers?country=GB".to_owned(),
        "/customers?country=DE&status=active".to_owned(),
        "/orders?status=partly_refunded".to_owned(),
        format!("/orders?customer={}", shop.made["customer"][0]),
        format!("/subscriptions?plan={}", shop.plans[0]),
        format!("/subscriptions?customer={}&status=active", shop.made["customer"][0]),
        "/subscriptions?status=cancelled".to_owned(),
        "/agents?kind=http".to_owned(),
    ]);
    let mut moments = Vec::new();
    for _ in 0..6 {
        moments.push(moment(&tenant, &paths).await);
        for _ in 0..15 {
            shop.any_step().await;
        }
    }
    moments.push(moment(&tenant, &paths).await);

    for moment in &moments {
        for (path, then) in &moment.lists {
            for as_of in [moment.sequence.to_string(), moment.recorded_at.clone()] {
                let (listed, last) = all(&tenant, &with(path, &format!("as_of={as_of}")), 4).await;
                assert_eq!(&listed, then, "{path} as of {as_of}, seed {seed}");
                assert_eq!(
                    last.header("annals-read-sequence"),
                    moment.sequence.to_string(),
                    "{path} as of {as_of}, seed {seed}"
                );
            }
        }
    }
    for (place, from) in moments.iter().enumerate() {
        for to in &moments[place..] {
            for (kind, path, _) in TYPES {
                let expected = difference(&from.lists[path], &to.lists[path]);
                let query = format!("type={kind}&from={}&to={}", from.sequence, to.recorded_at);
                assert_eq!(told(&tenant, &query, 7).await, expected, "{query}, seed {seed}");
            }
        }
    }
    let now = told(&tenant, &format!("type=order&from={}", moments[2].recorded_at), 100).await;
    assert_eq!(now, difference(&moments[2].lists["/orders"], &moments[6].lists["/orders"]), "to the newest");
}

async fn a_page_of_the_past_goes_on_where_it_began(house: &House) {
    let tenant = house.tenant().await;
    let items: Vec<Value> = (0..9).map(|n| json!({"external_id": format!("c-{n}"), "country": "GB"})).collect();
    let made = tenant.post("/customers/batch", &json!({ "items": items })).expect(200).await;
    let then = made.sequence();
    let ids: Vec<&str> = made.data().iter().rev().map(|item| item["resource"]["id"].as_str().unwrap()).collect();
    let list = format!("/customers?country=GB&as_of={then}&limit=4");
    let first = tenant.get(&list).expect(200).await;
    let diff = tenant.get("/diff?type=customer&from=0&limit=4").after(&made).expect(200).await;
    assert_eq!((&diff.body["from"], &diff.body["to"]), (&json!(0), &json!(then)), "{}", diff.text);
    // Whatever happens meanwhile, to those who are on the pages to come and to others.
    for id in &ids {
        tenant.patch(&format!("/customers/{id}"), &json!({"country": "FR"})).expect(200).await;
    }
    tenant.post("/customers", &json!({"country": "GB"})).expect(201).await;
    let cursor = |answer: &Answer| answer.body["next_cursor"].as_str().unwrap().to_owned();
    let (mut page, mut seen) = (first, Vec::new());
    loop {
        assert!(page.data().iter().all(|customer| customer["country"] == "GB"), "{}", page.text);
        seen.extend(page.data().iter().map(|customer| customer["id"].as_str().unwrap().to_owned()));
        if page.body["has_more"] == false {
            break;
        }
        page = tenant.get(&format!("{list}&cursor={}", cursor(&page))).expect(200).await;
    }
    assert_eq!(seen, ids);
    // A difference without an end ends on every page where it ended on the first.
    let next = tenant.get(&format!("/diff?type=customer&from=0&limit=4&cursor={}", cursor(&diff))).expect(200).await;
    assert_eq!((&next.body["to"], next.data().len()), (&json!(then), 4));
    assert!(next.data().iter().all(|entry| entry["to"]["version"] == 1), "{}", next.text);

    let first = cursor(&tenant.get(&list).expect(200).await);
    let newest = cursor(&tenant.get("/customers?limit=4").expect(200).await);
    for (path, cursor) in [
        (format!("/customers?country=GB&as_of={}", then - 1), &first),
        (format!("/customers?as_of={then}"), &first),
        ("/customers?country=GB".to_owned(), &first),
        (format!("/customers?as_of={then}"), &newest),
        ("/diff?type=customer&from=1".to_owned(), &cursor(&diff)),
        (format!("/diff?type=customer&from=0&to={then}"), &cursor(&diff)),
        ("/diff?type=order&from=0".to_owned(), &cursor(&diff)),
    ] {
        tenant.get(&with(&path, &format!("cursor={cursor}"))).problem(400, "invalid-cursor").await;
    }
}

async fn a_difference_names_what_the_caller_sees(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"name": "Canary Name", "country": "GB"});
    let customer = tenant.post("/customers", &body).expect(201).await;
    let path = format!("/customers/{}", customer.id());
    let renamed = tenant.patch(&path, &json!({"name": "Canary Name II"})).expect(200).await;
    let moved = tenant.patch(&path, &json!({"country": "FR"})).expect(200).await;
    let back = tenant.patch(&path, &json!({"country": "GB", "name": "Canary Name"})).expect(200).await;
    let diff = async |client: &Client, from: i64, to: &Answer| {
        let query = format!("/diff?type=customer&from={from}&to={}", to.sequence());
        client.get(&query).expect(200).await
    };
    let pointers = |answer: &Answer| {
        let fields = answer.data()[0]["fields"].as_array().unwrap().clone();
        let names = fields.iter().map(|field| field["pointer"].as_str().unwrap().to_owned());
        names.filter(|pointer| pointer != "/updated_at").collect::<Vec<_>>()
    };
    let created = diff(&tenant, customer.sequence() - 1, &renamed).await;
    let entry = &created.data()[0];
    assert_eq!(entry["object"], "difference");
    assert_eq!((&entry["type"], &entry["change"]), (&json!("customer"), &json!("created")));
    assert_eq!(entry["from"], Value::Null);
    assert_eq!(entry["to"], json!({"version": 2, "sequence": renamed.sequence()}));
    assert!(pointers(&created).contains(&"/name".to_owned()), "{}", created.text);
    let changed = diff(&tenant, customer.sequence(), &moved).await;
    let entry = &changed.data()[0];
    assert_eq!((&entry["change"], &entry["id"]), (&json!("changed"), &customer.body["id"]));
    assert_eq!(entry["from"], json!({"version": 1, "sequence": customer.sequence()}));
    assert_eq!(pointers(&changed), ["/country", "/name"], "{}", changed.text);
    let name = entry["fields"].as_array().unwrap().iter().find(|field| field["pointer"] == "/name").unwrap();
    assert_eq!((&name["before"], &name["after"]), (&json!("Canary Name"), &json!("Canary Name II")));
    // What was changed and changed back, and sealed anew, is what it was.
    let same = diff(&tenant, customer.sequence(), &back).await;
    assert_eq!((pointers(&same), &same.data()[0]["to"]["version"]), (vec![], &json!(4)), "{}", same.text);
    assert!(diff(&tenant, back.sequence(), &back).await.data().is_empty());

    let blind = tenant.key(&["commerce:read"]).await;
    let seen = diff(&blind, customer.sequence(), &moved).await;
    assert_eq!(pointers(&seen), ["/country"], "{}", seen.text);
    let listed = blind.get(&format!("/customers?as_of={}", renamed.sequence())).expect(200).await;
    assert_eq!((&listed.data()[0]["name"], &listed.data()[0]["country"]), (&Value::Null, &json!("GB")));
    for query in ["type=subscription&from=0", "type=agent&from=0"] {
        let refused = blind.get(&format!("/diff?{query}")).problem(403, "forbidden").await;
        assert!(refused.body["scope"] != "commerce:read", "{}", refused.text);
    }

    let http = |key: &str| json!({"url": "http://127.0.0.1:9/", "headers": {"x-key": key}});
    let body = |key: &str| json!({"name": "Agent", "kind": "http", "http": http(key)});
    let agent = agent(&tenant, &body("canary-secret-1")).await;
    let settings = json!({"kind": "http", "http": http("canary-secret-2"), "timeout_seconds": 7});
    let configured = tenant.post(&format!("/agents/{}/configure", agent.id()), &settings).expect(200).await;
    let (from, to) = (agent.sequence(), configured.sequence());
    let seen = tenant.get(&format!("/diff?type=agent&from={from}&to={to}")).expect(200).await;
    assert_eq!(pointers(&seen), ["/timeout_seconds"], "a secret is the same word always: {}", seen.text);
    let listed = tenant.get(&format!("/agents?as_of={from}")).expect(200).await;
    assert!(!seen.text.contains("canary") && !listed.text.contains("canary"), "{} {}", seen.text, listed.text);
}

async fn the_erased_show_nothing_in_the_past(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"external_id": "canary-e1", "name": "Canary Name", "email": "canary@example.com"});
    let customer = tenant.post("/customers", &body).expect(201).await;
    let plan = tenant.post("/plans", &plan(500, "month")).expect(201).await;
    let subscription = subscribe(&tenant, customer.id(), plan.id()).await;
    let path = format!("/subscriptions/{}/cancel", subscription.id());
    tenant.post(&path, &json!({"at": "now", "reason": "canary reason"})).expect(200).await;
    let renamed =
        tenant.patch(&format!("/customers/{}", customer.id()), &json!({"name": "Canary Name II"})).expect(200).await;
    let then = tenant.get(&format!("/customers?as_of={}", renamed.sequence())).expect(200).await;
    assert_eq!(then.data()[0]["name"], "Canary Name II");
    erase(&tenant, customer.id()).await;
    let head = tenant.events_head().await;
    for path in [
        format!("/customers?as_of={}", customer.sequence()),
        format!("/customers?as_of={}", renamed.sequence()),
        format!("/subscriptions?as_of={}", renamed.sequence()),
        format!("/diff?type=customer&from=0&to={}", renamed.sequence()),
        format!("/diff?type=customer&from={}", customer.sequence()),
        "/diff?type=subscription&from=0".to_owned(),
    ] {
        let answer = tenant.get(&path).header("annals-min-sequence", head.to_string()).expect(200).await;
        assert_eq!(answer.data().len(), 1, "{path}: {}", answer.text);
        for canary in ["anary", "$sealed", "$erased"] {
            assert!(!answer.text.contains(canary), "{path} shows {canary}: {}", answer.text);
        }
    }
    let then = tenant.get(&format!("/customers?as_of={}", renamed.sequence())).expect(200).await;
    assert_eq!((&then.data()[0]["name"], &then.data()[0]["status"]), (&Value::Null, &json!("active")));
}

async fn nobody_sees_the_past_of_another_tenant(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let mut shop = Shop::open(&tenant, 7).await;
    for _ in 0..30 {
        shop.any_step().await;
    }
    while other.events_head().await < tenant.events_head().await {
        other.post("/plans", &plan(1, "month")).expect(201).await;
    }
    for sequence in 0..=tenant.events_head().await {
        for (kind, path, _) in TYPES {
            let listed = other.get(&format!("{path}?as_of={sequence}")).expect(200).await;
            assert!(listed.data().is_empty(), "{}", listed.text);
            let diff = other.get(&format!("/diff?type={kind}&from={sequence}")).expect(200).await;
            assert!(diff.data().is_empty(), "{}", diff.text);
        }
    }
}

async fn what_is_asked_wrongly_of_the_past_is_told(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({})).expect(201).await;
    let head = tenant.events_head().await;
    let beyond = format!("{}", head + 1);
    for moment in [beyond.as_str(), "2999-01-01T00:00:00Z", "soon", "-1", "", "1.5", "12@1", "2026-11-20", "1e3"] {
        for (path, parameter) in TYPES
            .map(|(_, path, _)| (path.to_owned(), "as_of"))
            .into_iter()
            .chain([("/diff?type=customer".to_owned(), "from"), ("/diff?type=customer&from=0".to_owned(), "to")])
        {
            let refused = tenant.get(&with(&path, &format!("{parameter}={moment}"))).problem(422, "validation-failed");
            let refused = refused.await;
            assert_eq!(refused.pointers(), [format!("?{parameter}")], "{path} {moment}: {}", refused.text);
        }
    }
    for (query, pointer, code) in [
        ("", "?type", "validation-failed"),
        ("from=0", "?type", "validation-failed"),
        ("type=customer", "?from", "validation-failed"),
        ("type=note&from=0", "?type", "validation-failed"),
        ("type=&from=0", "?type", "validation-failed"),
        ("type=Customer&from=0", "?type", "validation-failed"),
        ("type=customer&from=2&to=1", "?from", "validation-failed"),
        ("type=customer&from=0&since=1", "?since", "unknown-field"),
        ("type=customer&from=0&from=1", "?from", "validation-failed"),
        ("type=customer&from=0&limit=0", "?limit", "validation-failed"),
    ] {
        let refused = tenant.get(&format!("/diff?{query}")).problem(422, code).await;
        assert_eq!(refused.pointers(), [pointer], "{query}: {}", refused.text);
    }
    for path in ["/notes", "/plans", "/privacy/requests", "/runs", "/audit-logs", "/events"] {
        let refused = tenant.get(&format!("{path}?as_of=1")).problem(422, "unknown-field").await;
        assert_eq!(refused.pointers(), ["?as_of"], "{path}: {}", refused.text);
    }
    tenant.get("/customers?as_of=0&cursor=AAAA").problem(400, "invalid-cursor").await;
    tenant.get("/diff?type=customer&from=0&cursor=AAAA").problem(400, "invalid-cursor").await;
    assert!(tenant.get("/customers?as_of=0").expect(200).await.data().is_empty());
    assert_eq!(tenant.get(&format!("/customers?as_of={head}")).expect(200).await.data().len(), 1);
}

async fn sql(lodging: &Lodging, sql: &str) {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Projector).unwrap()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// What lists show of the past of a tenant, at every sequence.
async fn past(tenant: &Tenant) -> Vec<Vec<Value>> {
    let mut seen = Vec::new();
    for sequence in 0..=tenant.events_head().await {
        for (_, path, _) in TYPES {
            seen.push(all(tenant, &format!("{path}?as_of={sequence}"), 100).await.0);
        }
    }
    seen
}

async fn each_state_is_kept_once_and_made_anew_alike(_: &House) {
    let lodging = Lodging::new().await;
    let nowhere = [("ANNALS_KAFKA_BROKERS", "")];
    let serve = Running::start(&lodging, "serve", &nowhere);
    let address = lodging.free_address();
    let project = || Running::start(&lodging, "project", &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &address)]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    // All of it is there before anybody projects, so that what is made and unmade is so in one batch.
    let customer = tenant.post("/customers", &json!({"country": "GB"})).expect(201).await;
    let path = format!("/customers/{}", customer.id());
    for country in ["FR", "DE", "IT"] {
        tenant.patch(&path, &json!({"country": country})).expect(200).await;
    }
    let mut shop = Shop::open(&tenant, 11).await;
    for _ in 0..40 {
        shop.any_step().await;
    }
    let head = tenant.events_head().await;
    let projecting = project();
    for (offset, country) in ["GB", "FR", "DE", "IT"].into_iter().enumerate() {
        let as_of = format!("/customers?as_of={}", customer.sequence() + offset as i64);
        let then = answered(|| tenant.get(&as_of).header("annals-min-sequence", head.to_string())).await;
        assert_eq!((then.data().len(), &then.data()[0]["country"]), (1, &json!(country)), "{}", then.text);
    }
    let seen = past(&tenant).await;
    for (_, path, projector) in TYPES {
        let events = tenant.get("/events?limit=100").expect(200).await;
        let kinds = TYPES.iter().find(|(_, of, _)| *of == path).unwrap().0;
        let changes =
            events.data().iter().filter(|event| event["type"].as_str().unwrap().starts_with(&format!("{kinds}.")));
        let changes = changes.filter(|event| event["version"] != 1).count();
        let told = verified(&lodging, projector).await;
        assert_eq!(told["tables"][1]["table"], format!("{projector}_history"), "{told}");
        assert_eq!(told["tables"][1]["rows"], changes, "each event but the first ends one state: {told}");
        tenant.call(Method::POST, &format!("/admin/projections/{projector}/rebuild")).expect(202).await;
        until(&tenant, &format!("/admin/projections/{projector}"), |shown| shown["generation"] == 2).await;
    }
    assert_eq!(past(&tenant).await, seen, "made anew, it is the same");
    for (_, _, projector) in TYPES {
        verified(&lodging, projector).await;
    }
    assert_eq!((projecting.end().await, serve.end().await), (0, 0));
    lodging.leave().await;
}

async fn rows_without_a_history_get_one_by_themselves(_: &House) {
    let lodging = Lodging::new().await;
    let nowhere = [("ANNALS_KAFKA_BROKERS", "")];
    let running = Running::start(&lodging, "all", &nowhere);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let mut shop = Shop::open(&tenant, 5).await;
    for _ in 0..30 {
        shop.any_step().await;
    }
    let head = tenant.events_head().await;
    for (_, path, _) in TYPES {
        tenant.get(path).header("annals-min-sequence", head.to_string()).expect(200).await;
    }
    let seen = past(&tenant).await;
    assert_eq!(running.end().await, 0);
    // As a binary before this one has left it.
    for (_, _, projector) in TYPES {
        let older = format!(
            "UPDATE projection_generations SET revision = revision - 1 WHERE projector = '{projector}';
             UPDATE {projector} SET created_sequence = NULL; DELETE FROM {projector}_history"
        );
        sql(&lodging, &older).await;
    }
    let serve = Running::start(&lodging, "serve", &nowhere);
    ready(&tenant).await;
    for (kind, path, _) in TYPES {
        tenant.get(path).expect(200).await;
        let early = tenant.get(&format!("{path}?as_of={head}")).problem(503, "read-model-behind").await;
        assert!(early.body["detail"].as_str().unwrap().contains("being made"), "{}", early.text);
        tenant.get(&format!("/diff?type={kind}&from=0")).problem(503, "read-model-behind").await;
    }
    let project = Running::start(&lodging, "project", &[nowhere[0], ("ANNALS_LISTEN", &lodging.free_address())]);
    for (_, _, projector) in TYPES {
        until(&tenant, &format!("/admin/projections/{projector}"), |shown| shown["generation"] == 2).await;
    }
    assert_eq!(past(&tenant).await, seen);
    for (_, _, projector) in TYPES {
        verified(&lodging, projector).await;
    }
    assert_eq!((project.end().await, serve.end().await), (0, 0));
    lodging.leave().await;
}
