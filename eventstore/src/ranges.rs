//! Ranges of the log as PostgreSQL's binary COPY gives them: a row is one message, and costs no more than taking it
//! apart. Several ranges are on their way at a time, so that PostgreSQL, the network and the reader all have work.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use sqlx::postgres::{PgConnection, PgPool};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::bounded::timed_out;
use crate::event::{Fact, RecordedEvent};
use crate::pools::TenantDb;
use crate::read::EventFilter;

/// How many positions, or sequences of a tenant, a range of a long read has.
const RANGE: i64 = 4_000;
/// How many ranges of a long read are on their way behind the one that is read.
const AHEAD: usize = 2;
/// The most rows, and bytes of them, that are handed on together; and how many such chunks of a range may wait. A range
/// of small events waits as a whole, so that PostgreSQL is done with it; one of large events comes as it is taken.
const CHUNK: (usize, usize) = (1_000, 1024 * 1024);
const WAITING: usize = 4;
/// How long the server may take until it says the next thing: longer than a statement may run.
const PATIENCE: Duration = Duration::from_secs(125);

/// What stands before the first row: a signature, flags, and the length of an extension that nobody uses.
const HEADER: usize = 19;
/// What stands after the last one: no row has fewer than no columns.
const TRAILER: [u8; 2] = [0xff, 0xff];
/// Microseconds from 1970 to 2000, when PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;

macro_rules! event_columns {
    () => {
        "position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type, schema_version, subjects, \
         actor, occurred_at, recorded_at, payload, metadata"
    };
}
const EVENT: &str = event_columns!();
const FACT: &str =
    "position, tenant_id, sequence, stream_id, version, event_type, schema_version, occurred_at, payload";
const ROW: &str = concat!(event_columns!(), ", salt, body_hash");

/// An event with all that the log has of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) event: RecordedEvent,
    pub(crate) salt: Option<Vec<u8>>,
    pub(crate) body_hash: Option<Vec<u8>>,
}

/// The events in `(after, until]`, in order and in chunks, each made by `each` of an event where it was read: some ranges
/// are worked on at a time.
pub(crate) fn log<T: Send + 'static>(
    pool: PgPool,
    after: i64,
    until: i64,
    each: impl Fn(RecordedEvent) -> T + Clone + Send + 'static,
) -> impl Stream<Item = Result<Vec<T>, sqlx::Error>> + Send + 'static {
    long(pool, EVENT, after, until, move |columns: &mut Columns<'_>| event(columns).map(&each))
}

/// The same of what a fold sees of them, which has fewer columns and so costs less.
pub(crate) fn facts<T: Send + 'static>(
    pool: PgPool,
    after: i64,
    until: i64,
    each: impl Fn(Fact<'_>) -> T + Clone + Send + 'static,
) -> impl Stream<Item = Result<Vec<T>, sqlx::Error>> + Send + 'static {
    long(pool, FACT, after, until, move |columns: &mut Columns<'_>| fact(columns).map(&each))
}

/// All of the log's ranges of some columns.
fn long<T: Send + 'static>(
    pool: PgPool,
    columns: &'static str,
    after: i64,
    until: i64,
    parse: impl Fn(&mut Columns<'_>) -> Option<T> + Clone + Send + 'static,
) -> impl Stream<Item = Result<Vec<T>, sqlx::Error>> + Send + 'static {
    let connection = Connection::Any(pool);
    let range = move |after, until| begin(connection.clone(), positions(columns, after, until), parse.clone());
    ahead(after, until, RANGE, move |after, until| std::future::ready(range(after, until))).flatten()
}

/// The events of a tenant after a sequence, up to and with another, of what passes the filter, in order and in chunks.
pub(crate) fn tenant(
    tenants: TenantDb,
    tenant: Uuid,
    after: i64,
    until: i64,
    filter: EventFilter,
) -> impl Stream<Item = Result<Vec<RecordedEvent>, sqlx::Error>> + Send + 'static {
    let connection = Connection::Of(tenants, tenant);
    // Parameters can't be bound in COPY: numbers and UUIDs can carry no SQL, and quotes in a text are doubled.
    let of_type = filter.event_type.map(|name| format!(" AND event_type = '{}'", name.replace('\'', "''")));
    let of_stream = filter.stream.map(|stream| format!(" AND stream_id = '{stream}'"));
    let filter = of_type.unwrap_or_default() + &of_stream.unwrap_or_default();
    let copy = move |after, until| {
        format!(
            "COPY (SELECT {EVENT} FROM events WHERE tenant_id = '{tenant}' AND sequence > {after} AND sequence <= {until}\
             {filter} ORDER BY sequence) TO STDOUT (FORMAT binary)"
        )
    };
    let range = move |after, until| begin(connection.clone(), copy(after, until), event);
    ahead(after, until, RANGE, move |after, until| std::future::ready(range(after, until))).flatten()
}

/// The same, with all columns.
pub(crate) fn rows(
    pool: PgPool,
    after: i64,
    until: i64,
) -> impl Stream<Item = Result<Vec<Row>, sqlx::Error>> + Send + 'static {
    long(pool, ROW, after, until, row)
}

