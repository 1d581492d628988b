//! Tenants whose logs are followed. One look at what was appended tells all who follow, however many they are; while
//! nothing is appended, or nobody follows, none is taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::names::API_KEY;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::bounded::Bounded;
use crate::chain;
use crate::incarnation::Incarnation;
use crate::store::EventStore;
use crate::tail::Tail;

/// The least time between two looks: what is appended meanwhile is told together.
const PACE: Duration = Duration::from_millis(5);
/// How long a look that failed is rested from.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a look may take: a server that hangs is asked again.
const ANSWERS: Duration = Duration::from_secs(5);
/// The most positions that one look takes in.
const RANGE: i64 = 10_000;

/// How far a tenant's log has come since somebody follows it; 0 where nothing was heard yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The last sequence.
    pub sequence: i64,
    /// The last sequence of what happened to an API key of the tenant.
    pub of_keys: i64,
}

/// Hears of what is appended for one tenant, by whichever process, in one incarnation of the log.
#[derive(Debug)]
pub struct Follower {
    followers: Followers,
    tenant: Uuid,
    ear: watch::Receiver<Heard>,
}

impl Follower {
    /// What was heard so far; none once the log has gone back: then this one hears nothing more.
    pub fn heard(&mut self) -> Option<Heard> {
        self.ear.has_changed().ok()?;
        Some(*self.ear.borrow_and_update())
    }

    /// Waits until there is more to hear, or never will be.
    pub async fn changed(&mut self) {
        let _ = self.ear.changed().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followed = self.followers.followed();
        let last = |told: &watch::Sender<Heard>| told.receiver_count() == 1 && told.subscribe().same_channel(&self.ear);
        if followed.tenants.get(&self.tenant).is_some_and(last) {
            followed.tenants.remove(&self.tenant);
        }
    }
}

impl EventStore {
    /// Follows a tenant's log from now on: whoever reads the tenant's head after this call hears of all that comes behind
    /// it.
    pub fn follow(&self, tenant: Uuid) -> Follower {
        let followers = self.inner.followers.clone();
        let ear = followers.follow(tenant, self.inner.tail.newest());
        Follower { followers, tenant, ear }
    }
}

/// All who follow; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers {
    followed: Arc<Mutex<Followed>>,
    woken: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Followed {
    /// The life of the log that all this is about.
    life: i64,
    /// Up to this position everybody was told.
    position: i64,
    tenants: HashMap<Uuid, watch::Sender<Heard>>,
}

impl Followed {
    /// In another life of the log sequences stand for other events: who followed the one before has heard its last.
    fn enter(&mut self, life: Incarnation) {
        if self.life != life.id {
            (self.life, self.position) = (life.id, life.first_position - 1);
            self.tenants.clear();
        }
    }
}

/// What was appended for a tenant.
type Moved = (Uuid, Heard);

