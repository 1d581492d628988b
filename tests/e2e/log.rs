//! The log itself: order, density, versions, names, keys, and what a refused append does to its neighbours.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use eventstore::{Append, AppendError, Claim, EventFilter, IdempotencyRecord, NewEvent, StreamAppend, Until, new_id};
use futures::TryStreamExt;
use futures::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::house::{House, Lodging};
use crate::tests;

tests![
    concurrent_appends_are_dense_and_in_commit_order,
    of_two_writers_at_one_version_one_wins,
    a_name_has_one_holder_and_can_be_given_up,
    a_key_is_answered_once,
    bytes_that_postgres_refuses_fail_their_caller_alone,
    an_event_over_the_bound_is_refused,
    nothing_is_written_about_an_erased_person,
    an_append_that_was_committed_is_recognised_when_it_comes_again,
    events_cannot_be_changed_or_deleted,
    several_streams_are_appended_to_at_once_or_not_at_all,
    what_is_decided_on_an_append_is_committed_behind_it_or_not_at_all,
    commands_on_one_stream_are_decided_one_on_the_other,
    the_losers_in_a_batch_are_told_and_the_rest_is_committed,
    a_redaction_keeps_the_hash_of_the_body,
    another_tenants_rows_are_not_there,
    long_reads_are_streams_in_order_and_end_where_they_are_told,
    a_moment_that_was_read_stays_as_it_was,
    processes_hear_who_asks_the_others,
];

/// What fits the schema: the house that the tests share reads it, too.
const PAYLOAD: &str = r#"{"name": "Test"}"#;

fn event(payload: &str) -> NewEvent {
    NewEvent {
        event_id: new_id(),
        event_type: "tenant.created",
        schema_version: 1,
        subjects: Vec::new(),
        actor: "sys_00000000000000000000000001".into(),
        occurred_at: DateTime::<Utc>::UNIX_EPOCH,
        payload: payload.into(),
        metadata: "{}".into(),
        salt: [1; 16],
    }
}

/// One event for one stream.
fn append(house: &House, tenant: Uuid, stream_id: Uuid, expected_version: i64) -> Append {
    let stream =
        StreamAppend { stream_type: "tenancy.tenant", stream_id, expected_version, events: vec![event(PAYLOAD)] };
    Append { tenant, epoch: house.store.epoch(), streams: vec![stream], ..Append::default() }
}

async fn concurrent_appends_are_dense_and_in_commit_order(house: &House) {
    let tenants: Vec<Uuid> = (0..4).map(|_| new_id()).collect();
    let writers = (0..400).map(|n| house.store.append(append(house, tenants[n % 4], new_id(), 0)));
    let committed: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let positions: HashSet<i64> = committed.iter().map(|c| c.position).collect();
    assert_eq!(positions.len(), 400);
    for tenant in tenants {
        let events = house.store.read_tenant(tenant, 0, 1_000, &Default::default(), 1_000).await.unwrap();
        let sequences: Vec<i64> = events.iter().map(|e| e.sequence).collect();
        assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
        assert!(events.is_sorted_by_key(|e| e.position) && events.is_sorted_by_key(|e| e.recorded_at));
        assert_eq!(house.store.tenant_head(tenant).await.unwrap(), 100);
    }
    let (first, last) = (*positions.iter().min().unwrap(), *positions.iter().max().unwrap());
    let all = house.store.read_log(first - 1, last - first + 1).await.unwrap();
    assert_eq!(all.iter().map(|e| e.position).collect::<Vec<_>>(), (first..=last).collect::<Vec<_>>());
}

async fn of_two_writers_at_one_version_one_wins(house: &House) {
    let (tenant, stream) = (new_id(), new_id());
    for version in 0..5 {
        let racers = (0..16).map(|_| house.store.append(append(house, tenant, stream, version)));
        let results = join_all(racers).await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        let told = AppendError::Conflict { stream_id: stream, actual: version + 1 };
        assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|error| *error == told));
    }
}

async fn a_name_has_one_holder_and_can_be_given_up(house: &House) {
    let tenant = new_id();
    let (first, second) = (new_id(), new_id());
    let claiming = |stream_id, version| {
        let claim = Claim { kind: "commerce.customer.email".into(), key: [9; 32], stream_id };
        Append { claims: vec![claim], ..append(house, tenant, stream_id, version) }
    };
    house.store.append(claiming(first, 0)).await.unwrap();
    let taken = AppendError::ClaimTaken { kind: "commerce.customer.email".into(), holder: first };
    assert_eq!(house.store.append(claiming(second, 0)).await, Err(taken));
    let release = eventstore::Release { stream_id: first, kind: None };
    let giving_up = Append { releases: vec![release], ..append(house, tenant, first, 1) };
    house.store.append(giving_up).await.unwrap();
    house.store.append(claiming(second, 0)).await.unwrap();
    let holder = house.store.claim_holder(tenant, "commerce.customer.email", &[9; 32]).await.unwrap();
    assert_eq!(holder, Some(second));
}

