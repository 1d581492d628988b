//! Which kinds of events stand in a log.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::{Told, TypeCount};
use crate::pools::{Role, WriteDsn};
use crate::ranges;
use crate::store::StoreError;

/// How many positions are counted by one statement.
const SPAN: i64 = 50_000;

/// How many events of each type and version stand in the log, by name. It reads in ranges, as much as it takes in memory
/// does not grow with the log.
pub async fn event_types(dsn: &WriteDsn, tell: &mut (dyn FnMut(Told) + Send)) -> Result<Vec<TypeCount>, StoreError> {
    let pool = dsn.pool(Role::Reader, 4, &[("statement_timeout", "120s")])?;
    let head: i64 = sqlx::query_scalar("SELECT position FROM log_head").fetch_one(&pool).await?;
    tell(Told::Events(head));
    let spans = ranges::ahead(0, head, SPAN, |after, until| {
        let count = sqlx::query_as::<_, (String, i32, i64)>(
            "SELECT event_type, schema_version, count(*) FROM events WHERE position > $1 AND position <= $2 GROUP BY 1, 2",
        );
        let pool = pool.clone();
        async move { Ok::<_, StoreError>((until, count.bind(after).bind(until).fetch_all(&pool).await?)) }
    });
    let mut spans = std::pin::pin!(spans);
    let mut types = BTreeMap::<(String, i32), i64>::new();
    while let Some((until, counts)) = spans.try_next().await? {
        for (event_type, schema_version, count) in counts {
            *types.entry((event_type, schema_version)).or_default() += count;
        }
        tell(Told::Passed(until));
    }
    pool.close().await;
    let counts = types.into_iter();
    Ok(counts.map(|((event_type, schema_version), count)| TypeCount { event_type, schema_version, count }).collect())
}
