//! A log that went back: restored under a running house, while all were stopped, without its read models, or so that only
//! Kafka knows. Every time it begins a new incarnation, once, and nothing of what was lost comes back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domain::TypedId;
use eventstore::{EventFilter, Role};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::backup::{Backup, end, equal_the_fold, has_nowhere, projectors, until_read};
use crate::house::{House, Lodging, Tenant, connect};
use crate::lodging::{create_database, drop_database, server, setting};
use crate::privacy::{carry_out, erase};
use crate::processes::{Running, ready};
use crate::restored::{
    answered, create, listed, lives, newcomer, place, published, reason, refused, revenue, until_published, until_taken,
};
use crate::tests;

tests![
    restored_under_a_running_house,
    restored_under_load_without_kafka,
    read_models_that_were_not_restored_are_made_anew,
    the_mark_beside_the_keys_shows_that_the_log_went_back,
    kafka_alone_shows_that_the_log_went_back,
    another_server_begins_a_life_and_nothing_is_lost,
    an_erasure_that_the_log_has_lost_stays_done,
    what_was_lost_is_neither_confirmed_nor_shown,
];

async fn restored_under_a_running_house(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let ada = create(&tenant, "ada").await;
    let kept = place(&tenant, "kept", "ext:ada", 5).await;
    assert_eq!(revenue(&tenant, &kept).await["amount"], 5);
    let backup = Backup::take(&lodging).await;
    let fork = end(&lodging.dsn).await + 1;

    // What will be lost, and was seen by everybody.
    let path = format!("/customers/{}", ada.id());
    let change = json!({ "country": "FR" });
    let changed = until_taken(|| tenant.patch(&path, &change)).await;
    assert_eq!((changed.header("etag"), changed.header("annals-sequence")), ("\"2\"", "6"));
    let bob = create(&tenant, "bob").await;
    let lost = place(&tenant, "lost", "ext:bob", 7).await;
    let other = tenant.using(newcomer(&lodging, &tenant).await);
    let stranger = create(&other, "stranger").await;
    assert_eq!(listed(&tenant, "/orders", &lost).await, [lost.id(), kept.id()]);
    assert_eq!(revenue(&tenant, &lost).await["amount"], 12);
    assert_eq!(listed(&other, "/customers", &stranger).await, [stranger.id()]);
    let mut pages = Vec::new();
    for path in ["/events?limit=6", "/orders?as_of=8&limit=1", "/diff?type=order&from=0&limit=1"] {
        let page = until_taken(|| tenant.get(path)).await;
        pages.push(format!("{path}&cursor={}", page.body["next_cursor"].as_str().unwrap()));
    }
    until_published(&lodging, (fork, 1)).await;
    backup.restore().await;

    let begun = Instant::now();
    let next = place(&tenant, "next", "ext:ada", 11).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?} went by until a command was taken", begun.elapsed());
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)]);
    assert_eq!(next.header("annals-sequence"), "6@2", "the number of what was lost, and told apart from it");
    // Whoever holds what was lost is told so, whatever it asks.
    for path in ["/orders", "/analytics/revenue", "/audit-logs", "/events", path.as_str()] {
        for lost in [&changed, &lost] {
            let told = refused(|| tenant.get(path).after(lost), 409, "log-restored").await;
            assert_eq!(told.body["sequence"], 5, "{}", told.text);
        }
    }
    for page in &pages {
        refused(|| tenant.get(page), 409, "log-restored").await;
    }
    answered(|| tenant.get(&format!("/events?after={}", next.header("annals-sequence")))).await;
    refused(|| tenant.patch(&path, &change).header("if-match", "\"2\""), 409, "log-restored").await;
    answered(|| tenant.get("/orders").header("annals-min-sequence", "5")).await;
    refused(|| tenant.get("/orders").header("annals-min-sequence", "99@2"), 422, "validation-failed").await;
    refused(|| tenant.get("/orders").header("annals-min-sequence", "6@3"), 409, "log-restored").await;
    refused(|| tenant.get(&format!("/customers/{}", bob.id())), 404, "not-found").await;
    // The commands are repeated under their keys: what was lost has its effect again, what survived has it once.
    let again = create(&tenant, "bob").await;
    assert!(!again.headers.contains_key("idempotent-replayed") && again.id() != bob.id());
    let replayed = place(&tenant, "kept", "ext:ada", 5).await;
    assert_eq!((replayed.id(), replayed.header("annals-sequence")), (kept.id(), "5"));
    let replaced = place(&tenant, "lost", "ext:bob", 7).await;
    let back = answered(|| tenant.patch(&path, &change).header("if-match", "\"1\"")).await;
    assert_eq!(back.header("etag"), "\"2@2\"");
    refused(|| tenant.patch(&path, &json!({"country": "DE"})).header("if-match", "\"2\""), 409, "log-restored").await;
    answered(|| tenant.patch(&path, &json!({"country": "DE"})).header("if-match", "\"2@2\"")).await;
    refused(|| tenant.patch(&path, &json!({"country": "IT"})).header("if-match", "\"2@2\""), 412, "version-conflict")
        .await;
    // The tenant that was opened in the lost time has never been.
    refused(|| other.get("/customers"), 401, "invalid-api-key").await;

    let last = place(&tenant, "last", "ext:ada", 1).await;
    assert_eq!(listed(&tenant, "/orders", &last).await, [last.id(), replaced.id(), next.id(), kept.id()]);
    assert_eq!(revenue(&tenant, &last).await["amount"], 24);
    assert_eq!(
        answered(|| tenant.get("/orders").after(&last)).await.header("annals-read-sequence"),
        last.header("annals-sequence")
    );
    let health = answered(|| tenant.get("!/health/ready")).await;
    assert_eq!(health.body["status"], "ready", "{}", health.text);
    let metrics = answered(|| tenant.get("!/metrics")).await;
    assert!(metrics.text.contains("annals_log_incarnation 2"), "the figure is there");

    // Kafka still has what was lost, and has what followed under the new number.
    let position = end(&lodging.dsn).await;
    until_read(&lodging.dsn, position, projectors(&lodging.dsn).await).await;
    until_published(&lodging, (position, 2)).await;
    let published = published(&lodging);
    assert!(published.contains(&(fork, 1)), "what was lost had been published");
    assert!((fork..=position).all(|position| published.contains(&(position, 2))), "{published:?}");
    // A restart begins no other life.
    assert_eq!(all.end().await, 0);
    let all = Running::start(&lodging, "all", &[]);
    ready(&tenant).await;
    let restarted = place(&tenant, "restarted", "ext:ada", 1).await;
    assert_eq!(listed(&tenant, "/orders", &restarted).await.len(), 5);
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)]);
    equal_the_fold(&lodging, &lodging.dsn, [all]).await;
    has_nowhere(&lodging.dsn, &[lost.id(), bob.id(), stranger.id()]).await;
    lodging.leave().await;
}

