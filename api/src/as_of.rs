//! Moments of a tenant's log, as callers and operators write them: a sequence, or a time.

use chrono::{DateTime, TimeDelta, Utc};
use domain::tenancy::TestClock;
use domain::{TenantId, TypedId};
use eventstore::{EventFilter, EventStore, RecordedEvent, Standing, StoreError, Token, Until};
use schemars::{Schema, SchemaGenerator, json_schema};
use uuid::Uuid;

use crate::call::Call;
use crate::extract::headers::TOKEN;
use crate::extract::ids::Moment;
use crate::problem::{Problem, codes};

/// A moment, as parameters take it.
pub fn moment_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": TOKEN },
        { "type": "string", "format": "date-time" },
    ] })
}

/// Why a text names no moment of the log.
#[derive(Debug, thiserror::Error)]
pub enum AsOfError {
    /// It is neither.
    #[error("must be a sequence, or a time of RFC 3339 such as 2026-11-20T10:00:00Z")]
    Malformed,
    /// The tenant's log has not come so far.
    #[error("must be between 0 and {head}, the last sequence of this tenant")]
    Beyond {
        /// How far it has come.
        head: i64,
    },
    /// The time is still to come.
    #[error("must not lie in the future of the log's own clock")]
    Future,
    /// The sequence was lost when the log was restored.
    #[error("was lost when the log was restored; the last sequence that is as it was is {survived}")]
    Lost {
        /// The last one that was not.
        survived: Token,
    },
    /// The log does not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sequence that is meant: the one that is written, or the highest that was recorded by a time.
pub async fn sequence_of(store: &EventStore, tenant: TenantId, text: &str) -> Result<i64, AsOfError> {
    let tenant = tenant.uuid();
    if let Ok(token) = text.parse::<Token>() {
        // A bare number may come from a body, where sequences are plain.
        if token.incarnation > 1
            && let Standing::Lost { survived } = store.standing(tenant, token).await?
        {
            return Err(AsOfError::Lost { survived });
        }
        let head = store.tenant_head(tenant).await?;
        return if token.number <= head { Ok(token.number) } else { Err(AsOfError::Beyond { head }) };
    }
    let Moment(time) = text.parse().map_err(|_| AsOfError::Malformed)?;
    // What is asked is when the log took something, which it tells by its own clock, also for a test tenant.
    if time > commands::clock::now() {
        return Err(AsOfError::Future);
    }
    store.sequence_at(tenant, time).await?.ok_or(AsOfError::Future)
}

/// The tenant's time when a sequence was the last that was known: at `time` by the log's clock, or when it was recorded. The
/// clock of a test tenant was as far ahead then as what happened to it last says.
pub async fn time_of(
    store: &EventStore,
    tenant: TenantId,
    sequence: i64,
    time: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, StoreError> {
    let last = event_at(store, tenant, sequence).await?;
    let recorded = time.or(last.as_ref().map(|last| last.recorded_at)).unwrap_or_default();
    if store.tenant_clock(tenant.uuid()).await?.is_none() {
        return Ok(recorded);
    }
    let clock = store.load::<TestClock>(tenant.uuid(), TestClock::id(tenant), Until::Sequence(sequence)).await?;
    let turned = event_at(store, tenant, clock.sequence).await?;
    let ahead = turned.map_or(TimeDelta::zero(), |turned| turned.occurred_at - turned.recorded_at);
    let shown = recorded + ahead.max(TimeDelta::zero());
    // While it was advanced, it showed what was done on the way.
    Ok(last.map_or(shown, |last| shown.max(last.occurred_at)))
}

async fn event_at(store: &EventStore, tenant: TenantId, sequence: i64) -> Result<Option<RecordedEvent>, StoreError> {
    let found = store.read_tenant(tenant.uuid(), sequence - 1, 1, &EventFilter::default(), 1).await?;
    Ok(found.into_iter().next())
}

/// Where a page of the past goes on: below an id, at the sequences that the first page took its moments for. A time must
/// mean the same on every page, whatever is still being recorded at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<const N: usize> {
    /// What was shown last.
    pub below: Uuid,
    /// The moments, the last of them latest.
    pub at: [i64; N],
    /// The life of the log that the latest belongs to.
    pub incarnation: i64,
}

impl<const N: usize> Place<N> {
    /// The place in the caller's cursor; refused where its moments were lost when the log was restored.
    pub async fn of(call: &Call) -> Result<Option<Self>, Problem> {
        let Some(bytes) = call.cursor().await? else { return Ok(None) };
        let place = Self::read(&bytes).ok_or_else(|| Problem::of(codes::INVALID_CURSOR))?;
        let number = place.at.last().copied().unwrap_or(0);
        call.stands(Token { number, incarnation: place.incarnation }).await?;
        Ok(Some(place))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_at_checked(16)?;
        let (numbers, []) = rest.as_chunks::<8>() else { return None };
        let numbers: Vec<_> = numbers.iter().map(|number| i64::from_be_bytes(*number)).collect();
        let (incarnation, at) = numbers.split_last()?;
        let (below, at) = (Uuid::from_slice(id).ok()?, at.try_into().ok()?);
        Some(Self { below, at, incarnation: *incarnation })
    }

    /// As a cursor has it.
    pub fn bytes(&self) -> Vec<u8> {
        let numbers = self.at.iter().chain([&self.incarnation]).flat_map(|number| number.to_be_bytes());
        self.below.as_bytes().iter().copied().chain(numbers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place { below: Uuid::from_u128(7), at: [3, i64::MAX], incarnation: 2 };
        assert_eq!(Place::read(&place.bytes()), Some(place));
        let bytes = place.bytes();
        for bad in [&bytes[..39], &bytes[..32], &bytes[..16], &[]] {
            assert_eq!(Place::<2>::read(bad), None);
        }
        assert_eq!(Place::<1>::read(&bytes), None);
    }
}
