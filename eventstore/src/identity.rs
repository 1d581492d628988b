//! What is looked up by name: claims, keys of requests, persons' slots, API keys.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::append::{ClaimKey, IdempotencyRecord};
use crate::store::{EventStore, StoreError};

/// Where a person's keys lie, and whether they still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectRow {
    /// The keyring.
    pub ring: Option<Uuid>,
    /// 0 to 255.
    pub slot: Option<i16>,
    /// Whether the person has a tombstone.
    pub erased: bool,
}

/// What authentication needs to know of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Whose key it is.
    pub tenant: Uuid,
    /// SHA-256 of its secret.
    pub hash: Vec<u8>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it was withdrawn.
    pub revoked: bool,
}

impl EventStore {
    /// The stream that has that name, if any.
    pub async fn claim_holder(&self, tenant: Uuid, kind: &str, key: &ClaimKey) -> Result<Option<Uuid>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let holder =
            sqlx::query_scalar("SELECT stream_id FROM unique_claims WHERE tenant_id = $1 AND kind = $2 AND key = $3")
                .bind(tenant)
                .bind(kind)
                .bind(key.as_slice())
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(holder)
    }

    /// The streams behind many names of one kind, in one look.
    pub async fn claim_holders(
        &self,
        tenant: Uuid,
        kind: &str,
        keys: &[ClaimKey],
    ) -> Result<HashMap<ClaimKey, Uuid>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(
            // One look into the index for each key, whatever the planner believes: where its figures are old it takes a
            // tenant's claims for few, and would compare all of them with all keys.
            "SELECT wanted.key, found.stream_id FROM unnest($3::bytea[]) AS wanted (key) CROSS JOIN LATERAL
                 (SELECT stream_id FROM unique_claims WHERE tenant_id = $1 AND kind = $2 AND key = wanted.key LIMIT 1) found",
        )
        .bind(tenant)
        .bind(kind)
        .bind(keys.iter().map(|key| key.as_slice()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let pairs = rows.iter().map(|row| Ok((bytes32(row, 0)?, row.try_get(1)?)));
        Ok(pairs.collect::<Result<_, sqlx::Error>>()?)
    }

    /// What a request with that key left behind, today or yesterday.
    pub async fn idempotency(
        &self,
        tenant: Uuid,
        key: &[u8; 32],
        item: i32,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let record = idempotency_record(&mut tx, tenant, key, item).await?;
        tx.commit().await?;
        Ok(record)
    }

    /// What the items of a batch with that key left behind, by item.
    pub async fn idempotency_items(
        &self,
        tenant: Uuid,
        key: &[u8; 32],
    ) -> Result<HashMap<i32, IdempotencyRecord>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{RECORD} WHERE tenant_id = $1 AND key = $2 AND {FRESH}")))
            .bind(tenant)
            .bind(key.as_slice())
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.iter().map(|row| record(row).map(|r| (r.item, r))).collect::<Result<_, _>>()?)
    }

    /// Where the keys of these persons lie; those that were never named are left out.
    pub async fn subjects(&self, tenant: Uuid, subjects: &[Uuid]) -> Result<HashMap<Uuid, SubjectRow>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(
            // One look into the index for each person, as above.
            "SELECT wanted.subject, found.* FROM unnest($2::uuid[]) AS wanted (subject) CROSS JOIN LATERAL
                 (SELECT ring, slot, erased_at IS NOT NULL FROM subjects WHERE tenant_id = $1 AND subject = wanted.subject LIMIT 1) found",
        )
        .bind(tenant)
        .bind(subjects)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let row = |row: &PgRow| {
            let found = SubjectRow { ring: row.try_get(1)?, slot: row.try_get(2)?, erased: row.try_get(3)? };
            Ok((row.try_get(0)?, found))
        };
        Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
    }

    /// The key of that id, of whichever tenant: authentication asks before a tenant is known.
    pub async fn api_key(&self, key_id: Uuid) -> Result<Option<ApiKeyRecord>, StoreError> {
        let row = sqlx::query("SELECT tenant_id, hash, scopes, expires_at, revoked FROM find_api_key($1)")
            .bind(key_id)
            .fetch_optional(self.inner.tenants.pool())
            .await?;
        let record = row.map(|row| {
            Ok::<_, sqlx::Error>(ApiKeyRecord {
                tenant: row.try_get(0)?,
                hash: row.try_get(1)?,
                scopes: row.try_get(2)?,
                expires_at: row.try_get(3)?,
                revoked: row.try_get(4)?,
            })
        });
        Ok(record.transpose()?)
    }
}

pub(crate) const RECORD: &str =
    "SELECT key, item, fingerprint, status, stream_type, stream_id, version, sequence FROM idempotency_keys";
pub(crate) const FRESH: &str = "day >= (clock_timestamp() AT TIME ZONE 'UTC')::date - 1";

pub(crate) async fn idempotency_record(
    conn: &mut PgConnection,
    tenant: Uuid,
    key: &[u8; 32],
    item: i32,
) -> Result<Option<IdempotencyRecord>, sqlx::Error> {
    let sql = format!("{RECORD} WHERE tenant_id = $1 AND key = $2 AND item = $3 AND {FRESH}");
    let row =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant).bind(key.as_slice()).bind(item).fetch_optional(conn).await?;
    row.as_ref().map(record).transpose()
}

pub(crate) fn record(row: &PgRow) -> Result<IdempotencyRecord, sqlx::Error> {
    Ok(IdempotencyRecord {
        key: bytes32(row, 0)?,
        item: row.try_get(1)?,
        fingerprint: bytes32(row, 2)?,
        status: row.try_get(3)?,
        stream_type: row.try_get(4)?,
        stream_id: row.try_get(5)?,
        version: row.try_get(6)?,
        sequence: row.try_get(7)?,
    })
}

pub(crate) fn bytes32(row: &PgRow, index: usize) -> Result<[u8; 32], sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(index)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("not 32 bytes".into()))
}
