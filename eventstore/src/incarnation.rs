//! The lives of the log. A log that was restored, or that failed over to a standby which lacked commits, has lost events
//! that others may have seen. From there on it lives another life, an incarnation: whatever belongs to the lost end of
//! an earlier one can be told apart by its number.
//!
//! What is here decides; [`crate::guard`] asks the database.

use std::sync::Arc;

use uuid::Uuid;

/// A life of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Its number; no two lives of a log have the same, as long as anything is left that tells of the earlier ones.
    pub id: i64,
    /// The first position that is its own.
    pub first_position: i64,
}

/// The beginning of every log.
const FIRST: Incarnation = Incarnation { id: 1, first_position: 1 };

/// The lives that a log knows of, the oldest first. Lives that were lost as a whole leave a gap in the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnations(Arc<[Incarnation]>);

impl Incarnations {
    /// Those lives.
    pub fn new(mut lives: Vec<Incarnation>) -> Self {
        lives.sort_unstable_by_key(|life| life.id);
        Self(if lives.is_empty() { [FIRST].into() } else { lives.into() })
    }

    /// These and one more.
    pub(crate) fn with(&self, life: Incarnation) -> Self {
        Self::new(self.0.iter().copied().chain([life]).collect())
    }

    /// The one that is being written.
    pub fn newest(&self) -> Incarnation {
        self.0.last().copied().unwrap_or(FIRST)
    }

    /// Which one a position belongs to: an event counts only if it was written in that.
    pub fn owner(&self, position: i64) -> i64 {
        self.0.iter().rfind(|life| life.first_position <= position).map_or(FIRST.id, |life| life.id)
    }

    /// Whether the log knows of that life.
    pub fn knows(&self, id: i64) -> bool {
        self.0.iter().any(|life| life.id == id)
    }

    /// The life that came after that one, if it has ended: from its first position on nothing of the former counts.
    pub fn after(&self, id: i64) -> Option<Incarnation> {
        self.0.iter().filter(|life| life.id > id).min_by_key(|life| life.first_position).copied()
    }

    /// Those that came after the first.
    pub fn later(&self) -> impl DoubleEndedIterator<Item = Incarnation> {
        self.0.iter().skip(1).copied()
    }
}

impl Default for Incarnations {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// A place in the log's lives; a later incarnation may stand at a lower position and is still the higher mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HighWater {
    /// The life of the log.
    pub incarnation: i64,
    /// The newest position in it.
    pub position: i64,
}

/// What went wrong with the mark.
pub type MarkError = Box<dyn std::error::Error + Send + Sync>;

/// A mark of how far the log has come, kept where a restore of the log does not reach: beside the keys. Both calls block.
pub trait HighWaterMark: std::fmt::Debug + Send + Sync + 'static {
    /// Where it is; none where it was never set.
    fn read(&self) -> Result<Option<HighWater>, MarkError>;

    /// Raises it; it never falls.
    fn raise(&self, mark: HighWater) -> Result<(), MarkError>;
}

/// Epochs of different lives are never equal, so that whoever checks an epoch has checked the life as well: its number
/// is in the upper half.
const LIFE_BITS: u32 = 32;

/// The incarnation that an epoch belongs to.
pub(crate) fn life(epoch: i64) -> i64 {
    (epoch >> LIFE_BITS).max(FIRST.id)
}

/// Whether two epochs belong to the same incarnation.
pub fn same_incarnation(one: i64, other: i64) -> bool {
    life(one) == life(other)
}

/// The lowest epoch of an incarnation.
pub(crate) fn first_epoch(incarnation: i64) -> i64 {
    incarnation << LIFE_BITS
}

/// What somebody has seen of the log, and may show that it went back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The log had come that far.
    Seen {
        /// Who has seen it: a noun phrase for the log and the operator.
        by: &'static str,
        /// How far.
        place: HighWater,
    },
    /// The log had that epoch.
    Epoch(i64),
    /// In that life, this event stood at that position.
    Event {
        /// Who has seen it.
        by: &'static str,
        /// The life and the position.
        place: HighWater,
        /// The event's id.
        event_id: Uuid,
    },
}

/// The log as it is, read under its head's lock.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    pub(crate) position: i64,
    pub(crate) epoch: i64,
    /// Where the server is not known, it is taken for the same.
    pub(crate) server: Option<String>,
    pub(crate) known_server: Option<String>,
    pub(crate) incarnations: Incarnations,
}

/// A life that must be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) incarnation: Incarnation,
    pub(crate) reason: String,
}

