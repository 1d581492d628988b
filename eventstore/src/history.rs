//! Long reads as streams: the log, a tenant's history, a stream. What is in memory is a few pages, whatever the length;
//! the next ones are on their way while one is worked on.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::event::{Fact, RecordedEvent};
use crate::ranges;
use crate::read::{EventFilter, Until};
use crate::store::{EventStore, StoreError};

/// How many events of a stream are read at a time.
const PAGE: i64 = 500;
/// How many sequences of a tenant are read in one go.
const WINDOW: i64 = 100_000;
/// The same while anybody asks the house for something, and the rest before the next: a long read takes both cores otherwise,
/// and is in no hurry.
const BESIDE_OTHERS: (i64, Duration) = (250, Duration::from_millis(10));
/// The same where few events are wanted of them.
const FILTERED_BESIDE_OTHERS: i64 = 10_000;

impl EventStore {
    /// The log after a position, up to and with another, in order. What is there is committed and never changes, so the
    /// ranges that it is read in need no common transaction.
    pub fn log(
        &self,
        after: i64,
        until: i64,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        one_by_one(self.log_as(after, until, std::convert::identity))
    }

    /// The same in chunks, and of each event what `each` makes of it. That is done where the event was read, of several
    /// ranges at a time, so that whatever is costly about it (decoding, rendering) is done on several cores.
    pub fn log_as<T: Send + 'static>(
        &self,
        after: i64,
        until: i64,
        each: impl Fn(RecordedEvent) -> T + Clone + Send + 'static,
    ) -> impl Stream<Item = Result<Vec<T>, StoreError>> + Send + 'static {
        ranges::log(self.inner.reading.pool().clone(), after, until, each).map_err(StoreError::from)
    }

    /// The same of what a fold sees of each event: a fold of the whole log under another rule needs no more, and fewer
    /// columns are read in less time.
    pub fn facts<T: Send + 'static>(
        &self,
        after: i64,
        until: i64,
        each: impl Fn(Fact<'_>) -> T + Clone + Send + 'static,
    ) -> impl Stream<Item = Result<Vec<T>, StoreError>> + Send + 'static {
        ranges::facts(self.inner.reading.pool().clone(), after, until, each).map_err(StoreError::from)
    }

    /// A tenant's history after a sequence, up to and with another, of what passes the filter, in order.
    pub fn tenant_log(
        &self,
        tenant: Uuid,
        after: i64,
        until: i64,
        filter: EventFilter,
    ) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
        one_by_one(self.tenant_chunks(tenant, after, until, filter))
    }

    /// The same in chunks, which are bounded in events and bytes; with rests, while anybody asks the house for something.
    pub fn tenant_chunks(
        &self,
        tenant: Uuid,
        after: i64,
        until: i64,
        filter: EventFilter,
    ) -> impl Stream<Item = Result<Vec<RecordedEvent>, StoreError>> + Send + 'static {
        let (store, begun) = (self.clone(), false);
        let filtered = filter.event_type.is_some() || filter.stream.is_some();
        let beside = if filtered { FILTERED_BESIDE_OTHERS } else { BESIDE_OTHERS.0 };
        let windows = stream::unfold((after, begun), move |(at, begun)| {
            let (store, filter) = (store.clone(), filter.clone());
            async move {
                let beside_others = store.callers().anybody();
                if at >= until {
                    return None;
                }
                if begun && beside_others {
                    tokio::time::sleep(BESIDE_OTHERS.1).await;
                }
                let end = until.min(at + if beside_others { beside } else { WINDOW });
                let window = ranges::tenant(store.inner.tenants.clone(), tenant, at, end, filter);
                Some((window.map_err(StoreError::from), (end, true)))
            }
        });
        windows.flatten()
    }

    /// One stream from its first event on, as far as is asked.
    pub fn stream(
        &self,
        tenant: Uuid,
        stream: Uuid,
        until: Until,
    ) -> BoxStream<'static, Result<RecordedEvent, StoreError>> {
        let store = self.clone();
        let page = move |after| {
            let store = store.clone();
            async move { store.read_stream(tenant, stream, after, until, PAGE).await }
        };
        let first: BoxStream<'static, _> = stream::once(page(0)).boxed();
        let pages = stream::try_unfold((first, page), |(mut coming, page)| async move {
            let Some(events) = coming.try_next().await? else { return Ok::<_, StoreError>(None) };
            let next = match events.last() {
                Some(last) if events.len() as i64 == PAGE => {
                    // A task of its own, so that it comes while these are worked on.
                    let next = tokio::spawn(page(last.version));
                    stream::once(async move { next.await.unwrap_or(Err(sqlx::Error::WorkerCrashed.into())) }).boxed()
                }
                _ => stream::empty().boxed(),
            };
            Ok(Some((events, (next, page))))
        });
        one_by_one(pages).boxed()
    }
}

fn one_by_one(
    pages: impl Stream<Item = Result<Vec<RecordedEvent>, StoreError>> + Send + 'static,
) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send + 'static {
    pages.map_ok(|events| stream::iter(events.into_iter().map(Ok))).try_flatten()
}
