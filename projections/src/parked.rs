//! Streams that wait for a mended projector: an event of theirs can't be applied, whoever tries, so what follows in the
//! stream is passed over until somebody has mended the projector and says `retry`. No copy of the event is kept.

use std::collections::HashSet;
use std::sync::Arc;

use eventstore::RecordedEvent;
use sqlx::PgConnection;
use uuid::Uuid;

/// A tenant and one of its streams.
pub(crate) type StreamKey = (Uuid, Uuid);

/// What a stream that is parked costs of a projector's patience, and what an event that is applied gives back.
const COST: i64 = 50;
/// How much patience there is: forty streams may be parked in a row, and in the long run one event in fifty.
const PATIENCE: i64 = 2_000;

/// The parked streams of a projector in one generation, as this process knows them.
#[derive(Debug)]
pub(crate) struct Parked {
    projector: &'static str,
    generation: i32,
    known: HashSet<StreamKey>,
    patience: i64,
}

pub(crate) fn key(event: &RecordedEvent) -> StreamKey {
    (event.tenant_id, event.stream_id)
}

impl Parked {
    /// None yet: [`load`](Self::load) comes first.
    pub(crate) fn new(projector: &'static str, generation: i32) -> Self {
        Self { projector, generation, known: HashSet::new(), patience: PATIENCE }
    }

    /// Reads which streams are parked.
    pub(crate) async fn load(&mut self, generation: i32, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let rows: Vec<StreamKey> = sqlx::query_as(
            "SELECT tenant_id, stream_id FROM projection_parked WHERE projector = $1 AND generation = $2",
        )
        .bind(self.projector)
        .bind(generation)
        .fetch_all(conn)
        .await?;
        self.known = rows.into_iter().collect();
        self.generation = generation;
        Ok(())
    }

    /// Whether there are none, as far as this process knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Takes the events of parked streams out. The transaction holds the checkpoints of their slots, without which
    /// nobody parks or retries, so what the table says counts.
    pub(crate) async fn pass_over(
        &mut self,
        events: &mut Vec<Arc<RecordedEvent>>,
        conn: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let met: HashSet<_> = events.iter().map(|event| key(event)).filter(|key| self.known.contains(key)).collect();
        if met.is_empty() {
            return Ok(());
        }
        let (tenants, streams): (Vec<_>, Vec<_>) = met.iter().copied().unzip();
        let still: Vec<StreamKey> = sqlx::query_as(
            "SELECT tenant_id, stream_id FROM projection_parked
             JOIN unnest($3::uuid[], $4::uuid[]) AS met (tenant_id, stream_id) USING (tenant_id, stream_id)
             WHERE projector = $1 AND generation = $2",
        )
        .bind(self.projector)
        .bind(self.generation)
        .bind(tenants)
        .bind(streams)
        .fetch_all(conn)
        .await?;
        let still: HashSet<_> = still.into_iter().collect();
        self.known.retain(|key| !met.contains(key) || still.contains(key));
        events.retain(|event| !still.contains(&key(event)));
        Ok(())
    }

    /// Parks the stream of an event, from that event on.
    pub(crate) async fn park(
        &mut self,
        event: &RecordedEvent,
        error: &str,
        conn: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        insert(self.projector, self.generation, event, error, conn).await?;
        self.known.insert(key(event));
        Ok(())
    }

    /// Whether one more stream may be parked: where hardly an event can be applied, the projector is at fault.
    pub(crate) fn has_patience(&mut self) -> bool {
        self.patience -= COST;
        self.patience >= 0
    }

    /// So many events were applied.
    pub(crate) fn applied(&mut self, events: usize) {
        self.patience = PATIENCE.min(self.patience + i64::try_from(events).unwrap_or(PATIENCE));
    }

    /// An operator says that it may go on.
    pub(crate) fn forgive(&mut self) {
        self.patience = PATIENCE;
    }
}

/// Parks the stream of an event, from that event on.
pub(crate) async fn insert(
    projector: &str,
    generation: i32,
    event: &RecordedEvent,
    error: &str,
    conn: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection_parked (projector, generation, tenant_id, stream_id, stream_type, from_sequence, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (projector, generation, tenant_id, stream_id)
         DO UPDATE SET from_sequence = excluded.from_sequence, error = excluded.error, parked_at = clock_timestamp()",
    )
    .bind(projector)
    .bind(generation)
    .bind(event.tenant_id)
    .bind(event.stream_id)
    .bind(&event.stream_type)
    .bind(event.sequence)
    .bind(error)
    .execute(conn)
    .await?;
    Ok(())
}
