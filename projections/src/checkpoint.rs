//! How far a projector has come in each slot, and the fence that keeps a zombie from writing.
//!
//! `stored` is what the database has, and what it must still have when the next batch commits. `covered` runs ahead of it:
//! it counts the batch in hand, and for a slot in which nothing happens, what a heartbeat or a reading of the log says.

use sqlx::{PgConnection, Row};

use eventstore::bytes::SLOTS;

pub(crate) const COUNT: usize = SLOTS as usize;

/// A slot that stays without events is written along with a batch once its checkpoint is this far behind: a restart reads
/// the log from the lowest checkpoint on.
const STALE: i64 = 10_000;

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots(u64);

impl Slots {
    /// All of them.
    pub(crate) const ALL: Self = Self(u64::MAX);

    /// Those of some partitions, of `count` in all: partition = slot mod count.
    pub(crate) fn of_partitions(partitions: &[i32], count: i32) -> Self {
        let taken = |slot: &u8| partitions.contains(&(i32::from(*slot) % count.max(1)));
        Self((0..SLOTS).filter(taken).fold(0, |set, slot| set | 1 << slot))
    }

    pub(crate) fn contains(self, slot: u8) -> bool {
        self.0 >> slot & 1 == 1
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and those.
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// As a number whose bits are the slots.
    pub(crate) fn bits(self) -> i64 {
        self.0.cast_signed()
    }

    pub(crate) fn of_bits(bits: i64) -> Self {
        Self(bits.cast_unsigned())
    }

    pub(crate) fn count(self) -> i16 {
        self.0.count_ones() as i16
    }

    pub(crate) fn insert(&mut self, slot: u8) {
        self.0 |= 1 << slot;
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..SLOTS).filter(move |slot| self.contains(*slot))
    }
}

/// What to do with an event that the feed brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was applied before.
    Drop,
    /// It is the next of its slot.
    Apply,
    /// Something before it is missing: the log has it.
    CatchUp,
}

/// The rule of the feed, whatever the feed did: `previous` is the position of the event before it in its slot.
pub(crate) fn step(covered: i64, position: i64, previous: i64) -> Step {
    if position <= covered {
        Step::Drop
    } else if previous > covered {
        Step::CatchUp
    } else {
        Step::Apply
    }
}

/// The checkpoints of a projector in one generation.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    projector: &'static str,
    generation: i32,
    /// The life of the log that the rows are made of.
    pub(crate) incarnation: i64,
    /// The slots that this process has the work of.
    pub(crate) slots: Slots,
    stored: [i64; COUNT],
    covered: [i64; COUNT],
}

/// The part of the checkpoints that a batch moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) slots: Vec<i16>,
    pub(crate) expected: Vec<i64>,
    pub(crate) new: Vec<i64>,
}

/// How a batch's first statement went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The checkpoints were where they should be, and have moved.
    Passed,
    /// Another process has moved them: what this one believes is old.
    Closed,
}

impl Checkpoints {
    /// None yet: [`load`](Self::load) comes first.
    pub(crate) fn new(projector: &'static str, generation: i32, incarnation: i64) -> Self {
        let none = [0; COUNT];
        Self { projector, generation, incarnation, slots: Slots::default(), stored: none, covered: none }
    }