/// The COPY of the positions in `(after, until]`.
fn positions(columns: &str, after: i64, until: i64) -> String {
    format!(
        "COPY (SELECT {columns} FROM events WHERE position > {after} AND position <= {until} ORDER BY position) \
         TO STDOUT (FORMAT binary)"
    )
}

/// The ranges of `(after, until]`, of `span` positions each, as `read` gives them, in order; some are begun ahead.
pub(crate) fn ahead<F: Future>(
    after: i64,
    until: i64,
    span: i64,
    read: impl Fn(i64, i64) -> F,
) -> impl Stream<Item = F::Output> {
    let begins = stream::iter((after..until).step_by(usize::try_from(span).unwrap_or(1)));
    begins.map(move |begin| read(begin, until.min(begin + span))).buffered(AHEAD + 1)
}

/// Where a range is read.
#[derive(Clone)]
enum Connection {
    /// On any of a role that sees all tenants.
    Any(PgPool),
    /// On one that sees this tenant alone.
    Of(TenantDb, Uuid),
}

/// Begins to read a range, now and in a task of its own: it goes on to the end whatever becomes of the reader, for a COPY
/// that is left in the middle spoils its connection.
fn begin<T: Send + 'static>(
    connection: Connection,
    copy: String,
    parse: impl Fn(&mut Columns<'_>) -> Option<T> + Send + 'static,
) -> impl Stream<Item = Result<Vec<T>, sqlx::Error>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let end = read(&connection, &copy, parse, &sender).await.map(|()| None);
        let _ = sender.send(end).await;
    });
    // A reader that was only cut off must not take what it has for all there is.
    let cut_off = || Err(sqlx::Error::WorkerCrashed);
    stream::try_unfold(receiver, move |mut receiver| async move {
        let chunk = receiver.recv().await.unwrap_or_else(cut_off)?;
        Ok(chunk.map(|chunk| (chunk, receiver)))
    })
}

/// A chunk of a range; none at its end.
type Chunk<T> = Result<Option<Vec<T>>, sqlx::Error>;

async fn read<T>(
    connection: &Connection,
    copy: &str,
    parse: impl Fn(&mut Columns<'_>) -> Option<T>,
    sender: &mpsc::Sender<Chunk<T>>,
) -> Result<(), sqlx::Error> {
    match connection {
        Connection::Any(pool) => {
            let mut conn = pool.acquire().await?;
            let done = take_apart(&mut conn, copy, parse, sender).await;
            if done.is_err() {
                conn.close_on_drop();
            }
            done
        }
        Connection::Of(tenants, tenant) => {
            let mut tx = in_time(tenants.begin(*tenant)).await?;
            take_apart(&mut tx, copy, parse, sender).await?;
            in_time(tx.commit()).await
        }
    }
}

async fn take_apart<T>(
    conn: &mut PgConnection,
    copy: &str,
    parse: impl Fn(&mut Columns<'_>) -> Option<T>,
    sender: &mpsc::Sender<Chunk<T>>,
) -> Result<(), sqlx::Error> {
    let mut messages = in_time(conn.copy_out_raw(copy)).await?;
    let (mut chunk, mut size, mut header, mut odd) = (Vec::new(), 0, HEADER, false);
    while let Some(message) = in_time(messages.try_next()).await? {
        let bytes = message.get(std::mem::take(&mut header)..).unwrap_or_default();
        if bytes == TRAILER || odd {
            continue;
        }
        match parse(&mut Columns(bytes.get(2..).unwrap_or_default())) {
            Some(row) => chunk.push(row),
            None => odd = true,
        }
        size += bytes.len();
        if chunk.len() >= CHUNK.0 || size >= CHUNK.1 {
            // Where nobody takes it any more, the rest is read for nothing.
            let _ = sender.send(Ok(Some(std::mem::take(&mut chunk)))).await;
            size = 0;
        }
    }
    if !chunk.is_empty() {
        let _ = sender.send(Ok(Some(chunk))).await;
    }
    if odd { Err(sqlx::Error::Decode("a row of the log is not as it should be".into())) } else { Ok(()) }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let mut answer = pin!(answer);
    // Most messages are here already, and a timer for each would cost as much as taking it apart.
    match futures::poll!(&mut answer) {
        Poll::Ready(answered) => answered,
        Poll::Pending => tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(timed_out())),
    }
}

fn row(columns: &mut Columns<'_>) -> Option<Row> {
    let event = event(columns)?;
    let mut bytes = || columns.next().map(|bytes| bytes.map(<[u8]>::to_vec));
    Some(Row { event, salt: bytes()?, body_hash: bytes()? })
}

fn fact<'a>(columns: &mut Columns<'a>) -> Option<Fact<'a>> {
    Some(Fact {
        position: columns.int8()?,
        tenant_id: columns.uuid()?,
        sequence: columns.int8()?,
        stream_id: columns.uuid()?,
        version: columns.int8()?,
        event_type: columns.str()??,
        schema_version: i32::from_be_bytes(columns.next()??.try_into().ok()?),
        occurred_at: columns.time()?,
        payload: columns.str()?,
    })
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

    fn str(&mut self) -> Option<Option<&'a str>> {
        self.next()?.map(std::str::from_utf8).transpose().ok()
    }

    fn text(&mut self) -> Option<Option<String>> {
        self.str().map(|text| text.map(str::to_owned))
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