/// Whether the log went back, by all that was seen of it; `other` are the positions at which it has another event than
/// was seen there.
pub(crate) fn decide(log: &Present, evidence: &[Evidence], other: &[i64]) -> Option<Opening> {
    let newest = log.incarnations.newest().id;
    let end = log.position;
    let mut highest = newest;
    let mut reasons = Vec::new();
    for seen in evidence {
        match seen {
            Evidence::Seen { by, place } => {
                highest = highest.max(place.incarnation);
                if place.incarnation > newest || (place.incarnation == newest && place.position > end) {
                    let HighWater { incarnation, position } = place;
                    reasons.push(format!("{by}: position {position} of incarnation {incarnation}, beyond the end"));
                }
            }
            Evidence::Epoch(epoch) => {
                highest = highest.max(life(*epoch));
                if life(*epoch) >= newest && *epoch > log.epoch {
                    reasons.push("an epoch that the log does not know any more".to_owned());
                }
            }
            Evidence::Event { by, place, .. } if other.contains(&place.position) => {
                reasons.push(format!("{by}: another event at position {}", place.position));
            }
            Evidence::Event { .. } => {}
        }
    }
    if let (Some(now), Some(known)) = (&log.server, &log.known_server)
        && now != known
    {
        reasons.push(format!("another server or timeline: {now}, was {known}"));
    }
    if reasons.is_empty() {
        return None;
    }
    // What differs already was written in the new life, unnoticed.
    let first_position = other.iter().copied().min().unwrap_or(end + 1);
    let reason = format!("the log ends at position {end}; {}", reasons.join("; "));
    Some(Opening { incarnation: Incarnation { id: highest + 1, first_position }, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(lives: &[(i64, i64)]) -> Incarnations {
        Incarnations::new(lives.iter().map(|&(id, first_position)| Incarnation { id, first_position }).collect())
    }

    fn log(position: i64, epoch: i64, known: &[(i64, i64)]) -> Present {
        let server = Some("7/1".to_owned());
        Present { position, epoch, server: server.clone(), known_server: server, incarnations: lives(known) }
    }

    fn seen(incarnation: i64, position: i64) -> Evidence {
        Evidence::Seen { by: "somebody", place: HighWater { incarnation, position } }
    }

    fn opened(opening: Option<Opening>) -> Option<(i64, i64)> {
        opening.map(|opening| (opening.incarnation.id, opening.incarnation.first_position))
    }

    #[test]
    fn the_newest_life_whose_first_position_is_not_beyond_owns_a_position() {
        let lives = lives(&[(1, 1), (2, 51), (4, 81)]);
        let owners: Vec<i64> = [1, 50, 51, 80, 81, 1_000].into_iter().map(|at| lives.owner(at)).collect();
        assert_eq!(owners, [1, 1, 2, 2, 4, 4]);
        let ends: Vec<_> =
            [1, 2, 3, 4, 5].into_iter().map(|id| lives.after(id).map(|next| next.first_position)).collect();
        assert_eq!(ends, [Some(51), Some(81), Some(81), None, None], "3 was lost as a whole");
        assert_eq!(Incarnations::default().owner(7), 1);
    }

    #[test]
    fn epochs_of_different_lives_are_never_equal() {
        assert_eq!([1, 7, i64::from(u32::MAX)].map(life), [1; 3]);
        assert_eq!(life(first_epoch(2)), 2);
        assert_eq!(life(first_epoch(2) + 1_000_000), 2);
        assert!(first_epoch(3) > first_epoch(2) + i64::from(u32::MAX) / 2);
    }

    #[test]
    fn what_fits_the_log_opens_nothing() {
        let now = log(90, 5, &[(1, 1)]);
        assert_eq!(decide(&now, &[], &[]), None);
        assert_eq!(decide(&now, &[seen(1, 90), seen(1, 3), Evidence::Epoch(5)], &[]), None);
        // Whoever speaks of an earlier life has not heard yet.
        let later = log(95, first_epoch(2), &[(1, 1), (2, 91)]);
        assert_eq!(decide(&later, &[seen(1, 100), Evidence::Epoch(9)], &[]), None);
        let unknown = Present { server: None, ..log(90, 5, &[(1, 1)]) };
        assert_eq!(decide(&unknown, &[], &[]), None, "a server that does not say who it is");
    }

    #[test]
    fn a_head_below_what_was_seen_begins_a_life_after_it() {
        let now = log(90, 5, &[(1, 1)]);
        assert_eq!(opened(decide(&now, &[seen(1, 80), seen(1, 91)], &[])), Some((2, 91)));
        assert_eq!(opened(decide(&now, &[seen(3, 7)], &[])), Some((4, 91)), "no number is given twice");
        assert_eq!(opened(decide(&now, &[Evidence::Epoch(6)], &[])), Some((2, 91)), "only a tombstone was lost");
        let again = log(95, first_epoch(2), &[(1, 1), (2, 91)]);
        assert_eq!(opened(decide(&again, &[seen(2, 96)], &[])), Some((3, 96)));
    }

    #[test]
    fn another_timeline_or_server_begins_a_life_though_nothing_else_shows() {
        for server in ["7/2", "8/1"] {
            let failed_over = Present { server: Some(server.to_owned()), ..log(90, 5, &[(1, 1)]) };
            let opening = decide(&failed_over, &[seen(1, 90)], &[]).unwrap();
            assert_eq!(opening.incarnation, Incarnation { id: 2, first_position: 91 });
            assert!(opening.reason.contains(server) && opening.reason.contains("7/1"), "{}", opening.reason);
        }
    }

    #[test]
    fn a_life_that_went_unnoticed_begins_where_the_log_first_differs() {
        let now = log(105, 5, &[(1, 1)]);
        let event = |position| {
            let place = HighWater { incarnation: 1, position };
            Evidence::Event { by: "Kafka", place, event_id: Uuid::from_u128(1) }
        };
        let evidence = [event(90), event(91), event(95)];
        assert_eq!(decide(&now, &evidence, &[]), None);
        assert_eq!(opened(decide(&now, &evidence, &[95, 91])), Some((2, 91)));
    }
}
