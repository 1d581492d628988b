//! What holds the log together while nobody looks: constraints, triggers, row-level security, and who may write.

use crate::store::StoreError;

use super::{Pools, Report};

/// Whether the events have that key, valid and unique.
macro_rules! key {
    ($definition:literal) => {
        concat!(
            "SELECT EXISTS (SELECT FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid
                WHERE c.conrelid = 'events'::regclass AND c.contype IN ('p', 'u') AND i.indisvalid AND i.indisunique
                AND replace(pg_get_constraintdef(c.oid), '\"', '') = '",
            $definition,
            "')"
        )
    };
}

/// A guard of the events: what is told where it is not in force, and whether it is.
struct Guard(&'static str, &'static str);

const GUARDS: [Guard; 9] = [
    Guard("the table of events lacks PRIMARY KEY (position)", key!("PRIMARY KEY (position)")),
    Guard("the table of events lacks UNIQUE (tenant_id, sequence)", key!("UNIQUE (tenant_id, sequence)")),
    Guard(
        "the table of events lacks UNIQUE (tenant_id, stream_id, version)",
        key!("UNIQUE (tenant_id, stream_id, version)"),
    ),
    Guard(
        "nothing checks that an event has either its body or its hash",
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'events'::regclass AND contype = 'c' AND convalidated
            AND pg_get_constraintdef(oid) LIKE '%body_hash IS NULL%salt%octet_length(body_hash) = 32%')",
    ),
    Guard(
        "the triggers that guard the events are not in force",
        "SELECT count(*) = 2 FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgenabled IN ('O', 'A')
            AND tgfoid = to_regproc('guard_events') AND tgname IN ('guard_events_rows', 'guard_events_table')",
    ),
    Guard(
        "the function that guards the events is not the one that was installed",
        "SELECT prosrc LIKE '%annals.redacting%' AND prosrc LIKE '%events are stored for good%' FROM pg_proc
            WHERE oid = to_regproc('guard_events')",
    ),
    Guard(
        "row-level security of the events is not in force",
        "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'events'::regclass",
    ),
    Guard(
        "the policies of the events are not those that show each tenant its own",
        "SELECT array_agg(polname || ' ' || polcmd::text ORDER BY polname)
            = ARRAY['events_api r', 'events_owner *', 'events_reader r', 'events_writer *']
            AND bool_and(polname <> 'events_api' OR pg_get_expr(polqual, polrelid) LIKE '%tenant_id%annals.tenant%')
            FROM pg_policy WHERE polrelid = 'events'::regclass",
    ),
    Guard(
        "somebody may do more to the events than add to them",
        "SELECT NOT EXISTS (SELECT FROM pg_class, aclexplode(relacl) AS acl
            WHERE pg_class.oid = 'events'::regclass AND acl.grantee <> relowner AND acl.privilege_type <> 'SELECT'
            AND (acl.grantee, acl.privilege_type) <> ('annals_writer'::regrole, 'INSERT'))",
    ),
];

/// Looks at every guard.
pub(super) async fn guards(pools: &Pools, report: &mut Report<'_>) -> Result<(), StoreError> {
    for Guard(told, holds) in &GUARDS {
        let holds: Option<Option<bool>> = sqlx::query_scalar(*holds).fetch_optional(&pools.reading).await?;
        if holds.flatten() != Some(true) {
            report.log((*told).to_owned());
        }
    }
    Ok(())
}
