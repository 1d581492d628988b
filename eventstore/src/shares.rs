//! A task in parts that the processes of the house share, each as many as any other: who comes is given some, who dies or
//! hangs loses its own some seconds later. As with a [lease](crate::Leadership), whatever a holder does afterwards is fenced
//! by what it writes, never by the lease.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::bounded::Bounded;
use crate::chain;
use crate::store::{EventStore, StoreError};

/// How long a part is held without being renewed.
const GOOD_FOR: Duration = Duration::from_secs(3);

/// Comes, and counts who is there; renews what is its own; gives back what is more than its share; takes what is free.
/// Each process looks for that from another part on, so that those who come together seldom race for the same. Two that
/// lock crosswise all the same (parts run out just while they are renewed) cost one of them a round: it asks again.
const RENEW: &str = "
    WITH here AS (
        INSERT INTO leases AS known (task, holder, expires_at)
        VALUES ($1 || '/member/' || $2::text, $2, clock_timestamp() + make_interval(secs => $4))
        ON CONFLICT (task) DO UPDATE SET expires_at = excluded.expires_at
    ), gone AS (
        DELETE FROM leases WHERE starts_with(task, $1 || '/member/')
            AND expires_at < clock_timestamp() - interval '1 minute'
    ), share AS (
        SELECT ceil($3::float8 / (1 + count(*)))::bigint AS most FROM leases
        WHERE starts_with(task, $1 || '/member/') AND holder <> $2 AND expires_at > clock_timestamp()
    ), parts AS (
        SELECT part, $1 || '/' || part AS task FROM generate_series(0, $3 - 1) AS part
    ), own AS (
        SELECT parts.*, row_number() OVER (ORDER BY part) AS place
        FROM parts JOIN leases USING (task) WHERE holder = $2 AND expires_at > clock_timestamp()
    ), kept AS (
        UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => $4) FROM own, share
        WHERE leases.task = own.task AND holder = $2 AND own.place <= share.most RETURNING part
    ), given AS (
        DELETE FROM leases USING own, share
        WHERE leases.task = own.task AND holder = $2 AND own.place > share.most
    ), free AS (
        SELECT parts.* FROM parts LEFT JOIN leases USING (task)
        WHERE holder IS NULL OR expires_at < clock_timestamp()
        ORDER BY (part + $5) % $3 LIMIT greatest(0, (SELECT most FROM share) - (SELECT count(*) FROM own))
    ), taken AS (
        INSERT INTO leases AS known (task, holder, expires_at)
        SELECT task, $2, clock_timestamp() + make_interval(secs => $4) FROM free ORDER BY part
        ON CONFLICT (task) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
        WHERE known.expires_at < clock_timestamp()
        RETURNING task
    )
    SELECT part FROM kept UNION ALL SELECT part FROM taken JOIN parts USING (task) ORDER BY part";

/// The share of this process in a task of so many parts.
#[derive(Debug)]
pub struct Share {
    pool: Bounded,
    task: &'static str,
    parts: i32,
    holder: Uuid,
    /// What was held when it was last asked, and until when that is surely good.
    held: (Vec<i32>, Instant),
}

impl EventStore {
    /// Nothing yet of a task of so many parts, of which the processes of the house share the rest.
    pub fn share(&self, task: &'static str, parts: i32) -> Share {
        let pool = self.inner.writing.patient(GOOD_FOR);
        Share { pool, task, parts, holder: Uuid::now_v7(), held: (Vec::new(), Instant::now()) }
    }
}

impl Share {
    /// Asks for its share, and renews it: about once a second. The parts that are its own for the next three seconds.
    pub async fn renew(&mut self) -> Result<&[i32], StoreError> {
        let asked = Instant::now();
        let from = i32::from(self.holder.as_bytes()[15]) % self.parts;
        let held = sqlx::query_scalar(RENEW)
            .bind(self.task)
            .bind(self.holder)
            .bind(self.parts)
            .bind(GOOD_FOR.as_secs_f64())
            .bind(from)
            .fetch_all(&self.pool)
            .await?;
        self.held = (held, asked + GOOD_FOR);
        Ok(&self.held.0)
    }

    /// The parts that are surely its own now: none where it could not renew them in time.
    pub fn held(&self) -> &[i32] {
        if self.held.1 > Instant::now() { &self.held.0 } else { &[] }
    }

    /// Gives everything up, so that the others have it at once.
    pub async fn resign(self) {
        let given = sqlx::query("DELETE FROM leases WHERE starts_with(task, $1 || '/') AND holder = $2");
        if let Err(error) = given.bind(self.task).bind(self.holder).execute(&self.pool).await {
            tracing::debug!(error = chain(&error), task = self.task, "a share runs out by itself");
        }
    }
}