/// Two processes that serve, and those that project and work, while clients write all the time.
async fn restored_under_load_without_kafka(_: &House) {
    let lodging = Lodging::new().await;
    let second = lodging.free_address();
    let mut house = vec![Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", "")])];
    house.push(Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &second)]));
    for role in ["project", "work"] {
        let nowhere = lodging.free_address();
        house.push(Running::start(&lodging, role, &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &nowhere)]));
    }
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let elsewhere = tenant.using(tenant.client.at(&second));
    ready(&elsewhere).await;
    for customer in ["c0", "c1", "c2", "c3"] {
        create(&tenant, customer).await;
    }
    let backup = Backup::take(&lodging).await;
    let fork = end(&lodging.dsn).await + 1;
    let stop = AtomicBool::new(false);
    // Eight writers on four streams; each tells what was acknowledged.
    let writer = |number: usize| {
        let (client, stop) = (if number.is_multiple_of(2) { tenant.clone() } else { elsewhere.clone() }, &stop);
        async move {
            let mut acknowledged = Vec::new();
            for step in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let body = json!({ "name": format!("{number} {step}") });
                let answer = client.patch(&format!("/customers/ext:c{}", number % 4), &body).send().await;
                assert!([200, 503].contains(&answer.status), "{}", answer.text);
                if answer.status == 200 {
                    let told = |name| answer.header(name).to_owned();
                    acknowledged.push((told("annals-sequence"), told("etag"), answer.id().to_owned()));
                }
            }
            acknowledged
        }
    };
    let restored = async {
        while !has_come_to(&tenant, 200, "").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        backup.restore().await;
        let begun = Instant::now();
        while !has_come_to(&tenant, 100, "@2").await {
            assert!(begun.elapsed() < Duration::from_secs(60), "the house hangs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (acknowledged, ()) = tokio::join!(futures::future::join_all((0..8).map(writer)), restored);
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)], "two processes opened one");

    // What was acknowledged in the new life is there, at its sequence.
    let all = tenant_events(&lodging, &tenant).await;
    let mut survived = 0;
    for (token, tag, id) in acknowledged.iter().flatten().filter(|(token, ..)| token.ends_with("@2")) {
        let sequence: i64 = token.trim_end_matches("@2").parse().unwrap();
        let event = all.iter().find(|event| event.sequence == sequence && event.position >= fork);
        let event = event.unwrap_or_else(|| panic!("{token} is not there"));
        let place = (domain::CustomerId::from(event.stream_id).to_string(), format!("\"{}@2\"", event.version));
        assert_eq!((&place.0, &place.1), (id, tag), "{token}");
        survived += 1;
    }
    assert!(survived > 20, "{survived} were acknowledged after the restore");
    let mut versions = HashMap::new();
    for (event, sequence) in all.iter().zip(1..) {
        let version = versions.entry(event.stream_id).or_insert(0);
        *version += 1;
        assert_eq!((event.sequence, event.version), (sequence, *version), "dense");
    }
    let last = place(&tenant, "last", "ext:c0", 1).await;
    assert_eq!(listed(&elsewhere, "/orders", &last).await, [last.id()]);
    for customer in ["c0", "c1", "c2", "c3"] {
        let path = format!("/customers/ext:{customer}");
        let (one, other) = (answered(|| tenant.get(&path)).await, answered(|| elsewhere.get(&path)).await);
        assert_eq!((one.header("etag"), &one.body), (other.header("etag"), &other.body));
    }
    equal_the_fold(&lodging, &lodging.dsn, house).await;
    lodging.leave().await;
}

