//! Room for the items of batches: whoever is alone has all of it, and little while others ask for something, too. An import
//! is in no hurry, and each of its items that is under way is one that others wait for: at the log's head, and for a core.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

/// How many items are carried out at a time in a process: an import is slower with 128, and with 512 takes more memory
/// and holds the head of the log, which all processes share, for longer (docs/decisions/0030-imports-leave-room.md).
pub const ITEMS_AT_A_TIME: u32 = 256;
/// How many while others ask, too, by how old the batch is: few, at the price of the import's speed (docs/performance.md),
/// and more the less time is left, for a batch must be answered like any request.
const ITEMS_BESIDE_OTHERS: [(Duration, u32); 3] =
    [(Duration::from_secs(3), 3), (Duration::from_secs(8), 8), (Duration::MAX, 32)];

/// See the module.
#[derive(Debug)]
pub struct BatchRoom {
    room: Semaphore,
    /// Who has it waits for room; the others wait for it. So what an item takes is decided when its turn has come.
    turn: Mutex<()>,
}

impl Default for BatchRoom {
    fn default() -> Self {
        Self { room: Semaphore::new(ITEMS_AT_A_TIME as usize), turn: Mutex::default() }
    }
}

impl BatchRoom {
    /// Waits for room for an item of a batch that began then, beside others or not; none only where there will never be any
    /// again.
    pub async fn item(&self, beside_others: impl Fn() -> bool, begun: Instant) -> Option<SemaphorePermit<'_>> {
        let _turn = self.turn.lock().await;
        let (beside_others, age) = (beside_others(), begun.elapsed());
        let beside = ITEMS_BESIDE_OTHERS.iter().find(|(until, _)| beside_others && age < *until);
        let weight = beside.map_or(1, |(_, items)| ITEMS_AT_A_TIME / items);
        self.room.acquire_many(weight).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_alone_has_all_room_and_little_beside_others_until_time_is_short() {
        let room = BatchRoom::default();
        let free = || room.room.available_permits();
        let before = |seconds| Instant::now() - Duration::from_secs(seconds);
        let item = room.item(|| false, before(0)).await.unwrap();
        assert_eq!(free(), 255);
        drop(item);
        let items = [room.item(|| true, before(0)).await.unwrap(), room.item(|| true, before(2)).await.unwrap()];
        assert_eq!(free(), 256 - 2 * 85);
        drop(items);
        let items = [room.item(|| true, before(3)).await.unwrap(), room.item(|| true, before(20)).await.unwrap()];
        assert_eq!(free(), 256 - 32 - 8);
        drop(items);
        assert_eq!(free(), 256);
    }
}
