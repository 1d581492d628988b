#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use super::*;
use crate::StreamAppend;
use crate::event::NewEvent;

fn event() -> NewEvent {
    NewEvent {
        event_id: Uuid::now_v7(),
        event_type: "tenant.created",
        schema_version: 1,
        subjects: Vec::new(),
        actor: String::new(),
        occurred_at: chrono::DateTime::UNIX_EPOCH,
        payload: "{}".into(),
        metadata: "{}".into(),
        salt: [0; 16],
    }
}

fn stream(stream_id: Uuid, expected_version: i64) -> StreamAppend {
    StreamAppend { stream_type: "tenancy.tenant", stream_id, expected_version, events: vec![event()] }
}

fn append(tenant: Uuid, stream_id: Uuid, expected_version: i64) -> Append {
    Append { tenant, streams: vec![stream(stream_id, expected_version)], ..Append::default() }
}

fn queue() -> Arc<Queue> {
    Arc::default()
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// What would be committed next; nothing where all that waits is busy.
fn take(queue: &Arc<Queue>) -> Batch {
    let jobs = queue.lock().next_batch();
    Batch { jobs, queue: queue.clone(), begun: Instant::now() }
}

fn streams(batch: &Batch) -> Vec<(Uuid, i64)> {
    batch.jobs.iter().map(|job| (job.append.streams[0].stream_id, job.append.streams[0].expected_version)).collect()
}

fn commit(batch: Batch) {
    let at = Committed { position: 1, sequence: 1, recorded_at: chrono::DateTime::UNIX_EPOCH };
    batch.jobs.iter().for_each(|job| job.settle(Ok(at)));
}

fn refuse(batch: Batch) {
    batch.jobs.iter().for_each(|job| job.settle(Err(AppendError::AlreadySent)));
}

#[test]
fn tenants_take_turns() {
    let queue = queue();
    let (importer, other) = (id(1), id(2));
    for n in 0..9_000 {
        queue.push(append(importer, id(n), 0), None).unwrap();
    }
    queue.push(append(other, id(10_000), 0), None).unwrap();
    let batch = take(&queue);
    assert_eq!(batch.jobs.len(), MAX_BATCH_EVENTS);
    assert_eq!(streams(&batch)[..3], [(id(0), 0), (id(10_000), 0), (id(1), 0)]);
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    let queue = queue();
    for n in 0..40 {
        let mut append = append(id(1), id(n), 0);
        append.streams[0].events[0].payload = "x".repeat(200 * 1024);
        queue.push(append, None).unwrap();
    }
    let batch = take(&queue);
    assert_eq!(batch.jobs.len(), 20, "one more would go beyond four megabytes");
    assert_eq!(take(&queue).jobs.len(), 20);
}

#[test]
fn a_full_queue_turns_the_importer_away_and_not_the_others() {
    let queue = queue();
    for n in 0..ROOM.0 as u128 {
        queue.push(append(id(1), id(n), 0), None).unwrap();
    }
    assert_eq!(queue.push(append(id(1), id(20_000), 0), None).unwrap_err(), AppendError::Unavailable);
    let taken = (0..1_000).filter(|n| queue.push(append(id(2), id(30_000 + n), 0), None).is_ok()).count();
    assert!((100..1_000).contains(&taken), "{taken}: a share, not all");
    commit(take(&queue));
    queue.push(append(id(1), id(20_000), 0), None).unwrap();
    let large = || {
        let mut append = append(id(3), Uuid::now_v7(), 0);
        append.streams[0].events[0].payload = "x".repeat(10 * 1024 * 1024);
        queue.push(append, None).is_ok()
    };
    let taken = (0..20).filter(|_| large()).count();
    assert!((7..10).contains(&taken), "{taken}: an importer of large things fills the room");
    queue.push(append(id(4), id(40_000), 0), None).unwrap();
    assert_eq!(
        queue.push(append(id(1), id(20_001), 0), None).unwrap_err(),
        AppendError::Unavailable,
        "bytes count too"
    );
}

#[test]
fn what_was_decided_one_on_the_other_is_one_batch() {
    let queue = queue();
    let mut after = None;
    for version in 0..5 {
        after = Some(queue.push(append(id(1), id(7), version), after).unwrap());
    }
    assert_eq!(streams(&take(&queue)), (0..5).map(|version| (id(7), version)).collect::<Vec<_>>());
}

#[test]
fn a_stream_is_in_one_batch_at_a_time() {
    let queue = queue();
    let first = queue.push(append(id(1), id(7), 0), None).unwrap();
    let batch = take(&queue);
    let second = queue.push(append(id(1), id(7), 1), Some(first)).unwrap();
    queue.push(append(id(1), id(8), 0), None).unwrap();
    queue.push(append(id(1), id(7), 2), Some(second)).unwrap();
    assert_eq!(streams(&take(&queue)), [(id(8), 0)], "others pass by");
    commit(batch);
    assert_eq!(streams(&take(&queue)), [(id(7), 1), (id(7), 2)], "in their order");
    assert!(queue.lock().counts.is_empty() && queue.lock().jobs == 0 && queue.lock().in_flight.is_empty());
}

#[test]
fn what_was_decided_on_something_refused_is_not_committed() {
    let queue = queue();
    let first = queue.push(append(id(1), id(7), 0), None).unwrap();
    let batch = take(&queue);
    let second = queue.push(append(id(1), id(7), 1), Some(first.clone())).unwrap();
    refuse(batch);
    let third = queue.push(append(id(1), id(7), 2), Some(second.clone())).unwrap();
    assert!(take(&queue).jobs.is_empty());
    for pending in [second, third] {
        assert_eq!(pending.settled(), Some(Err(AppendError::Superseded)));
    }
    // Handed over after its forerunner was refused.
    let late = queue.push(append(id(1), id(7), 1), Some(first)).unwrap();
    assert!(take(&queue).jobs.is_empty());
    assert_eq!(late.settled(), Some(Err(AppendError::Superseded)));
}

#[test]
fn of_two_at_one_version_the_second_waits_and_hears_that_it_lost() {
    let queue = queue();
    queue.push(append(id(1), id(7), 0), None).unwrap();
    let loser = queue.push(append(id(1), id(7), 0), None).unwrap();
    let guess = queue.push(append(id(1), id(7), 1), None).unwrap();
    let follower = queue.push(append(id(1), id(7), 1), Some(loser.clone())).unwrap();
    let batch = take(&queue);
    assert_eq!(streams(&batch), [(id(7), 0)], "nothing that was decided on another append follows");
    commit(batch);
    assert_eq!(loser.settled(), Some(Err(AppendError::Conflict { stream_id: id(7), actual: 1 })));
    assert_eq!(streams(&take(&queue)), [(id(7), 1)]);
    assert!(guess.settled().is_some());
    assert!(take(&queue).jobs.is_empty());
    assert_eq!(follower.settled(), Some(Err(AppendError::Superseded)));
}

#[test]
fn behind_several_streams_and_behind_what_is_rare_nothing_follows() {
    let queue = queue();
    let several = Append { tenant: id(1), streams: vec![stream(id(7), 0), stream(id(8), 0)], ..Append::default() };
    let first = queue.push(several, None).unwrap();
    queue.push(append(id(1), id(8), 1), Some(first)).unwrap();
    let rare = queue.push(Append { tombstone: Some(id(9)), ..append(id(1), id(9), 0) }, None).unwrap();
    queue.push(append(id(1), id(9), 1), Some(rare)).unwrap();
    let batch = take(&queue);
    assert_eq!(streams(&batch), [(id(7), 0), (id(9), 0)]);
    commit(batch);
    assert_eq!(take(&queue).jobs.len(), 2);
}

#[tokio::test]
async fn whoever_waits_when_the_queue_closes_hears_of_it() {
    let queue = queue();
    let waiting = queue.push(append(id(1), id(7), 0), None).unwrap();
    let batch = queue.take().await.unwrap();
    let parked = queue.push(append(id(1), id(7), 0), None).unwrap();
    queue.close();
    drop(batch);
    assert!(queue.take().await.is_none());
    for pending in [waiting, parked] {
        assert_eq!(pending.outcome().await, Err(AppendError::Unavailable));
    }
    assert_eq!(queue.push(append(id(1), id(7), 0), None).unwrap_err(), AppendError::Unavailable);
}

#[test]
fn a_batch_is_bounded_in_events() {
    let queue = queue();
    for n in 0..3 {
        let mut append = append(id(1), id(n), 0);
        append.streams[0].events = vec![event(); 1_500];
        queue.push(append, None).unwrap();
    }
    assert_eq!(take(&queue).jobs.len(), 2, "a third would make more than four thousand events");
    assert_eq!(take(&queue).jobs.len(), 1);
}

#[test]
fn whoever_waits_too_long_is_told_so_while_nothing_is_committed() {
    let queue = queue();
    let late = |job: &mut Job| job.begun = Instant::now().checked_sub(PATIENCE * 2).unwrap();
    let flying = queue.push(append(id(1), id(7), 0), None).unwrap();
    let batch = take(&queue);
    let behind = queue.push(append(id(1), id(7), 1), None).unwrap();
    assert!(take(&queue).jobs.is_empty(), "its stream is in a batch");
    let waiting = queue.push(append(id(2), id(8), 0), None).unwrap();
    let patient = queue.push(append(id(3), id(9), 0), None).unwrap();
    {
        let mut all = queue.lock();
        all.in_flight.values_mut().flatten().for_each(late);
        all.lanes.get_mut(&id(2)).unwrap().iter_mut().for_each(late);
    }
    queue.expire();
    assert_eq!(behind.settled(), Some(Err(AppendError::Unavailable)));
    assert_eq!(waiting.settled(), Some(Err(AppendError::Unavailable)));
    assert!(flying.settled().is_none() && patient.settled().is_none());
    assert_eq!(streams(&take(&queue)), [(id(9), 0)]);
    commit(batch);
    assert!(take(&queue).jobs.is_empty());
    let waiting = queue.lock();
    assert_eq!((waiting.jobs, waiting.bytes, waiting.counts.len()), (0, 0, 0));
}

#[test]
fn where_nobody_knows_of_an_append_nobody_knows_of_what_was_handed_over_with_it() {
    let outcomes = [
        (Err(AppendError::Unavailable), Some(AppendError::Unavailable)),
        (Err(AppendError::AlreadySent), Some(AppendError::Superseded)),
        (Ok(Committed { position: 1, sequence: 1, recorded_at: chrono::DateTime::UNIX_EPOCH }), None),
    ];
    for (outcome, fate) in outcomes {
        let queue = queue();
        let first = queue.push(append(id(1), id(7), 0), None).unwrap();
        queue.push(append(id(1), id(7), 1), Some(first)).unwrap();
        let batch = take(&queue);
        assert_eq!(batch.jobs.len(), 2);
        assert_eq!(batch.jobs[1].fate(), None);
        batch.jobs[0].settle(outcome);
        assert_eq!(batch.jobs[1].fate(), fate);
    }
}
