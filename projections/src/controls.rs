//! What operators ask of the projectors, and what these tell operators: through two small tables, so that it does not
//! matter which process is asked and which one does the work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use eventstore::chain;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::checkpoint::Slots;
use crate::documents::word;
use crate::running::{Projections, ProjectorState, ProjectorStatus};

/// How often the tables are read and written while there is news.
const LOOK: Duration = Duration::from_secs(1);
/// How often a process tells how it is without news: of whom nothing was heard for longer, nothing is shown.
const QUIET: Duration = Duration::from_secs(10);

/// What operators ask of one projector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// It must not go on.
    pub(crate) paused: bool,
    /// Raised with every word of an operator.
    pub(crate) changes: i64,
    /// The generation that is to be built.
    pub(crate) building: Option<i32>,
    /// Slots of processes whose revision is not that of the rows, which this one does in their place.
    pub(crate) adopted: Slots,
}

/// What is asked of each projector, by its place in the house.
pub(crate) type Controls = Arc<[watch::Sender<Control>]>;

/// Asks for as long as the process runs, and tells how its projectors are.
pub(crate) async fn watch(projections: Projections, pool: PgPool, controls: Controls, stop: CancellationToken) {
    let process = Uuid::now_v7();
    let mut ticks = tokio::time::interval(LOOK);
    let (mut told, mut told_at) = (Vec::new(), Instant::now());
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let statuses = projections.status();
        if let Err(error) = ask(&pool, process, &statuses, &controls).await {
            tracing::debug!(error = chain(&error), "what operators ask can't be read");
            continue;
        }
        let news = |status: &ProjectorStatus| (status.state, status.position, status.lag_events, status.unable);
        let news: Vec<_> = statuses.iter().map(news).collect();
        if news != told || told_at.elapsed() >= QUIET {
            match tell(&pool, process, &statuses).await {
                Ok(()) => (told, told_at) = (news, Instant::now()),
                Err(error) => tracing::debug!(error = chain(&error), "operators can't be told"),
            }
        }
    }
    let gone = sqlx::query("DELETE FROM projection_runners WHERE process = $1").bind(process).execute(&pool);
    let _ = tokio::time::timeout(LOOK, gone).await;
}

/// Of processes that could do what others can't, the first does it, or they would fence one another.
async fn ask(
    pool: &PgPool,
    process: Uuid,
    statuses: &[ProjectorStatus],
    controls: &Controls,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, bool, i64, Option<i32>, i64)> = sqlx::query_as(
        "WITH runners AS (
            SELECT projector, bit_or(unable) AS unable,
                min(process::text) FILTER (WHERE state IN ('live', 'catching_up')) AS able
            FROM projection_runners WHERE seen_at > clock_timestamp() - $2 * interval '1 second' GROUP BY 1
         )
         SELECT g.projector, coalesce(bool_or(c.paused_at IS NOT NULL), false), coalesce(max(c.changes), 0),
            max(g.generation) FILTER (WHERE g.status = 'building'),
            coalesce(bit_or(r.unable) FILTER (WHERE r.able = $1::uuid::text), 0)
         FROM projection_generations g LEFT JOIN projection_controls c USING (projector)
            LEFT JOIN runners r USING (projector) GROUP BY 1",
    )
    .bind(process)
    .bind((QUIET + 2 * LOOK).as_secs_f64())
    .fetch_all(pool)
    .await?;
    let asked: HashMap<_, _> = rows
        .into_iter()
        .map(|(projector, paused, changes, building, adopted)| {
            (projector, Control { paused, changes, building, adopted: Slots::of_bits(adopted) })
        })
        .collect();
    for (status, control) in statuses.iter().zip(controls.iter()) {
        let asked = asked.get(status.name).copied().unwrap_or_default();
        control.send_if_modified(|known| std::mem::replace(known, asked) != asked);
    }
    Ok(())
}

async fn tell(pool: &PgPool, process: Uuid, statuses: &[ProjectorStatus]) -> Result<(), sqlx::Error> {
    let at_work = statuses.iter().filter(|status| status.state != ProjectorState::Standby);
    let statuses: Vec<_> = at_work.collect();
    let mut tx = pool.begin().await?;
    // Also what processes have left behind that did not end in good order.
    sqlx::query(
        "DELETE FROM projection_runners WHERE process = $1 AND projector <> ALL ($2)
            OR seen_at < clock_timestamp() - interval '1 minute'",
    )
    .bind(process)
    .bind(statuses.iter().map(|status| status.name).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO projection_runners
            (process, projector, state, slots, position, lag_events, lag_seconds, error, unable)
         SELECT $1, * FROM unnest($2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::bigint[], $7::float8[], $8::text[],
            $9::bigint[])
         ON CONFLICT (projector, process) DO UPDATE SET state = excluded.state, slots = excluded.slots,
            position = excluded.position, lag_events = excluded.lag_events, lag_seconds = excluded.lag_seconds,
            error = excluded.error, unable = excluded.unable, seen_at = clock_timestamp()",
    )
    .bind(process)
    .bind(statuses.iter().map(|status| status.name).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| word(&status.state)).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.slots).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.position).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.lag_events).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.lag_seconds).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.error.as_deref()).collect::<Vec<_>>())
    .bind(statuses.iter().map(|status| status.unable.bits()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use eventstore::Role;

    use super::*;
    use crate::analytics::sales::ANALYTICS_SALES;
    use crate::test_support::House;

    fn status(state: ProjectorState, unable: Slots) -> ProjectorStatus {
        ProjectorStatus { state, unable, ..ProjectorStatus::of(ANALYTICS_SALES) }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_others_cannot_do_is_done_by_the_first_who_can() {
        let Some(house) = House::open().await else { return };
        house.note(ANALYTICS_SALES, Uuid::now_v7(), 1).await;
        let pool = house.dsn.pool(Role::Projector, 2, &[]).unwrap();
        let controls: Controls = Arc::new([watch::Sender::default()]);
        let all: Vec<_> = (0..4).map(|_| Uuid::now_v7()).collect();
        let [low, high] = [0, 1].map(|part| Slots::of_partitions(&[part], 4));
        let adopted = async |process| {
            let statuses = [status(ProjectorState::Live, Slots::default())];
            ask(&pool, process, &statuses, &controls).await.unwrap();
            controls[0].borrow().adopted
        };
        for (process, state, unable) in [
            (all[0], ProjectorState::Rebuilding, low),
            (all[1], ProjectorState::Live, Slots::default()),
            (all[2], ProjectorState::CatchingUp, Slots::default()),
            (all[3], ProjectorState::Rebuilding, high),
        ] {
            tell(&pool, process, &[status(state, unable)]).await.unwrap();
        }
        assert_eq!(adopted(all[1]).await, low.and(high));
        for process in [all[0], all[2], all[3], Uuid::now_v7()] {
            assert_eq!(adopted(process).await, Slots::default());
        }
        // One of them has new rows now, and the first of those who could is gone for some time.
        tell(&pool, all[0], &[status(ProjectorState::Live, Slots::default())]).await.unwrap();
        sqlx::query("UPDATE projection_runners SET seen_at = seen_at - interval '20 seconds' WHERE process = $1")
            .bind(all[1])
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(adopted(all[1]).await, Slots::default());
        assert_eq!(adopted(all[0]).await, high);
        pool.close().await;
        house.close().await;
    }
}