    /// Whose they are.
    pub(crate) fn projector(&self) -> &'static str {
        self.projector
    }

    /// The generation.
    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    /// The life of the log that the rows are made of.
    pub(crate) fn incarnation(&self) -> i64 {
        self.incarnation
    }

    /// What to do with an event of a slot.
    pub(crate) fn step(&self, slot: u8, position: i64, previous: i64) -> Step {
        if self.slots.contains(slot) { step(self.covered(slot), position, previous) } else { Step::Drop }
    }

    /// Everything of the slot at or below this position is applied or in hand.
    pub(crate) fn covered(&self, slot: u8) -> i64 {
        self.covered.get(usize::from(slot)).copied().unwrap_or(i64::MAX)
    }

    /// Notes that everything of the slot up to this position is applied or in hand.
    pub(crate) fn cover(&mut self, slot: u8, position: i64) {
        if let Some(covered) = self.covered.get_mut(usize::from(slot)) {
            *covered = position.max(*covered);
        }
    }

    /// The same for every slot of this process.
    pub(crate) fn cover_all(&mut self, position: i64) {
        self.slots.iter().for_each(|slot| self.cover(slot, position));
    }

    /// The position up to which every slot of this process is covered.
    pub(crate) fn low(&self) -> i64 {
        self.slots.iter().map(|slot| self.covered(slot)).min().unwrap_or(0)
    }

    /// Reads what is stored, making the rows where there are none, and believes nothing else any more.
    pub(crate) async fn load(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let rows =
            sqlx::query("SELECT slot, position FROM projection_checkpoints WHERE projector = $1 AND generation = $2")
                .bind(self.projector)
                .bind(self.generation)
                .fetch_all(conn)
                .await?;
        let mut stored = [0; COUNT];
        for row in rows {
            let slot: i16 = row.try_get(0)?;
            if let Some(stored) = usize::try_from(slot).ok().and_then(|slot| stored.get_mut(slot)) {
                *stored = row.try_get(1)?;
            }
        }
        self.believe(stored);
        Ok(())
    }

    /// Takes what is stored for what is so.
    pub(crate) fn believe(&mut self, stored: [i64; COUNT]) {
        (self.stored, self.covered) = (stored, stored);
    }

    /// What a batch moves that ends in these slots at these positions. `busy` are the slots with events still in hand:
    /// of the others, those that have fallen far behind come along, and with `settle` all that lag at all.
    pub(crate) fn moves(&self, ends: &[(u8, i64)], busy: Slots, settle: bool) -> Moves {
        let mut moves = Moves::default();
        for slot in self.slots.iter() {
            let stored = self.stored.get(usize::from(slot)).copied().unwrap_or(0);
            let lags = self.covered(slot) - stored;
            let new = match ends.iter().find(|(of, _)| *of == slot) {
                Some((_, end)) => *end,
                None if !busy.contains(slot) && lags > if settle { 0 } else { STALE } => self.covered(slot),
                None => continue,
            };
            moves.slots.push(i16::from(slot));
            moves.expected.push(stored);
            moves.new.push(new);
        }
        moves
    }

    /// Moves the checkpoints and notes the tenants' sequences, unless another process has moved them meanwhile. It is
    /// the first statement of the transaction that writes the rows, and locks the checkpoints until that ends.
    pub(crate) async fn fence(
        &self,
        moves: &Moves,
        sequences: &[(uuid::Uuid, i64)],
        conn: &mut PgConnection,
    ) -> Result<Fence, sqlx::Error> {
        let moved: i64 = sqlx::query_scalar(
            "WITH fence AS (
                UPDATE projection_checkpoints AS c SET position = m.new
                FROM unnest($3::smallint[], $4::bigint[], $5::bigint[]) AS m (slot, expected, new)
                WHERE c.projector = $1 AND c.generation = $2 AND c.slot = m.slot AND c.position = m.expected
                    AND c.incarnation = $8
                RETURNING 1
            ), noted AS (
                INSERT INTO projection_sequences (projector, generation, tenant_id, sequence, at)
                SELECT $1, $2, s.tenant_id, s.sequence, clock_timestamp()
                FROM unnest($6::uuid[], $7::bigint[]) AS s (tenant_id, sequence)
                WHERE (SELECT count(*) FROM fence) = cardinality($3::smallint[])
                ON CONFLICT (projector, generation, tenant_id)
                DO UPDATE SET sequence = excluded.sequence, at = excluded.at
            )
            SELECT count(*) FROM fence",
        )
        .bind(self.projector)
        .bind(self.generation)
        .bind(&moves.slots)
        .bind(&moves.expected)
        .bind(&moves.new)
        .bind(sequences.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
        .bind(sequences.iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>())
        .bind(self.incarnation)
        .fetch_one(conn)
        .await?;
        Ok(if usize::try_from(moved) == Ok(moves.slots.len()) { Fence::Passed } else { Fence::Closed })
    }

    /// Notes that the transaction of these moves has committed.
    pub(crate) fn committed(&mut self, moves: &Moves) {
        for (slot, new) in moves.slots.iter().zip(&moves.new) {
            if let Some(stored) = usize::try_from(*slot).ok().and_then(|slot| self.stored.get_mut(slot)) {
                *stored = *new;
            }
        }
    }
}

impl Moves {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::sales::ANALYTICS_SALES;
    use crate::generations::prepare;
    use crate::test_support::House;

    #[test]
    fn slots_follow_their_partitions() {
        let slots = Slots::of_partitions(&[1, 6], 8);
        assert_eq!(slots.iter().take(5).collect::<Vec<_>>(), [1, 6, 9, 14, 17]);
        assert_eq!(slots.iter().count(), 16);
        assert_eq!(Slots::of_partitions(&[0], 1), Slots::ALL);
        assert!(Slots::of_partitions(&[], 8).is_empty() && !Slots::ALL.is_empty());
    }

    #[test]
    fn a_batch_moves_its_slots_and_those_that_have_fallen_far_behind() {
        let mut checkpoints = Checkpoints::new("test", 1, 1);
        checkpoints.slots = Slots::of_partitions(&[0, 1, 2], 64);
        checkpoints.cover(0, 7);
        checkpoints.cover(1, STALE + 1);
        let moves = checkpoints.moves(&[(0, 5)], Slots::default(), false);
        assert_eq!((moves.slots, moves.expected, moves.new), (vec![0, 1], vec![0, 0], vec![5, STALE + 1]));

        let mut busy = Slots::default();
        busy.insert(1);
        let moves = checkpoints.moves(&[(0, 5)], busy, false);
        assert_eq!(moves.slots, [0], "a slot with events in hand is not passed over them");

        let moves = checkpoints.moves(&[], Slots::default(), true);
        assert_eq!((moves.slots.as_slice(), moves.new.as_slice()), (&[0, 1][..], &[7, STALE + 1][..]));
        checkpoints.committed(&moves);
        assert!(checkpoints.moves(&[], Slots::default(), true).is_empty());
    }

    #[tokio::test]
    async fn of_two_who_have_seen_the_same_checkpoints_one_passes_the_fence() {
        let Some(house) = House::open().await else { return };
        let mut conn = house.projector().await;
        prepare(ANALYTICS_SALES, 1, &mut conn).await.unwrap();
        let mut two = [(); 2].map(|()| Checkpoints::new(ANALYTICS_SALES, 1, 1));
        for checkpoints in &mut two {
            checkpoints.slots = Slots::ALL;
            checkpoints.load(&mut conn).await.unwrap();
        }
        let [mut one, other] = two;
        let moves = |of: &Checkpoints, position| of.moves(&[(7, position)], Slots::default(), false);
        let first = moves(&one, 5);
        assert_eq!(one.fence(&first, &[], &mut conn).await.unwrap(), Fence::Passed);
        one.committed(&first);
        assert_eq!(other.fence(&moves(&other, 6), &[], &mut conn).await.unwrap(), Fence::Closed);
        assert_eq!(one.fence(&moves(&one, 6), &[], &mut conn).await.unwrap(), Fence::Passed);
        drop(conn);
        house.close().await;
    }
}
