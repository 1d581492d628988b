//! The log itself: order, density, versions, names, keys, and what a refused append does to its neighbours.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use eventstore::{Append, AppendError, Claim, EventFilter, IdempotencyRecord, NewEvent, StreamAppend, Until, new_id};
use futures::TryStreamExt;
use futures::future::join_all;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::house::House;
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
    a_redaction_keeps_the_hash_of_the_body,
    another_tenants_rows_are_not_there,
    long_reads_are_streams_in_order_and_end_where_they_are_told,
];

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
    let stream = StreamAppend { stream_type: "tenancy.tenant", stream_id, expected_version, events: vec![event("{}")] };
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
    let many = |version: i64, count: usize| {
        let mut append = append(house, tenant, stream, version);
        append.streams[0].events = (0..count).map(|_| event("{}")).collect();
        append
    };
    // More than a page of a stream, and more than a range of the log; between the two parts, another stream.
    let first = house.store.append(many(0, 1_200)).await.unwrap();
    let between = house.store.append(append(house, tenant, new_id(), 0)).await.unwrap();
    let last = house.store.append(many(1_200, 1_300)).await.unwrap();
    let versions = async |until| {
        let events: Vec<_> = house.store.stream(tenant, stream, until).try_collect().await.unwrap();
        assert!(events.iter().map(|event| event.version).eq(1..=events.len() as i64), "{until:?}");
        events.len()
    };
    assert_eq!(versions(Until::End).await, 2_500);
    assert_eq!(versions(Until::Version(1_000)).await, 1_000);
    assert_eq!(versions(Until::Version(0)).await, 0);
    assert_eq!(versions(Until::Sequence(between.sequence)).await, 1_200);
    assert_eq!(versions(Until::Sequence(between.sequence + 1)).await, 1_201);
    assert_eq!(versions(Until::Time(between.recorded_at)).await, 1_200);
    assert_eq!(versions(Until::Time(first.recorded_at - TimeDelta::microseconds(1))).await, 0);
    let after = first.position - 1_200;
    let log: Vec<_> = house.store.log(after, last.position).try_collect().await.unwrap();
    assert!(log.iter().map(|event| event.position).eq(after + 1..=last.position));
    let history = |filter| house.store.tenant_log(tenant, 10, last.sequence, filter).try_collect::<Vec<_>>();
    let all = history(EventFilter::default()).await.unwrap();
    assert!(all.iter().map(|event| event.sequence).eq(11..=2_501));
    assert_eq!(all, log.into_iter().filter(|event| event.tenant_id == tenant).skip(10).collect::<Vec<_>>());
    let one = history(EventFilter { stream: Some(stream), ..EventFilter::default() }).await.unwrap();
    assert_eq!(one.len(), 2_490);
    // Whoever goes away in the middle leaves the connections as they were.
    for _ in 0..20 {
        let mut log = Box::pin(house.store.log(after, last.position));
        assert_eq!(log.try_next().await.unwrap().map(|event| event.position), Some(after + 1));
    }
    assert_eq!(house.store.read_log(after, 3).await.unwrap().len(), 3);
}
