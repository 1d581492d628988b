//! Ranges of the log as PostgreSQL's binary COPY gives them: a row is one message, and costs no more than taking it
//! apart. Several ranges are on their way at a time, so that PostgreSQL, the network and the reader all have work.

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, TryStreamExt};
use sqlx::postgres::{PgPool, PgPoolCopyExt};
use uuid::Uuid;

use crate::event::RecordedEvent;

/// How many positions a range of a long read has.
pub(crate) const RANGE: i64 = 2_000;
/// How many ranges of a long read are on their way.
pub(crate) const AHEAD: usize = 3;

/// What stands before the first row: a signature, flags, and the length of an extension that nobody uses.
const HEADER: usize = 19;
/// What stands after the last one: no row has fewer than no columns.
const TRAILER: [u8; 2] = [0xff, 0xff];
/// Microseconds from 1970 to 2000, when PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;

const EVENT: &str = "position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type, \
    schema_version, subjects, actor, occurred_at, recorded_at, payload, metadata";

/// An event with all that the log has of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) event: RecordedEvent,
    pub(crate) salt: Option<Vec<u8>>,
    pub(crate) body_hash: Option<Vec<u8>>,
}

/// The events in `(after, until]`, in order.
pub(crate) async fn events(pool: &PgPool, after: i64, until: i64) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    read(pool, EVENT, after, until, event).await
}

/// All columns of the events in `(after, until]`, range by range, in order.
pub(crate) fn rows(pool: PgPool, after: i64, until: i64) -> impl Stream<Item = Result<Vec<Row>, sqlx::Error>> {
    ahead(after, until, RANGE, move |after, until| {
        let pool = pool.clone();
        async move { read(&pool, &format!("{EVENT}, salt, body_hash"), after, until, row).await }
    })
}

/// The ranges of `(after, until]`, of `span` positions each, as `read` gives them, in order; some are read ahead.
pub(crate) fn ahead<F: Future>(
    after: i64,
    until: i64,
    span: i64,
    read: impl Fn(i64, i64) -> F,
) -> impl Stream<Item = F::Output> {
    let begins = futures::stream::iter((after..until).step_by(usize::try_from(span).unwrap_or(1)));
    begins.map(move |begin| read(begin, until.min(begin + span))).buffered(AHEAD)
}

/// Reads one range. It runs to its end whatever becomes of the caller: a COPY that is left in the middle spoils its
/// connection.
async fn read<T: Send + 'static>(
    pool: &PgPool,
    columns: &str,
    after: i64,
    until: i64,
    parse: fn(&mut Columns<'_>) -> Option<T>,
) -> Result<Vec<T>, sqlx::Error> {
    let copy = format!(
        "COPY (SELECT {columns} FROM events WHERE position > {after} AND position <= {until} ORDER BY position) \
         TO STDOUT (FORMAT binary)"
    );
    let (pool, expected) = (pool.clone(), usize::try_from((until - after).clamp(0, RANGE)).unwrap_or_default());
    let reading = tokio::spawn(async move {
        let mut messages = pool.copy_out_raw(&copy).await?;
        let mut rows = Vec::with_capacity(expected);
        let (mut begin, mut odd) = (HEADER, false);
        while let Some(message) = messages.try_next().await? {
            let bytes = message.get(std::mem::take(&mut begin)..).unwrap_or_default();
            if bytes != TRAILER {
                match parse(&mut Columns(bytes.get(2..).unwrap_or_default())) {
                    Some(row) => rows.push(row),
                    None => odd = true,
                }
            }
        }
        if odd {
            return Err(sqlx::Error::Decode("a row of the log is not as it should be".into()));
        }
        Ok(rows)
    });
    reading.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

fn row(columns: &mut Columns<'_>) -> Option<Row> {
    let event = event(columns)?;
    let mut bytes = || columns.next().map(|bytes| bytes.map(<[u8]>::to_vec));
    Some(Row { event, salt: bytes()?, body_hash: bytes()? })
}

fn event(columns: &mut Columns<'_>) -> Option<RecordedEvent> {
    Some(RecordedEvent {
        position: columns.int8()?,
        tenant_id: columns.uuid()?,
        sequence: columns.int8()?,
        stream_id: columns.uuid()?,
        stream_type: columns.text()??,
        version: columns.int8()?,
        event_id: columns.uuid()?,
        event_type: columns.text()??,
        schema_version: i32::from_be_bytes(columns.next()??.try_into().ok()?),
        subjects: columns.uuids()?,
        actor: columns.text()??,
        occurred_at: columns.time()?,
        recorded_at: columns.time()?,
        payload: columns.text()?,
        metadata: columns.text()?,
    })
}

/// A row that is being taken apart. What is missing or of another form gives none.
struct Columns<'a>(&'a [u8]);

impl<'a> Columns<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn int4(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// The bytes of the next column; `Some(None)` where it is null.
    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        match self.int4()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }

    fn int8(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.next()??.try_into().ok()?))
    }

    fn uuid(&mut self) -> Option<Uuid> {
        Uuid::from_slice(self.next()??).ok()
    }

    fn time(&mut self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.int8()?.checked_add(EPOCH)?)
    }

    fn text(&mut self) -> Option<Option<String>> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned);
        self.next()?.map(text).transpose().ok()
    }

    /// An array of one dimension.
    fn uuids(&mut self) -> Option<Option<Vec<Uuid>>> {
        let Some(bytes) = self.next()? else { return Some(None) };
        let mut array = Columns(bytes);
        let dimensions = array.int4()?;
        // Whether it has nulls, which it can't have here, and the type of its elements.
        array.take(8)?;
        if dimensions == 0 {
            return Some(Some(Vec::new()));
        }
        let count = array.int4()?;
        // The number of its first element.
        array.take(4)?;
        (0..count).map(|_| array.uuid()).collect::<Option<_>>().map(Some)
    }
}
