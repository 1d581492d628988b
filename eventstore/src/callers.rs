//! Who asks the house for something: of this process at once, of the others as often as they renew their rows
//! ([`crate::membership`]). Whoever has much to do that is not urgent leaves room for them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long after a request its tenant counts as one who asks.
const RECENTLY: Duration = Duration::from_secs(1);

/// See the module. Two tenants of each process are enough: one of them is another than any that asks now.
#[derive(Debug, Default)]
pub struct Callers {
    /// The last two tenants who asked this process, the last first.
    here: Mutex<[Option<(Uuid, Instant)>; 2]>,
    /// Those of the other processes.
    elsewhere: Mutex<Vec<Uuid>>,
}

impl Callers {
    /// Takes note of who asks for something.
    pub fn note(&self, tenant: Uuid) {
        let mut here = locked(&self.here);
        if here[0].is_none_or(|(last, _)| last != tenant) {
            here.swap(0, 1);
        }
        here[0] = Some((tenant, Instant::now()));
    }

    /// Whether another tenant than that has lately asked for something, here or elsewhere.
    pub fn others_than(&self, tenant: Uuid) -> bool {
        let elsewhere = locked(&self.elsewhere).iter().any(|asker| *asker != tenant);
        elsewhere || self.recent().iter().any(|asker| *asker != tenant)
    }

    /// Whether anybody has lately asked for something, here or elsewhere.
    pub fn anybody(&self) -> bool {
        !locked(&self.elsewhere).is_empty() || !self.recent().is_empty()
    }

    /// Who has lately asked this process.
    pub(crate) fn recent(&self) -> Vec<Uuid> {
        let here = locked(&self.here);
        here.iter().flatten().filter(|(_, at)| at.elapsed() < RECENTLY).map(|(asker, _)| *asker).collect()
    }

    /// Takes note of who has lately asked the other processes.
    pub(crate) fn hear(&self, elsewhere: Vec<Uuid>) {
        *locked(&self.elsewhere) = elsewhere;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_is_seen_whoever_asks_more_often() {
        let (callers, importer, other) = (Callers::default(), Uuid::now_v7(), Uuid::now_v7());
        assert!(!callers.anybody());
        callers.note(importer);
        assert!(callers.anybody());
        assert!(!callers.others_than(importer) && callers.others_than(other));
        callers.note(other);
        callers.note(importer);
        callers.note(importer);
        assert!(callers.others_than(importer) && callers.others_than(other));
        assert_eq!(callers.recent(), [importer, other]);
    }

    #[test]
    fn another_is_seen_whichever_process_it_asks() {
        let (callers, importer, other) = (Callers::default(), Uuid::now_v7(), Uuid::now_v7());
        callers.hear(vec![importer]);
        assert!(callers.anybody());
        assert!(!callers.others_than(importer));
        callers.hear(vec![importer, other]);
        assert!(callers.others_than(importer));
        callers.hear(vec![]);
        assert!(!callers.others_than(importer));
    }
}
