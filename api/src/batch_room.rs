//! Room for the items of batches: whoever is alone has all of it, and little while others ask for something, too. An import
//! is in no hurry, and each of its items that is under way is one that others wait for: at the log's head, and for a core.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::TenantId;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many items are carried out at a time in a process: twice as many import little faster, and their commits hold
/// the head of the log, which all processes share, for twice as long.
pub const ITEMS_AT_A_TIME: u32 = 128;
/// How many while others ask, too: few, at the price of the import's speed (docs/performance.md).
const ITEMS_BESIDE_OTHERS: u32 = 8;
/// How long after a request its tenant counts as one who asks.
const RECENTLY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct BatchRoom {
    items: Semaphore,
    /// The last two tenants who asked, the last first: one of them is another than any that asks now.
    askers: Mutex<[Option<(TenantId, Instant)>; 2]>,
}

impl Default for BatchRoom {
    fn default() -> Self {
        Self { items: Semaphore::new(ITEMS_AT_A_TIME as usize), askers: Mutex::default() }
    }
}

impl BatchRoom {
    /// Takes note of who asks for something.
    pub fn note(&self, tenant: TenantId) {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if askers[0].is_none_or(|(last, _)| last != tenant) {
            askers.swap(0, 1);
        }
        askers[0] = Some((tenant, Instant::now()));
    }

    fn others(&self, tenant: TenantId) -> bool {
        let askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.iter().flatten().any(|(asker, at)| *asker != tenant && at.elapsed() < RECENTLY)
    }

    /// Waits for room for an item of a tenant's batch; none only where there will never be any again.
    pub async fn item(&self, tenant: TenantId) -> Option<SemaphorePermit<'_>> {
        let weight = if self.others(tenant) { ITEMS_AT_A_TIME / ITEMS_BESIDE_OTHERS } else { 1 };
        self.items.acquire_many(weight).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use eventstore::new_id;

    use super::*;

    #[tokio::test]
    async fn who_is_alone_has_all_room_and_little_beside_others() {
        let (room, importer, other) = (BatchRoom::default(), TenantId::from(new_id()), TenantId::from(new_id()));
        let free = || room.items.available_permits();
        room.note(importer);
        let item = room.item(importer).await.unwrap();
        assert_eq!(free(), 127);
        drop(item);
        room.note(other);
        room.note(importer);
        room.note(importer);
        let items = [room.item(importer).await.unwrap(), room.item(importer).await.unwrap()];
        assert_eq!(free(), 128 - 32);
        drop(items);
        assert_eq!(free(), 128);
    }
}
