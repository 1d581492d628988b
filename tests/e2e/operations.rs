//! What operators do with projections: parked streams, pauses, rebuilds and comparisons, through the whole pipeline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventstore::Role;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::backup::equal_the_fold;
use crate::client::{Answer, Client};
use crate::house::{House, Lodging};
use crate::orders::order;
use crate::processes::{Running, ready};
use crate::restored::{create, listed, place};
use crate::tests;

tests![
    poison_parks_its_streams_and_nothing_else,
    a_flood_of_poison_stops_the_projector_until_an_operator_says_so,
    a_projector_is_paused_and_goes_on,
    rows_are_made_anew_and_nobody_reads_backwards,
    a_rebuild_survives_kills,
    rows_of_an_older_revision_are_made_anew_by_themselves,
    without_kafka_processes_share_the_slots,
    operators_need_keys_of_their_own,
];

const ORDERS: &str = "/admin/projections/commerce_orders";

async fn owner(lodging: &Lodging, sql: &str) {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Places many orders at once, each of that currency, and gives the last answer.
async fn place_many(client: &Client, currencies: &[&str], key: &str) -> Answer {
    let items = currencies.iter().enumerate().map(|(number, currency)| {
        let mut body = order("ext:ada", 1_000 + number as i64);
        body["currency"] = json!(currency);
        body["lines"][0]["total"]["currency"] = json!(currency);
        body
    });
    let items: Vec<_> = items.collect();
    for _ in 0..100 {
        let placed = client.post("/orders/batch", &json!({ "items": items })).header("idempotency-key", key);
        let placed = placed.expect(200).await;
        // What a machine with too much to do did not take is repeated under its key.
        assert!(placed.data().iter().all(|item| item["status"] == 201 || item["status"] == 503), "{}", placed.text);
        if placed.data().iter().all(|item| item["status"] == 201) {
            return placed;
        }
    }
    panic!("the orders under {key} are never taken");
}

/// The ids of what was placed in that currency.
fn ids(placed: &Answer, currency: &str) -> Vec<String> {
    let resources = placed.data().iter().map(|item| &item["resource"]);
    let of = resources.filter(|resource| resource["currency"] == currency);
    of.map(|resource| resource["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a projector is as is wanted, and gives it.
pub(crate) async fn until(client: &Client, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let shown = client.get(path).expect(200).await.body;
        if wanted(&shown) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to that: {}", client.get(path).expect(200).await.text);
}

/// What `annals projections verify` says of a projector.
pub(crate) async fn verified(lodging: &Lodging, name: &str) -> Value {
    let output = lodging.command(&["projections", "verify", name]).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["ok"], true, "{told}");
    told
}

async fn poison_parks_its_streams_and_nothing_else(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    // From here on the table refuses what is in pounds: one order in a hundred.
    owner(&lodging, "ALTER TABLE commerce_orders ADD CONSTRAINT poison CHECK (currency <> 'GBP')").await;
    let currencies: Vec<_> = (0..400).map(|n| if n % 100 == 57 { "GBP" } else { "USD" }).collect();
    let placed = place_many(&tenant, &currencies, "first").await;
    let (poisoned, well) = (ids(&placed, "GBP"), ids(&placed, "USD"));
    assert_eq!((poisoned.len(), well.len()), (4, 396));

    // Lists and reports go on, and say what they lack; a resource is read as it is.
    let answer = tenant.get("/orders?limit=100").after(&placed).expect(200).await;
    assert_eq!(answer.header("annals-parked"), "4");
    assert_eq!(tenant.get("/orders?currency=GBP").after(&placed).expect(200).await.data().len(), 0);
    assert_eq!(tenant.get("/analytics/revenue").after(&placed).expect(200).await.headers.get("annals-parked"), None);
    tenant.get(&format!("/orders/{}", poisoned[0])).expect(200).await;
    let shown = tenant.get(ORDERS).expect(200).await.body;
    assert_eq!((&shown["parked"], shown["parked_streams"].as_array().unwrap().len()), (&json!(4), 4));
    let entry = &shown["parked_streams"][0];
    assert_eq!(entry["tenant"], json!(tenant.id.to_string()));
    assert!(poisoned.contains(&entry["stream"].as_str().unwrap().to_owned()), "{shown}");
    assert!(entry["error"].as_str().unwrap().contains("23514 poison"), "{shown}");
    let others = tenant.get("/admin/projections").expect(200).await;
    let parked = others.data().iter().filter(|projector| projector["parked"] != 0);
    assert_eq!(parked.count(), 1, "{}", others.text);

    // What follows in a parked stream is passed over; what follows in others is not.
    let refund = async |id: &str, key: &str| {
        let path = format!("/orders/{id}/refund");
        tenant.post(&path, &json!({})).header("idempotency-key", key).expect(200).await
    };
    refund(&poisoned[0], "r0").await;
    let refunded = refund(&well[0], "r1").await;
    let shown = tenant.get("/orders?status=refunded").after(&refunded).expect(200).await;
    assert_eq!(shown.data().iter().map(|order| order["id"].as_str().unwrap()).collect::<Vec<_>>(), [well[0].as_str()]);

    // As long as the table refuses them, trying again parks them again; one that is mended is mended alone.
    let tried = tenant.post(&format!("{ORDERS}/retry"), &json!({})).expect(200).await;
    assert_eq!(tried.body, json!({ "applied": 0, "parked": 4 }));
    owner(&lodging, "ALTER TABLE commerce_orders DROP CONSTRAINT poison").await;
    let one = tenant.post(&format!("{ORDERS}/retry"), &json!({ "stream": poisoned[0] })).expect(200).await;
    assert_eq!(one.body, json!({ "applied": 1, "parked": 0 }));
    assert_eq!(tenant.get("/orders").expect(200).await.header("annals-parked"), "3");
    let output = lodging.command(&["projections", "retry", "commerce_orders"]).output().await.unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.success(), told), (true, json!({ "applied": 3, "parked": 0 })));

    // All is as if nothing had happened, and goes on so.
    let last = refund(&poisoned[1], "r2").await;
    let shown = tenant.get("/orders?currency=GBP").after(&last).expect(200).await;
    assert_eq!(shown.headers.get("annals-parked"), None);
    let states: Vec<_> = shown.data().iter().map(|order| (order["id"].clone(), order["status"].clone())).collect();
    assert_eq!(states.len(), 4);
    for (id, status) in states {
        let refunded = [&poisoned[0], &poisoned[1]].iter().any(|poisoned| id == json!(poisoned));
        assert_eq!(status, if refunded { "refunded" } else { "placed" }, "{id}");
    }
    let compared = verified(&lodging, "commerce_orders").await;
    assert_eq!(compared["tables"][0]["rows"], 400);
    for name in ["analytics_sales", "commerce_customers", "audit_entries"] {
        verified(&lodging, name).await;
    }
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn a_flood_of_poison_stops_the_projector_until_an_operator_says_so(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    owner(&lodging, "ALTER TABLE commerce_orders ADD CONSTRAINT poison CHECK (currency <> 'GBP')").await;
    let placed = place_many(&tenant, &["GBP"; 300], "flood").await;
    let paused = until(&tenant, ORDERS, |shown| shown["runners"][0]["state"] == "paused").await;
    let parked = paused["parked"].as_i64().unwrap();
    assert!((1..=40).contains(&parked), "{paused}");
    assert!(paused["lag_events"].as_i64() > Some(0), "{paused}");
    assert!(paused["runners"][0]["error"].as_str().unwrap().contains("no more streams are parked"), "{paused}");
    let health = tenant.get("!/health/ready").expect(200).await;
    assert_eq!(health.body["status"], "degraded", "{}", health.text);
    owner(&lodging, "ALTER TABLE commerce_orders DROP CONSTRAINT poison").await;
    let tried = tenant.post(&format!("{ORDERS}/retry"), &json!({})).expect(200).await;
    assert_eq!(tried.body, json!({ "applied": parked, "parked": 0 }));
    until(&tenant, ORDERS, |shown| shown["runners"][0]["state"] == "live").await;
    let shown = tenant.get("/orders?limit=100").after(&placed).expect(200).await;
    assert_eq!((shown.data().len(), shown.headers.get("annals-parked")), (100, None));
    assert_eq!(verified(&lodging, "commerce_orders").await["tables"][0]["rows"], 300);
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn a_projector_is_paused_and_goes_on(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let first = place(&tenant, "first", "ext:ada", 5).await;
    listed(&tenant, "/orders", &first).await;
    let paused = tenant.call(Method::POST, &format!("{ORDERS}/pause")).expect(200).await;
    assert!(paused.body["paused_at"].is_string(), "{}", paused.text);
    until(&tenant, ORDERS, |shown| shown["runners"][0]["state"] == "paused").await;
    let second = place(&tenant, "second", "ext:ada", 7).await;
    tenant.get("/orders").after(&second).problem(503, "read-model-behind").await;
    assert_eq!(tenant.get("/orders").expect(200).await.data().len(), 1, "the list is old");
    tenant.get("/analytics/revenue").after(&second).expect(200).await;
    let lagging = until(&tenant, ORDERS, |shown| shown["lag_events"].as_i64() > Some(0)).await;
    assert!(lagging["lag_seconds"].as_f64().unwrap() >= 0.0);
    let output = lodging.command(&["projections", "resume", "commerce_orders"]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(&tenant, ORDERS, |shown| shown["runners"][0]["state"] == "live").await;
    assert_eq!(listed(&tenant, "/orders", &second).await, [second.id(), first.id()]);
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn rows_are_made_anew_and_nobody_reads_backwards(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    for round in 0..3 {
        place_many(&tenant, &["USD"; 1_000], &format!("before-{round}")).await;
    }
    let stop = AtomicBool::new(false);
    let reader = async {
        let (mut seen, mut reads) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let list = tenant.get("/orders?limit=5").expect(200).await;
            let now: i64 = list.header("annals-read-sequence").parse().unwrap();
            assert!(now >= seen, "a reader went back from {seen} to {now}");
            (seen, reads) = (now, reads + 1);
        }
        reads
    };
    let writer = async {
        for generation in [2, 3] {
            for name in ["commerce_orders", "analytics_sales", "audit_entries"] {
                let path = format!("/admin/projections/{name}");
                let asked = tenant.call(Method::POST, &format!("{path}/rebuild"));
                let asked = asked.expect(202).await;
                assert_eq!(asked.body["building"]["generation"], generation, "{}", asked.text);
                let key = format!("{name}-{generation}");
                let written = place_many(&tenant, &["USD"; 20], &key).await;
                // What was written is read, whichever rows are.
                let list = tenant.get("/orders?limit=1").after(&written).expect(200).await;
                let newest = written.data().iter().filter_map(|item| item["resource"]["id"].as_str()).max();
                assert!(list.data()[0]["id"].as_str() >= newest, "{}", list.text);
                let made = until(&tenant, &path, |shown| shown["building"].is_null()).await;
                assert_eq!((&made["generation"], &made["parked"]), (&json!(generation), &json!(0)));
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    // What is read must always be further than what is made: else nothing could go back.
    let others = futures::future::join_all((0..4).map(|other| {
        let (tenant, stop) = (&tenant, &stop);
        async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                place_many(tenant, &["EUR"], &format!("meanwhile-{other}-{number}")).await;
            }
        }
    }));
    let (reads, (), _) = tokio::join!(reader, writer, others);
    assert!(reads > 20, "{reads}");
    for name in ["commerce_orders", "analytics_sales", "audit_entries"] {
        verified(&lodging, name).await;
    }
    // Nothing is left of what was replaced.
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Projector).unwrap()).await.unwrap();
    for _ in 0..400 {
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relname ~ '^(commerce_orders|analytics_sales|analytics_customers|audit_entries|event_type_counts)_[0-9]+$' ORDER BY 1",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        if left
            == [
                "analytics_customers_3",
                "analytics_sales_3",
                "audit_entries_3",
                "commerce_orders_3",
                "event_type_counts_3",
            ]
        {
            conn.close().await.unwrap();
            assert_eq!(all.end().await, 0);
            lodging.leave().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("old rows are left");
}

async fn a_rebuild_survives_kills(_: &House) {
    let lodging = Lodging::new().await;
    let nowhere = [("ANNALS_KAFKA_BROKERS", "")];
    let serve = Running::start(&lodging, "serve", &nowhere);
    let address = lodging.free_address();
    let project = || Running::start(&lodging, "project", &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &address)]);
    let mut projecting = project();
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let mut placed = None;
    for round in 0..10 {
        placed = Some(place_many(&tenant, &["USD"; 1_000], &format!("before-{round}")).await);
    }
    tenant.call(Method::POST, &format!("{ORDERS}/rebuild")).expect(202).await;
    let mut kills = 0;
    while !tenant.get(ORDERS).expect(200).await.body["building"].is_null() {
        if kills < 5 {
            // Wherever it is by then.
            let before = tenant.get(ORDERS).expect(200).await.body["building"]["position"].clone();
            until(&tenant, ORDERS, |shown| shown["building"].is_null() || shown["building"]["position"] != before)
                .await;
            projecting.kill().await;
            projecting = project();
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(kills > 0, "it was done before it could be killed");
    let shown = tenant.get("/orders?limit=1").after(placed.as_ref().unwrap()).expect(200).await;
    assert_eq!(shown.data().len(), 1);
    assert_eq!(verified(&lodging, "commerce_orders").await["tables"][0]["rows"], 10_000);
    assert_eq!((projecting.end().await, serve.end().await), (0, 0));
    lodging.leave().await;
}

async fn rows_of_an_older_revision_are_made_anew_by_themselves(_: &House) {
    let lodging = Lodging::new().await;
    let nowhere = [("ANNALS_KAFKA_BROKERS", "")];
    let all = Running::start(&lodging, "all", &nowhere);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let placed = place_many(&tenant, &["USD"; 50], "before").await;
    tenant.get("/orders").after(&placed).expect(200).await;
    assert_eq!(all.end().await, 0);
    // As a binary before this one has left it, with rows that its fold has made otherwise.
    let older = "UPDATE projection_generations SET revision = revision - 1 WHERE projector = 'commerce_orders';
        UPDATE commerce_orders SET status = 'refunded'";
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Projector).unwrap()).await.unwrap();
    sqlx::raw_sql(older).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let all = Running::start(&lodging, "all", &nowhere);
    ready(&tenant).await;
    let made = until(&tenant, ORDERS, |shown| shown["generation"] == 2).await;
    assert_eq!(made["revision"], 2, "{made}");
    let next = place_many(&tenant, &["USD"; 10], "after").await;
    let listed = tenant.get("/orders?status=placed&limit=100").after(&next).expect(200).await;
    assert_eq!(listed.data().len(), 60);
    assert_eq!(verified(&lodging, "commerce_orders").await["tables"][0]["rows"], 60);
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

/// How many of the 64 slots each process has that has any.
fn shares(shown: &Value) -> Vec<i64> {
    let slots = shown["runners"].as_array().unwrap().iter().map(|runner| runner["slots"].as_i64().unwrap());
    slots.filter(|slots| *slots > 0).collect()
}

async fn without_kafka_processes_share_the_slots(_: &House) {
    let lodging = Lodging::new().await;
    let start = |role| {
        let address = lodging.free_address();
        Running::start(&lodging, role, &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &address)])
    };
    let serve = Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", "")]);
    let (first, second) = (start("project"), start("project"));
    let mut tenants = vec![lodging.tenant().await];
    ready(&tenants[0]).await;
    // Whoever projects first makes the projectors known.
    for _ in 0..600 {
        if tenants[0].try_get(ORDERS).await == Some(200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until(&tenants[0], ORDERS, |shown| shares(shown) == [32, 32]).await;
    // Their slots follow from their ids, so some are with the one and some with the other.
    for _ in 0..15 {
        tenants.push(lodging.tenant().await);
    }
    let mut placed = vec![Vec::new(); tenants.len()];
    let mut round = async |round: &str| {
        for (tenant, placed) in tenants.iter().zip(&mut placed) {
            if placed.is_empty() {
                create(tenant, "ada").await;
            }
            let order = place(tenant, round, "ext:ada", 5).await;
            placed.insert(0, order.id().to_owned());
            assert_eq!(listed(tenant, "/orders", &order).await, *placed);
        }
    };
    round("shared").await;
    first.kill().await;
    round("of which one is dead").await;
    until(&tenants[0], ORDERS, |shown| shares(shown).contains(&64)).await;
    let third = start("project");
    until(&tenants[0], ORDERS, |shown| shares(shown).iter().filter(|slots| **slots == 32).count() >= 2).await;
    round("shared again").await;
    equal_the_fold(&lodging, &lodging.dsn, [second, third]).await;
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn operators_need_keys_of_their_own(house: &House) {
    let tenant = house.tenant().await;
    let reader = tenant.key(&["operations:read"]).await;
    let all = reader.get("/admin/projections").expect(200).await;
    let names: Vec<_> = all.data().iter().map(|projector| projector["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"commerce_orders") && names.contains(&"audit_entries"), "{names:?}");
    for verb in ["pause", "resume", "rebuild", "retry"] {
        reader.post(&format!("{ORDERS}/{verb}"), &json!({})).problem(403, "forbidden").await;
    }
    let other = tenant.key(&["commerce:read", "audit:read", "analytics:read"]).await;
    other.get("/admin/projections").problem(403, "forbidden").await;
    other.get(ORDERS).problem(403, "forbidden").await;
    tenant.get("/admin/projections/nothing").problem(404, "not-found").await;
    tenant.post("/admin/projections/nothing/retry", &json!({})).problem(404, "not-found").await;
    tenant.post(&format!("{ORDERS}/retry"), &json!({ "stream": "x" })).problem(422, "validation-failed").await;
    tenant.post(&format!("{ORDERS}/retry"), &json!({ "streams": [] })).problem(422, "unknown-field").await;
    tenant.get(&format!("{ORDERS}?x=1")).problem(422, "unknown-field").await;
    house.visitor().get("/admin/projections").problem(401, "unauthenticated").await;
}
