//! Writes the rows and checkpoints of one generation, batch by batch, whoever brings the events: the runner that follows
//! the log's end, or the builder of a generation that nobody reads yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::bells::Bells;
use crate::checkpoint::{Checkpoints, Fence, Slots, Step};
use crate::failure::Failure;
use crate::feed::log::Slotted;
use crate::parked::Parked;
use crate::projector::Projector;

/// A generation of a projector's rows, as one process writes it.
pub(crate) struct Batches {
    projector: Arc<dyn Projector>,
    pool: PgPool,
    /// What readers hear; nobody reads a generation that is being built.
    bells: Option<Bells>,
    /// How far it has come, and what is in hand.
    pub(crate) checkpoints: Checkpoints,
    parked: Parked,
    /// The most events of a transaction.
    most: usize,
    /// The most events of the next one; halved while it fails, to come to the one that is at fault.
    limit: usize,
}

impl Batches {
    /// Of a projector's generations; [`begin`](Self::begin) says which.
    pub(crate) fn new(projector: Arc<dyn Projector>, pool: PgPool, bells: Option<Bells>, most: usize) -> Self {
        let (checkpoints, parked) = (Checkpoints::new(projector.name(), 0, 0), Parked::new(projector.name(), 0));
        Self { projector, pool, bells, checkpoints, parked, most, limit: most }
    }

    /// Believes what is stored of a generation, and nothing else any more.
    pub(crate) async fn begin(
        &mut self,
        generation: i32,
        incarnation: i64,
        slots: Slots,
        conn: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        self.checkpoints = Checkpoints::new(self.projector.name(), generation, incarnation);
        self.checkpoints.slots = slots;
        self.checkpoints.load(conn).await?;
        self.parked.load(generation, conn).await
    }

    /// An operator says that it may go on.
    pub(crate) fn forgive(&mut self) {
        self.parked.forgive();
    }

    /// Takes what comes from the log for this process and is not applied yet, and commits it.
    pub(crate) async fn catch_up(&mut self, events: Vec<Slotted>) -> Result<(), Failure> {
        let news = events.into_iter().filter(|slotted| {
            let (slot, position) = (slotted.slot, slotted.event.position);
            let apply = self.checkpoints.step(slot, position, 0) == Step::Apply;
            if apply {
                self.checkpoints.cover(slot, position);
            }
            apply
        });
        let news = news.collect();
        self.write(news).await
    }

    /// Commits events, in order. Where a batch can't be applied, what comes before the event at fault is applied, and
    /// that event's stream is parked.
    pub(crate) async fn write(&mut self, mut events: Vec<Slotted>) -> Result<(), Failure> {
        while !events.is_empty() {
            let count = events.len().min(self.limit);
            let (batch, rest) = events.split_at(count);
            match self.commit(batch, rest, None).await {
                Ok(applied) => {
                    events.drain(..count);
                    self.limit = (self.limit * 2).min(self.most);
                    self.parked.applied(applied);
                }
                Err(Failure::Project(error)) if error.is_deterministic() => {
                    let at_fault = |slotted: &Slotted| Some(slotted.event.position) == error.culprit();
                    match batch.iter().position(at_fault) {
                        Some(before) if before > 0 => self.limit = before,
                        None if count > 1 => self.limit = count / 2,
                        _ if error.waits_for_a_newer_binary() => return Err(error.into()),
                        _ if !self.parked.has_patience() => return Err(Failure::Flood { last: error.told() }),
                        _ => {
                            let (first, rest) = events.split_at(1);
                            self.commit(first, rest, Some(&error.told())).await?;
                            events.drain(..1);
                        }
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// One transaction: the fence, the tenants' sequences, and the rows, or in their place what is at fault. Gives how many
    /// events were applied to rows.
    async fn commit(&mut self, batch: &[Slotted], rest: &[Slotted], fault: Option<&str>) -> Result<usize, Failure> {
        let (mut ends, mut sequences) = (BTreeMap::new(), BTreeMap::<Uuid, i64>::new());
        for slotted in batch {
            ends.insert(slotted.slot, slotted.event.position);
            sequences.insert(slotted.event.tenant_id, slotted.event.sequence);
        }
        let mut busy = Slots::default();
        rest.iter().for_each(|slotted| busy.insert(slotted.slot));
        let ends: Vec<_> = ends.into_iter().collect();
        let sequences: Vec<_> = sequences.into_iter().collect();
        let moves = self.checkpoints.moves(&ends, busy, false);

        let mut tx = self.pool.begin().await?;
        if self.checkpoints.fence(&moves, &sequences, &mut tx).await? == Fence::Closed {
            return Err(Failure::Fenced);
        }
        let applied = self.apply(batch, fault, &mut tx).await?;
        tx.commit().await?;

        self.checkpoints.committed(&moves);
        let name = self.projector.name();
        if let Some(bells) = &self.bells {
            bells.ring(name, self.checkpoints.incarnation(), !self.parked.is_empty(), sequences);
            metrics::counter!("annals_projector_events_total", "projector" => name).increment(batch.len() as u64);
            metrics::histogram!("annals_projector_batch_events", "projector" => name).record(batch.len() as f64);
        }
        Ok(applied)
    }

    async fn apply(
        &mut self,
        batch: &[Slotted],
        fault: Option<&str>,
        conn: &mut PgConnection,
    ) -> Result<usize, Failure> {
        let concerned = batch.iter().filter(|slotted| self.projector.interested(&slotted.event.stream_type));
        let mut concerned: Vec<_> = concerned.map(|slotted| slotted.event.clone()).collect();
        if let Some(fault) = fault {
            for event in &concerned {
                tracing::error!(projector = self.projector.name(), sequence = event.sequence, fault, "stream parked");
                metrics::counter!("annals_projector_parked_total", "projector" => self.projector.name()).increment(1);
                self.parked.park(event, fault, conn).await?;
            }
            return Ok(0);
        }
        self.parked.pass_over(&mut concerned, conn).await?;
        if !concerned.is_empty() {
            self.projector.project(self.checkpoints.generation(), &concerned, conn).await?;
        }
        Ok(concerned.len())
    }

    /// Writes every slot's checkpoint, so that the next start has nothing to read.
    pub(crate) async fn settle(&mut self) -> Result<(), Failure> {
        let moves = self.checkpoints.moves(&[], Slots::default(), true);
        if moves.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        if self.checkpoints.fence(&moves, &[], &mut tx).await? == Fence::Closed {
            return Err(Failure::Fenced);
        }
        tx.commit().await?;
        self.checkpoints.committed(&moves);
        Ok(())
    }
}