/// Whether the tenant's log is that long in a life; nobody may know yet that there is one.
async fn has_come_to(tenant: &Tenant, count: i64, life: &str) -> bool {
    let seen = tenant.get("/customers/ext:c0").send().await;
    let token = seen.headers.get("annals-read-sequence").map(|token| token.to_str().unwrap().to_owned());
    token.and_then(|token| token.strip_suffix(life)?.parse::<i64>().ok()).is_some_and(|sequence| sequence >= count)
}

async fn tenant_events(lodging: &Lodging, tenant: &Tenant) -> Vec<eventstore::RecordedEvent> {
    let store = connect(&lodging.dsn).await;
    let all = store.read_tenant(tenant.id.uuid(), 0, i64::MAX, &EventFilter::default(), i64::MAX).await.unwrap();
    store.close().await;
    all
}

async fn read_models_that_were_not_restored_are_made_anew(_: &House) {
    for brokers in [setting("ANNALS_KAFKA_BROKERS"), String::new()] {
        let lodging = Lodging::new().await;
        let name = format!("{}_read", lodging.database());
        let read = create_database(&server().url, &name).await;
        let settings = [("ANNALS_READ_DATABASE_URL", read.url.as_str()), ("ANNALS_KAFKA_BROKERS", &brokers)];
        let all = Running::start(&lodging, "all", &settings);
        let tenant = lodging.tenant().await;
        ready(&tenant).await;
        create(&tenant, "ada").await;
        let kept = place(&tenant, "kept", "ext:ada", 5).await;
        listed(&tenant, "/orders", &kept).await;
        let backup = Backup::take(&lodging).await;
        let bob = create(&tenant, "bob").await;
        let lost = place(&tenant, "lost", "ext:bob", 7).await;
        assert_eq!(revenue(&tenant, &lost).await["amount"], 12);
        backup.restore().await;

        // From the first answer on nothing of what was lost is shown.
        let next = place(&tenant, "next", "ext:ada", 11).await;
        let orders = answered(|| tenant.get("/orders")).await;
        assert!(!orders.text.contains(lost.id()), "{}", orders.text);
        assert_eq!(listed(&tenant, "/orders", &next).await, [next.id(), kept.id()]);
        assert_eq!(revenue(&tenant, &next).await["amount"], 16);
        equal_the_fold(&lodging, &read, [all]).await;
        has_nowhere(&read, &[lost.id(), bob.id()]).await;
        drop_database(&name).await;
        lodging.leave().await;
    }
}