impl Followers {
    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, tenant: Uuid, (life, position): (Incarnation, i64)) -> watch::Receiver<Heard> {
        let mut followed = self.followed();
        followed.enter(life);
        if followed.tenants.is_empty() {
            // What nobody followed was not looked at. What is not known yet to be committed lies behind this.
            followed.position = position;
        }
        let told = followed.tenants.entry(tenant).or_insert_with(|| watch::Sender::new(Heard::default()));
        let ear = told.subscribe();
        self.woken.notify_one();
        ear
    }

    /// The life of the log, and the position up to which everybody was told; none while nobody follows.
    fn place(&self, life: Incarnation) -> Option<(i64, i64)> {
        let mut followed = self.followed();
        followed.enter(life);
        (!followed.tenants.is_empty()).then_some((followed.life, followed.position))
    }

    fn tell(&self, life: i64, until: i64, moved: &[Moved]) {
        let mut followed = self.followed();
        if followed.life != life {
            return;
        }
        followed.position = until;
        for (tenant, now) in moved {
            if let Some(told) = followed.tenants.get(tenant) {
                told.send_modify(|heard| {
                    heard.sequence = heard.sequence.max(now.sequence);
                    heard.of_keys = heard.of_keys.max(now.of_keys);
                });
            }
        }
    }

    /// Tells all who follow, for as long as it runs.
    pub(crate) async fn run(self, tail: Tail, reading: Bounded) {
        let reading = reading.patient(ANSWERS);
        loop {
            let Some((life, after)) = self.place(tail.newest().0) else {
                self.woken.notified().await;
                continue;
            };
            let until = tail.moved(life, after).await.min(after + RANGE);
            if tail.incarnation() != life {
                continue;
            }
            match moved(&reading, after, until).await {
                Ok(moved) => self.tell(life, until, &moved),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "those who follow a log can't be told what was appended yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// The tenants for which something was appended in a range of positions.
async fn moved(pool: &Bounded, after: i64, until: i64) -> Result<Vec<Moved>, sqlx::Error> {
    let moved: Vec<(Uuid, i64, Option<i64>)> = sqlx::query_as(
        "SELECT tenant_id, max(sequence), max(sequence) FILTER (WHERE stream_type = $3)
         FROM events WHERE position > $1 AND position <= $2 GROUP BY tenant_id",
    )
    .bind(after)
    .bind(until)
    .bind(API_KEY.name)
    .fetch_all(pool)
    .await?;
    let heard = |(tenant, sequence, of_keys): (_, _, Option<i64>)| {
        (tenant, Heard { sequence, of_keys: of_keys.unwrap_or_default() })
    };
    Ok(moved.into_iter().map(heard).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Incarnation = Incarnation { id: 1, first_position: 1 };
    const TWO: Incarnation = Incarnation { id: 2, first_position: 51 };
    const ADA: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    fn follower(followers: &Followers, tenant: Uuid, place: (Incarnation, i64)) -> Follower {
        Follower { followers: followers.clone(), tenant, ear: followers.follow(tenant, place) }
    }

    fn at(sequence: i64) -> Heard {
        Heard { sequence, of_keys: 0 }
    }

    #[test]
    fn the_log_is_looked_at_while_somebody_follows_and_from_where_the_first_began() {
        let followers = Followers::default();
        assert_eq!(followers.place(ONE), None);
        let first = follower(&followers, ADA, (ONE, 40));
        assert_eq!(followers.place(ONE), Some((1, 40)));
        let second = follower(&followers, ADA, (ONE, 60));
        let other = follower(&followers, BOB, (ONE, 60));
        assert_eq!(followers.place(ONE), Some((1, 40)), "who follows longer was not told yet");
        drop((first, other));
        assert!(followers.place(ONE).is_some(), "one of two is still there");
        drop(second);
        assert_eq!(followers.place(ONE), None);
        let _again = follower(&followers, ADA, (ONE, 90));
        assert_eq!(followers.place(ONE), Some((1, 90)));
    }

    #[test]
    fn each_hears_of_its_own_tenant_and_nothing_goes_back() {
        let followers = Followers::default();
        let (mut ada, mut bob) = (follower(&followers, ADA, (ONE, 0)), follower(&followers, BOB, (ONE, 0)));
        followers.tell(1, 9, &[(ADA, Heard { sequence: 7, of_keys: 5 }), (Uuid::from_u128(3), at(2))]);
        followers.tell(1, 9, &[(ADA, at(6))]);
        assert_eq!(ada.heard(), Some(Heard { sequence: 7, of_keys: 5 }));
        assert_eq!(bob.heard(), Some(Heard::default()));
        assert_eq!(followers.place(ONE), Some((1, 9)));
    }

    #[test]
    fn in_another_life_of_the_log_nothing_of_the_one_before_is_heard() {
        let followers = Followers::default();
        let mut old = follower(&followers, ADA, (ONE, 70));
        followers.tell(1, 80, &[(ADA, at(30))]);
        let mut new = follower(&followers, ADA, (TWO, 55));
        assert_eq!((old.heard(), new.heard()), (None, Some(Heard::default())));
        followers.tell(1, 90, &[(ADA, at(40))]);
        assert_eq!(new.heard(), Some(Heard::default()), "a look of the life before comes late");
        // Who has heard its last does not take the others' place with it.
        drop(old);
        followers.tell(2, 56, &[(ADA, at(21))]);
        assert_eq!(new.heard(), Some(at(21)));
        drop(new);
        let _next = follower(&followers, BOB, (TWO, 60));
        let third = Incarnation { id: 3, first_position: 58 };
        assert_eq!(followers.place(third), None, "nobody follows it yet");
    }
}