async fn a_key_is_answered_once(house: &House) {
    let tenant = new_id();
    let keyed = |stream_id: Uuid| {
        let record = IdempotencyRecord {
            key: [5; 32],
            item: 0,
            fingerprint: [6; 32],
            status: 201,
            stream_type: "tenancy.tenant".into(),
            stream_id,
            version: 1,
            sequence: 0,
        };
        Append { idempotency: Some(record), ..append(house, tenant, stream_id, 0) }
    };
    let streams: Vec<Uuid> = (0..16).map(|_| new_id()).collect();
    let results = join_all(streams.iter().map(|stream| house.store.append(keyed(*stream)))).await;
    let winner = results.iter().position(Result::is_ok).unwrap();
    for (index, result) in results.iter().enumerate().filter(|(index, _)| *index != winner) {
        let Err(AppendError::Duplicate(record)) = result else { panic!("{index}: {result:?}") };
        assert_eq!((record.stream_id, record.sequence), (streams[winner], 1));
    }
    assert_eq!(house.store.tenant_head(tenant).await.unwrap(), 1);
}

async fn bytes_that_postgres_refuses_fail_their_caller_alone(house: &House) {
    let tenant = new_id();
    let appends = (0..64).map(|n| {
        let mut append = append(house, tenant, new_id(), 0);
        if n % 20 == 7 {
            append.streams[0].events[0].payload = "{\"a\": \"\0\"}".into();
        }
        house.store.append(append)
    });
    let results = join_all(appends).await;
    for (n, result) in results.iter().enumerate() {
        let refused = matches!(result, Err(AppendError::Refused(_)));
        assert_eq!(refused, n % 20 == 7, "{n}: {result:?}");
    }
    assert_eq!(house.store.tenant_head(tenant).await.unwrap(), 61);
}

async fn an_event_over_the_bound_is_refused(house: &House) {
    let mut append = append(house, new_id(), new_id(), 0);
    append.streams[0].events[0].payload = "x".repeat(256 * 1024);
    assert!(matches!(house.store.append(append).await, Err(AppendError::TooLarge { .. })));
}

async fn nothing_is_written_about_an_erased_person(house: &House) {
    let (tenant, person) = (new_id(), new_id());
    let before = house.store.epoch();
    let about = |epoch| Append { about: vec![person], epoch, ..append(house, tenant, new_id(), 0) };
    house.store.append(about(before)).await.unwrap();
    house.store.append(Append { tombstone: Some(person), ..append(house, tenant, person, 0) }).await.unwrap();
    // Decided before the tombstone, appended after it.
    assert_eq!(house.store.append(about(before)).await, Err(AppendError::SubjectErased(person)));
    let other = crate::house::connect(&house.dsn).await;
    assert_eq!(other.append(about(before)).await, Err(AppendError::SubjectErased(person)), "in another process");
    other.close().await;
}

async fn an_append_that_was_committed_is_recognised_when_it_comes_again(house: &House) {
    let append = append(house, new_id(), new_id(), 0);
    let first = house.store.append(append.clone()).await.unwrap();
    assert_eq!(house.store.append(append).await, Ok(first));
}

async fn several_streams_are_appended_to_at_once_or_not_at_all(house: &House) {
    let tenant = new_id();
    let ids: Vec<Uuid> = (0..5).map(|_| new_id()).collect();
    let stream = |id: &Uuid, expected_version| StreamAppend {
        stream_type: "tenancy.tenant",
        stream_id: *id,
        expected_version,
        events: vec![event(PAYLOAD), event(PAYLOAD)],
    };
    let of = |streams: Vec<StreamAppend>| Append { tenant, epoch: house.store.epoch(), streams, ..Append::default() };
    let four = of(ids[..4].iter().map(|id| stream(id, 0)).collect());
    let committed = house.store.append(four.clone()).await.unwrap();
    assert_eq!(committed.sequence, 8);
    assert_eq!(house.store.append(four).await, Ok(committed), "the same again is recognised");
    let one_is_old = of(vec![stream(&ids[0], 2), stream(&ids[4], 0), stream(&ids[1], 1)]);
    let told = AppendError::Conflict { stream_id: ids[1], actual: 2 };
    assert_eq!(house.store.append(one_is_old).await, Err(told));
    assert_eq!(house.store.tenant_head(tenant).await.unwrap(), 8);
    let five = of(ids.iter().map(|id| stream(id, 0)).collect());
    assert!(matches!(house.store.append(five).await, Err(AppendError::Refused(_))));
    // Of many that share streams in all ways, each is whole or not there.
    let racers = (0..60).map(|n| of(vec![stream(&ids[n % 4], 2), stream(&ids[(n + 1 + n / 4 % 3) % 4], 2)]));
    let racers = racers.filter(|append| append.streams[0].stream_id != append.streams[1].stream_id);
    let won = join_all(racers.map(|append| house.store.append(append))).await.into_iter().filter(Result::is_ok).count();
    assert!((1..=2).contains(&won), "{won}");
    assert_eq!(house.store.tenant_head(tenant).await.unwrap(), 8 + 4 * won as i64);
}