async fn the_mark_beside_the_keys_shows_that_the_log_went_back(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let backup = Backup::take(&lodging).await;
    let fork = end(&lodging.dsn).await + 1;
    place(&tenant, "lost", "ext:ada", 7).await;
    assert_eq!(serve.end().await, 0);
    lodging.store().close().await;
    backup.restore().await;

    // Any command that writes notices, and no second one does.
    let keys = ["keys", "create", "--tenant", &tenant.id.to_string(), "--name", "n", "--scope", "audit:read"];
    for _ in 0..2 {
        let made = lodging.command(&keys).output().await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)]);
    assert!(reason(&lodging).await.contains("the mark beside the keys"));

    // The new life is lost as a whole: it is known from the mark, and its number is not given again.
    let backup = Backup::take(&lodging).await;
    let fork = end(&lodging.dsn).await + 1;
    let serve = Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", "")]);
    ready(&tenant).await;
    place(&tenant, "lost", "ext:ada", 7).await;
    // Killed as it stands: the mark is as old as it may be.
    let mut marked = lodging.high_water();
    while marked.is_none_or(|mark| mark.position < fork) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        marked = lodging.high_water();
    }
    serve.kill().await;
    backup.restore().await;
    let mut serve = Vec::new();
    for address in [lodging.address().trim_start_matches("http://").to_owned(), lodging.free_address()] {
        serve.push(Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", &address)]));
    }
    ready(&tenant).await;
    let next = place(&tenant, "next", "ext:ada", 7).await;
    assert!(next.header("annals-sequence").ends_with("@3"), "{}", next.header("annals-sequence"));
    assert_eq!(lives(&lodging).await.last(), Some(&(3, fork)));
    assert_eq!(lodging.high_water().map(|mark| mark.incarnation), Some(3));
    for process in serve {
        assert_eq!(process.end().await, 0);
    }
    lodging.leave().await;
}

async fn kafka_alone_shows_that_the_log_went_back(_: &House) {
    // Once at the next start, and once after others have gone on writing without knowing.
    for unnoticed in [false, true] {
        let lodging = Lodging::new().await;
        let all = Running::start(&lodging, "all", &[]);
        let tenant = lodging.tenant().await;
        ready(&tenant).await;
        create(&tenant, "ada").await;
        let kept = place(&tenant, "kept", "ext:ada", 5).await;
        listed(&tenant, "/orders", &kept).await;
        let backup = Backup::take(&lodging).await;
        let fork = end(&lodging.dsn).await + 1;
        let lost = place(&tenant, "lost", "ext:ada", 7).await;
        let far = place(&tenant, "far", "ext:ada", 8).await;
        until_published(&lodging, (fork + 1, 1)).await;
        listed(&tenant, "/orders", &far).await;
        assert_eq!(all.end().await, 0);
        lodging.store().close().await;
        backup.restore().await;
        for dir in lodging.key_dirs() {
            std::fs::remove_file(dir.join("high-water")).unwrap();
        }

        let mut written = Vec::new();
        if unnoticed {
            let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
            ready(&tenant).await;
            for key in ["one", "two", "three"] {
                written.insert(0, place(&tenant, key, "ext:ada", 1).await);
            }
            assert_eq!(lives(&lodging).await, [(1, 1)], "nothing shows it");
            assert_eq!(listed(&tenant, "/orders", &written[0]).await.len(), 4);
            assert_eq!(all.end().await, 0);
        }
        let all = Running::start(&lodging, "all", &[]);
        ready(&tenant).await;
        let begun = Instant::now();
        while lives(&lodging).await.len() < 2 {
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody has looked into Kafka");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)], "it begins where the log first differs");
        assert!(reason(&lodging).await.contains("Kafka"));
        written.insert(0, place(&tenant, "next", "ext:ada", 11).await);
        let mut orders: Vec<_> = written.iter().map(|answer| answer.id().to_owned()).collect();
        orders.push(kept.id().to_owned());
        assert_eq!(listed(&tenant, "/orders", &written[0]).await, orders);
        refused(|| tenant.get("/orders").after(&lost), 409, "log-restored").await;
        equal_the_fold(&lodging, &lodging.dsn, [all]).await;
        has_nowhere(&lodging.dsn, &[lost.id(), far.id()]).await;
        lodging.leave().await;
    }
}

async fn another_server_begins_a_life_and_nothing_is_lost(_: &House) {
    let lodging = Lodging::new().await;
    let nowhere = [("ANNALS_KAFKA_BROKERS", "")];
    let all = Running::start(&lodging, "all", &nowhere);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let kept = place(&tenant, "kept", "ext:ada", 5).await;
    listed(&tenant, "/orders", &kept).await;
    assert_eq!(all.end().await, 0);
    // As a standby sees it that has taken over: the log was last written on another timeline.
    let fork = end(&lodging.dsn).await + 1;
    let mut owner = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let other = sqlx::query("UPDATE log_incarnations SET server = left(server, -8) || '00000000'");
    assert_eq!(other.execute(&mut owner).await.unwrap().rows_affected(), 1);
    owner.close().await.unwrap();

    let all = Running::start(&lodging, "all", &nowhere);
    ready(&tenant).await;
    let next = place(&tenant, "next", "ext:ada", 7).await;
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)]);
    assert!(reason(&lodging).await.contains("timeline"));
    // What everybody holds is still good, and nobody has to begin anew.
    assert_eq!(next.header("annals-sequence"), format!("{}@2", kept.sequence() + 1));
    assert_eq!(listed(&tenant, "/orders", &kept).await.len(), 2);
    assert_eq!(listed(&tenant, "/orders", &next).await, [next.id(), kept.id()]);
    assert_eq!(all.end().await, 0);
    let all = Running::start(&lodging, "all", &nowhere);
    ready(&tenant).await;
    place(&tenant, "third", "ext:ada", 7).await;
    assert_eq!(lives(&lodging).await.len(), 2);
    equal_the_fold(&lodging, &lodging.dsn, [all]).await;
    lodging.leave().await;
}

