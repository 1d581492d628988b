//! Makes a generation of a projector's rows from the log, beside the one that is read, and has it read once it is as far.
//!
//! It goes on where it was left: whoever takes over after a kill reads the checkpoints of the generation like any other.

use std::sync::Arc;
use std::time::Duration;

use eventstore::{EventStore, Evidence, Incarnations, chain};
use futures::TryStreamExt;
use sqlx::PgPool;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adoption::{Adopted, adopt};
use crate::batches::Batches;
use crate::checkpoint::Slots;
use crate::controls::Control;
use crate::failure::Failure;
use crate::feed::log::{Slotted, size};
use crate::generations::{self, Swap};
use crate::projector::Projector;

/// How many parts the slots are divided into, each written by a task of its own.
const LANES: i32 = 2;
/// The most events of a transaction, and bytes of them: rows that change often are written once in each.
const BATCH: usize = 8_000;
const BATCH_BYTES: usize = 12 * 1024 * 1024;
/// How many positions of the log are read in one go.
const RANGE: i64 = 100_000;
/// The same, and the most events of a transaction, while somebody asks the house for something. Lanes take turns then, and
/// whoever has had the turn rests for as long as it worked: one core is left alone, and the other half of the time.
const BESIDE_OTHERS: (i64, usize) = (500, 250);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How often the lease is renewed.
const LEASE: Duration = Duration::from_secs(1);
/// How long it waits for the generation that is read, which may be further in a slot.
const AGAIN: Duration = Duration::from_millis(20);

/// Who makes it.
pub(crate) struct Builder {
    pub(crate) projector: Arc<dyn Projector>,
    pub(crate) store: EventStore,
    pub(crate) pool: PgPool,
    pub(crate) generation: i32,
    pub(crate) stop: CancellationToken,
}

impl Builder {
    /// Makes it and has it read; false where nobody needs it any more, or it was told to stop.
    pub(crate) async fn build(&self) -> Result<bool, Failure> {
        let name = self.projector.name();
        tracing::info!(projector = name, generation = self.generation, "rows are made anew");
        let mut analyzed = false;
        while !self.stop.is_cancelled() {
            let end = self.store.tail().position();
            // The last passes are short, and must be, or the rows that are read are further each time.
            let lanes = self.pass(end, |_| i64::MAX, !analyzed).await?;
            let Some(lane) = lanes.first().filter(|_| !self.stop.is_cancelled()) else { break };
            let mut conn = self.pool.acquire().await?;
            if !std::mem::replace(&mut analyzed, true) {
                generations::analyze(&*self.projector, self.generation, &mut conn).await?;
                // What came meanwhile is little.
                continue;
            }
            match generations::swap(&lane.checkpoints, &mut conn).await? {
                Swap::Done => {
                    tracing::info!(projector = name, generation = self.generation, "new rows are read");
                    return Ok(true);
                }
                Swap::Behind => tokio::time::sleep(AGAIN).await,
                Swap::Gone => break,
            }
        }
        Ok(false)
    }

    /// Reads the log from the lowest checkpoint to `end`, and applies what is not applied: in each slot up to its bound.
    pub(crate) async fn pass(
        &self,
        end: i64,
        bound: impl Fn(u8) -> i64,
        leaves_room: bool,
    ) -> Result<Vec<Batches>, Failure> {
        let room = Room { store: self.store.clone(), leaves_room, turn: Arc::default(), stop: self.stop.clone() };
        let incarnations = self.incarnations(end).await?;
        let mut lanes = self.lanes(incarnations.newest().id).await?;
        let low = lanes.iter().map(|lane| lane.checkpoints.low()).min().unwrap_or(0);
        let mut writing = JoinSet::new();
        let mut senders = Vec::new();
        for (number, mut lane) in lanes.drain(..).enumerate() {
            let (sender, mut receiver) = mpsc::channel::<Vec<Slotted>>(1);
            senders.push(sender);
            let room = room.clone();
            writing.spawn(async move {
                while let Some(events) = receiver.recv().await {
                    room.write(&mut lane, events).await?;
                }
                Ok::<_, Failure>((number, lane))
            });
        }
        let read = self.read((low, end), bound, &room, &senders).await;
        drop(senders);
        let mut written = Vec::new();
        while let Some(lane) = writing.join_next().await {
            written.push(lane.map_err(|_| sqlx::Error::WorkerCrashed)??);
        }
        let whole = read?;
        written.sort_by_key(|(number, _)| *number);
        let mut lanes: Vec<_> = written.into_iter().map(|(_, lane)| lane).collect();
        // Who was told to stop may have left something out.
        if whole && !self.stop.is_cancelled() {
            for lane in &mut lanes {
                lane.checkpoints.cover_all(end);
                lane.settle().await?;
            }
        }
        Ok(lanes)
    }