async fn what_is_decided_on_an_append_is_committed_behind_it_or_not_at_all(house: &House) {
    let (tenant, stream) = (new_id(), new_id());
    let mut after = None;
    let mut all = Vec::new();
    for version in 0..50 {
        let pending = house.store.submit(append(house, tenant, stream, version), after).unwrap();
        all.push(pending.clone());
        after = Some(pending);
    }
    for (pending, version) in all.into_iter().zip(1..) {
        assert_eq!(pending.outcome().await.unwrap().sequence, version);
    }
    // The first of the next ones loses against another process.
    let other = crate::house::connect(&house.dsn).await;
    other.append(append(house, tenant, stream, 50)).await.unwrap();
    let loser = house.store.submit(append(house, tenant, stream, 50), None).unwrap();
    let follower = house.store.submit(append(house, tenant, stream, 51), Some(loser.clone())).unwrap();
    assert_eq!(loser.outcome().await, Err(AppendError::Conflict { stream_id: stream, actual: 51 }));
    let told = follower.outcome().await.unwrap_err();
    assert!(matches!(told, AppendError::Superseded | AppendError::Conflict { .. }), "{told:?}");
    assert_eq!(house.store.stream_version(tenant, stream).await.unwrap(), 51);
    other.close().await;
}

async fn commands_on_one_stream_are_decided_one_on_the_other(house: &House) {
    let tenant = house.tenant().await;
    let body = json!({"name": "Basic", "price": {"amount": 100, "currency": "USD"}, "interval": "month"});
    let plan = tenant.post("/plans", &body).expect(201).await;
    let path = format!("/plans/{}", plan.id());
    let rename = |n: usize| tenant.patch(&path, &json!({"name": format!("Plan {n}")})).expect(200);
    let answers = join_all((0..200).map(rename)).await;
    let mut versions: Vec<String> = answers.iter().map(|answer| answer.header("etag").to_owned()).collect();
    versions.sort_by_key(|etag| etag.trim_matches('"').parse::<i64>().unwrap());
    assert_eq!(versions, (2..=201).map(|n| format!("\"{n}\"")).collect::<Vec<_>>(), "each has an effect of its own");
    let id: domain::PlanId = plan.id().parse().unwrap();
    let events =
        house.store.read_stream(domain::TypedId::uuid(&tenant.id), domain::TypedId::uuid(&id), 0, Until::End, 500);
    let events = events.await.unwrap();
    for answer in &answers {
        let version: i64 = answer.header("etag").trim_matches('"').parse().unwrap();
        let event = &events[usize::try_from(version).unwrap() - 1];
        let stored: serde_json::Value = serde_json::from_str(event.payload.as_ref().unwrap()).unwrap();
        assert_eq!(stored["name"], answer.body["name"], "it is answered with what it stored");
        assert_eq!(answer.sequence(), event.sequence);
    }
    let commits: HashSet<_> = events.iter().map(|event| event.recorded_at).collect();
    assert!(commits.len() < 150, "{} commits: none waits for the one before", commits.len());
}