async fn an_erasure_that_the_log_has_lost_stays_done(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let ada = create(&tenant, "ada").await;
    create(&tenant, "bob").await;
    let backup = Backup::take(&lodging).await;
    until_taken(|| tenant.get(&format!("/customers/{}", ada.id()))).await;
    erase(&tenant, ada.id()).await;
    backup.restore().await;

    let next = place(&tenant, "next", "ext:bob", 1).await;
    // The log says that she is there, and her keys are gone: nothing is shown, nothing fails, nothing more is sealed.
    let path = format!("/customers/{}", ada.id());
    let seen = answered(|| tenant.get(&path)).await;
    assert_eq!((seen.body["status"].as_str(), &seen.body["name"]), (Some("active"), &Value::Null));
    let list = answered(|| tenant.get("/customers").after(&next)).await;
    let names: Vec<_> = list.data().iter().map(|customer| customer["name"].clone()).collect();
    assert_eq!(names, [json!("Ada"), Value::Null]);
    refused(|| tenant.patch(&path, &json!({"name": "Countess"})), 409, "subject-erased").await;
    // The erasure is asked for once more, without a reason that would have to be sealed, and comes to its end.
    carry_out(&tenant, &json!({"customer": ada.id(), "kind": "erasure"})).await;
    let seen = tenant.get(&path).expect(200).await;
    assert_eq!((seen.body["status"].as_str(), &seen.body["name"]), (Some("erased"), &Value::Null));
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

/// Commands that change nothing append nothing, and reads neither: all the same nothing is answered from what was
/// remembered of a log that went back, by the first request after the restore.
async fn what_was_lost_is_neither_confirmed_nor_shown(_: &House) {
    let lodging = Lodging::new().await;
    let all = Running::start(&lodging, "all", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let mut paths = Vec::new();
    for number in 0..8 {
        paths.push(format!("/customers/{}", create(&tenant, &format!("c{number}")).await.id()));
    }
    let fork = end(&lodging.dsn).await + 1;
    let backup = Backup::take(&lodging).await;
    let (lost, refused) = (json!({ "country": "FR" }), json!({ "country": "DE" }));
    for path in &paths {
        let answer = answered(|| tenant.patch(path, &lost)).await;
        assert_eq!(answer.header("etag"), "\"2\"");
    }
    backup.restore().await;
    let asked = paths.iter().enumerate().map(|(number, path)| {
        let (tenant, lost, refused) = (&tenant, &lost, &refused);
        async move {
            match number % 3 {
                0 => until_taken(|| tenant.patch(path, lost)).await,
                1 => until_taken(|| tenant.get(path)).await,
                _ => until_taken(|| tenant.patch(path, refused).header("if-match", "\"1\"")).await,
            }
        }
    });
    for (number, answer) in futures::future::join_all(asked).await.iter().enumerate() {
        let told = (answer.status, answer.headers.get("etag").map(|tag| tag.to_str().unwrap()));
        match number % 3 {
            0 => assert_eq!(told, (200, Some("\"2@2\"")), "{}", answer.text),
            1 => assert_eq!((told, &answer.body["country"]), ((200, Some("\"1\"")), &Value::Null), "{}", answer.text),
            _ => assert_eq!(told, (200, Some("\"2@2\"")), "{}", answer.text),
        }
    }
    assert_eq!(lives(&lodging).await, [(1, 1), (2, fork)]);
    equal_the_fold(&lodging, &lodging.dsn, [all]).await;
    lodging.leave().await;
}