    /// Hands the events over to the lanes; false where it was told to stop before the end.
    async fn read(
        &self,
        (low, end): (i64, i64),
        bound: impl Fn(u8) -> i64,
        room: &Room,
        senders: &[mpsc::Sender<Vec<Slotted>>],
    ) -> Result<bool, Failure> {
        let mut hands: Vec<_> = senders.iter().map(Hand::of).collect();
        let mut at = low;
        while at < end {
            let (range, batch) = if room.is_wanted() { BESIDE_OTHERS } else { (RANGE, BATCH) };
            let until = end.min(at + range);
            let mut chunks = std::pin::pin!(self.store.log_as(at, until, Slotted::new));
            while let Some(chunk) = chunks.try_next().await? {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                for slotted in chunk.into_iter().filter(|slotted| slotted.event.position <= bound(slotted.slot)) {
                    let lane = usize::from(slotted.slot) % hands.len();
                    let Some(hand) = hands.get_mut(lane) else { continue };
                    if !hand.take(slotted, batch).await {
                        return Ok(false);
                    }
                }
            }
            at = until;
        }
        for mut hand in hands {
            if !hand.give().await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The lives of the log, which the rows are made those of.
    async fn incarnations(&self, end: i64) -> Result<Incarnations, Failure> {
        let incarnations = self.store.incarnations();
        let mut conn = self.pool.acquire().await?;
        let adopted = adopt(&*self.projector, self.generation, &incarnations, end, &mut conn).await?;
        if let Adopted::Beyond(place) = adopted {
            drop(conn);
            self.store.settle(&[Evidence::Seen { by: "a read model", place }]).await?;
            return Err(Failure::LogRestored);
        }
        Ok(incarnations)
    }

    async fn lanes(&self, incarnation: i64) -> Result<Vec<Batches>, Failure> {
        let mut conn = self.pool.acquire().await?;
        let mut lanes = Vec::new();
        for lane in 0..LANES {
            let mut batches = Batches::new(self.projector.clone(), self.pool.clone(), None, BATCH);
            batches.begin(self.generation, incarnation, Slots::of_partitions(&[lane], LANES), &mut conn).await?;
            lanes.push(batches);
        }
        Ok(lanes)
    }
}

/// What is in hand for a lane.
struct Hand<'a> {
    lane: &'a mpsc::Sender<Vec<Slotted>>,
    events: Vec<Slotted>,
    bytes: usize,
}

impl<'a> Hand<'a> {
    fn of(lane: &'a mpsc::Sender<Vec<Slotted>>) -> Self {
        Self { lane, events: Vec::new(), bytes: 0 }
    }

    /// Takes one more, and gives all to the lane once they are so many; false where the lane has ended, which says why when it
    /// is joined.
    async fn take(&mut self, slotted: Slotted, most: usize) -> bool {
        self.bytes += size(&slotted.event);
        self.events.push(slotted);
        (self.events.len() < most && self.bytes < BATCH_BYTES) || self.give().await
    }