async fn the_losers_in_a_batch_are_told_and_the_rest_is_committed(house: &House) {
    let tenant = new_id();
    let (taken, erased, before) = (new_id(), new_id(), house.store.epoch());
    let claim = |key: u8, stream_id| vec![Claim { kind: "commerce.customer.email".into(), key: [key; 32], stream_id }];
    let first = Append { claims: claim(1, taken), ..append(house, tenant, taken, 0) };
    house.store.append(first).await.unwrap();
    house.store.append(Append { tombstone: Some(erased), ..append(house, tenant, erased, 0) }).await.unwrap();
    // All at once: most are good, and some break a rule each.
    let appends = (0..400).map(|n| {
        let stream = new_id();
        match n % 40 {
            7 => (Append { claims: claim(1, stream), ..append(house, tenant, stream, 0) }, "name"),
            // Decided before the tombstone.
            11 => (Append { about: vec![erased], epoch: before, ..append(house, tenant, stream, 0) }, "erased"),
            17 => (append(house, tenant, taken, 0), "version"),
            23 => (Append { process_command: Some(taken), ..append(house, tenant, stream, 0) }, "command"),
            _ => (append(house, tenant, stream, 0), ""),
        }
    });
    let (appends, rules): (Vec<_>, Vec<_>) = appends.unzip();
    let results = join_all(appends.into_iter().map(|append| house.store.append(append))).await;
    let mut sent = 0;
    for (result, rule) in results.iter().zip(rules) {
        match rule {
            "name" => assert!(matches!(result, Err(AppendError::ClaimTaken { holder, .. }) if *holder == taken)),
            "erased" => assert_eq!(*result, Err(AppendError::SubjectErased(erased))),
            "version" => assert_eq!(*result, Err(AppendError::Conflict { stream_id: taken, actual: 1 })),
            "command" if result.is_ok() => sent += 1,
            "command" => assert_eq!(*result, Err(AppendError::AlreadySent)),
            _ => assert!(result.is_ok(), "{result:?}"),
        }
    }
    assert_eq!(sent, 1, "a command of a process is carried out once");
}

async fn superuserless(house: &House, role: eventstore::Role) -> PgConnection {
    PgConnection::connect_with(&house.dsn.options(role).unwrap()).await.unwrap()
}

async fn events_cannot_be_changed_or_deleted(house: &House) {
    let (tenant, stream) = (new_id(), new_id());
    house.store.append(append(house, tenant, stream, 0)).await.unwrap();
    for role in [eventstore::Role::Owner, eventstore::Role::Writer, eventstore::Role::Api] {
        let mut conn = superuserless(house, role).await;
        for sql in ["UPDATE events SET payload = '{}' WHERE tenant_id = $1", "DELETE FROM events WHERE tenant_id = $1"]
        {
            let refused = sqlx::query(sql).bind(tenant).execute(&mut conn).await.unwrap_err();
            let code = refused.as_database_error().unwrap().code().unwrap().into_owned();
            assert_eq!(code, "42501", "{role:?} {sql}");
        }
        assert!(sqlx::query("TRUNCATE events").execute(&mut conn).await.is_err(), "{role:?}");
    }
}

async fn a_redaction_keeps_the_hash_of_the_body(house: &House) {
    let (tenant, stream) = (new_id(), new_id());
    let append = append(house, tenant, stream, 0);
    let event = append.streams[0].events[0].clone();
    let committed = house.store.append(append).await.unwrap();
    let mut owner = superuserless(house, eventstore::Role::Owner).await;
    let hash: Vec<u8> = sqlx::query_scalar("SELECT redact_event($1, $2)")
        .bind(tenant)
        .bind(committed.sequence)
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(hash, eventstore::bytes::body_hash(&event.salt, &event.payload, &event.metadata));
    let events = house.store.read_stream(tenant, stream, 0, Until::End, 10).await.unwrap();
    assert_eq!((events.len(), events[0].payload.as_ref(), events[0].event_id), (1, None, event.event_id));
}

async fn another_tenants_rows_are_not_there(house: &House) {
    let (tenant, stranger) = (new_id(), new_id());
    house.store.append(append(house, tenant, new_id(), 0)).await.unwrap();
    let mut tx = house.store.tenants().begin(stranger).await.unwrap();
    // No WHERE at all: row-level security alone must hide them.
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 0);
    drop(tx);
    let mut unset = superuserless(house, eventstore::Role::Api).await;
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut unset).await.unwrap();
    assert_eq!(seen, 0, "no tenant set means nothing");
}

async fn long_reads_are_streams_in_order_and_end_where_they_are_told(house: &House) {
    let (tenant, stream) = (new_id(), new_id());
    let grow = async |version: i64| {
        let mut grown = append(house, tenant, stream, version);
        grown.streams[0].events = (0..500).map(|_| event(PAYLOAD)).collect();
        house.store.append(grown).await.unwrap()
    };
    // More than a page of a stream, and more than a range of the log; between the two parts, another stream.
    let first = grow(0).await;
    grow(500).await;
    let between = house.store.append(append(house, tenant, new_id(), 0)).await.unwrap();
    for version in [1_000, 1_500] {
        grow(version).await;
    }
    let last = grow(2_000).await;
    let versions = async |until| {
        let events: Vec<_> = house.store.stream(tenant, stream, until).try_collect().await.unwrap();
        assert!(events.iter().map(|event| event.version).eq(1..=events.len() as i64), "{until:?}");
        events.len()
    };
    assert_eq!(versions(Until::End).await, 2_500);
    assert_eq!(versions(Until::Version(700)).await, 700);
    assert_eq!(versions(Until::Version(0)).await, 0);
    assert_eq!(versions(Until::Sequence(between.sequence)).await, 1_000);
    assert_eq!(versions(Until::Sequence(between.sequence + 1)).await, 1_001);
    let after = first.position - 500;
    let log: Vec<_> = house.store.log(after, last.position).try_collect().await.unwrap();
    assert!(log.iter().map(|event| event.position).eq(after + 1..=last.position));
    let facts = house.store.facts(after, last.position, |fact| {
        let payload = fact.payload.map(str::to_owned);
        (
            (fact.position, fact.tenant_id, fact.sequence, fact.stream_id, fact.version),
            fact.event_type.to_owned(),
            payload,
        )
    });
    let seen = log.iter().map(|event| {
        let numbers = (event.position, event.tenant_id, event.sequence, event.stream_id, event.version);
        (numbers, event.event_type.clone(), event.payload.clone())
    });
    assert_eq!(facts.try_concat().await.unwrap(), seen.collect::<Vec<_>>());
    let history = |filter| house.store.tenant_log(tenant, 10, last.sequence, filter).try_collect::<Vec<_>>();
    let all = history(EventFilter::default()).await.unwrap();
    assert!(all.iter().map(|event| event.sequence).eq(11..=2_501));
    assert_eq!(all, log.into_iter().filter(|event| event.tenant_id == tenant).skip(10).collect::<Vec<_>>());
    let one = history(EventFilter { stream: Some(stream), ..EventFilter::default() }).await.unwrap();
    assert_eq!(one.len(), 2_490);
    let of_type = |name: &str| EventFilter { event_type: Some(name.into()), stream: None };
    assert_eq!(history(of_type(&all[0].event_type)).await.unwrap().len(), 2_491);
    assert_eq!(history(of_type("it's' OR true --")).await.unwrap(), [], "a name is a text and nothing else");
    // Whoever goes away in the middle leaves the connections as they were.
    for _ in 0..20 {
        let mut log = Box::pin(house.store.log(after, last.position));
        assert_eq!(log.try_next().await.unwrap().map(|event| event.position), Some(after + 1));
    }
    assert_eq!(house.store.read_log(after, 3).await.unwrap().len(), 3);
}

/// What was recorded by a moment does not grow, however short ago that was and whatever is just being committed.
async fn a_moment_that_was_read_stays_as_it_was(house: &House) {
    let (lodging, tenant, done) = (Lodging::new().await, new_id(), AtomicBool::new(false));
    let store = lodging.store();
    let writers = join_all((0..16).map(|_| async {
        while !done.load(Ordering::Relaxed) {
            let append = Append { epoch: store.epoch(), ..append(house, tenant, new_id(), 0) };
            store.append(append).await.unwrap();
        }
    }));
    let reader = async {
        let mut moments = Vec::new();
        for _ in 0..300 {
            let now = commands::clock::now();
            moments.push((now, store.sequence_at(tenant, now).await.unwrap()));
        }
        done.store(true, Ordering::Relaxed);
        moments
    };
    let (_, moments) = tokio::join!(writers, reader);
    for (moment, seen) in moments {
        assert_eq!(store.sequence_at(tenant, moment).await.unwrap(), seen, "by {moment}");
    }
    let tomorrow = commands::clock::now() + TimeDelta::days(1);
    assert_eq!(store.sequence_at(tenant, tomorrow).await.unwrap(), None, "nobody knows yet");
    lodging.leave().await;
}

/// On a log of its own: who else asks the house that the tests share, nobody knows.
async fn processes_hear_who_asks_the_others(_: &House) {
    let lodging = Lodging::new().await;
    let (one, other) = (lodging.store(), crate::house::connect(&lodging.dsn).await);
    let (importer, caller) = (new_id(), new_id());
    one.callers().note(importer);
    assert!(!one.callers().others_than(importer) && !other.callers().others_than(importer));
    let until = async |heard: bool, asks: bool| {
        let heard = async || {
            while other.callers().others_than(importer) != heard {
                if asks {
                    one.callers().note(caller);
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), heard()).await.expect("it is heard");
    };
    until(true, true).await;
    one.callers().note(caller);
    assert!(one.callers().others_than(importer), "and known where it was asked");
    until(false, false).await;
    other.close().await;
    lodging.leave().await;
}