    async fn give(&mut self) -> bool {
        self.bytes = 0;
        self.lane.send(std::mem::take(&mut self.events)).await.is_ok()
    }
}

/// Room for whoever asks the house for something.
#[derive(Clone)]
struct Room {
    store: EventStore,
    leaves_room: bool,
    /// Who has it writes; the other lanes wait.
    turn: Arc<Mutex<()>>,
    stop: CancellationToken,
}

impl Room {
    fn is_wanted(&self) -> bool {
        self.leaves_room && self.store.callers().anybody()
    }

    /// Writes events of a lane: at once, or bit by bit while room is wanted; not all of them where it is told to stop.
    async fn write(&self, lane: &mut Batches, mut events: Vec<Slotted>) -> Result<(), Failure> {
        while !events.is_empty() && self.is_wanted() && !self.stop.is_cancelled() {
            let later = events.split_off(events.len().min(BESIDE_OTHERS.1));
            let _turn = self.turn.lock().await;
            let began = Instant::now();
            lane.catch_up(std::mem::replace(&mut events, later)).await?;
            let rest = tokio::time::sleep(began.elapsed().min(LONGEST_REST));
            self.stop.run_until_cancelled(rest).await;
        }
        if events.is_empty() || self.stop.is_cancelled() { Ok(()) } else { lane.catch_up(events).await }
    }
}

/// Where a projector's new generations are built: in whichever process has the lease for it.
pub(crate) struct Site {
    pub(crate) projector: Arc<dyn Projector>,
    pub(crate) store: EventStore,
    pub(crate) pool: PgPool,
}

impl Site {
    /// Builds what is asked for, until it is stopped.
    pub(crate) async fn run(self, mut control: watch::Receiver<Control>, stop: CancellationToken) {
        loop {
            let wanted = stop.run_until_cancelled(control.wait_for(|control| control.building.is_some())).await;
            let Some(Ok(wanted)) = wanted.map(|wanted| wanted.map(|control| control.building)) else { return };
            if let Some(generation) = wanted
                && let Err(failure) = self.build(generation, &stop).await
            {
                let projector = self.projector.name();
                tracing::warn!(projector, generation, error = chain(&failure), "new rows can't be made yet");
            }
            // Who has built it, or could not, looks again when it knows what has become of that.
            let changed = tokio::time::timeout(LEASE * 2, control.changed());
            if stop.run_until_cancelled(changed).await.is_none() {
                return;
            }
        }
    }

    /// Builds a generation, if this process is the one that does, and takes away what it has replaced.
    pub(crate) async fn build(&self, generation: i32, stop: &CancellationToken) -> Result<(), Failure> {
        let revision = "SELECT revision FROM projection_generations WHERE projector = $1 AND generation = $2";
        let revision = sqlx::query_scalar::<_, i32>(revision).bind(self.projector.name()).bind(generation);
        // What another binary makes is another's to build.
        if revision.fetch_optional(&self.pool).await? != Some(self.projector.revision()) {
            return Ok(());
        }
        let Some(mut leadership) = self.store.lead(&format!("rebuild:{}", self.projector.name())).await? else {
            return Ok(());
        };
        let stop = stop.child_token();
        let (projector, store, pool) = (self.projector.clone(), self.store.clone(), self.pool.clone());
        let builder = Builder { projector, store, pool, generation, stop: stop.clone() };
        let built = {
            let mut building = std::pin::pin!(builder.build());
            loop {
                tokio::select! {
                    built = &mut building => break built,
                    () = tokio::time::sleep(LEASE) => if leadership.confirm().await.is_err() {
                        stop.cancel();
                    },
                }
            }
        };
        if matches!(built, Ok(true)) {
            // Who has just begun to read the old rows may end.
            stop.run_until_cancelled(tokio::time::sleep(generations::GRACE)).await;
        }
        let mut conn = self.pool.acquire().await?;
        if let Err(error) = generations::drop_retired(&*self.projector, &mut conn).await {
            tracing::info!(projector = self.projector.name(), error = chain(&error), "old rows are still being read");
        }
        leadership.resign().await;
        built.map(|_| ())
    }
}
