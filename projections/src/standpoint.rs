//! From where a report looks: what was known by then, and what had happened by then.

use chrono::{DateTime, TimeDelta, Utc};
use eventstore::TenantTx;
use uuid::Uuid;

use crate::read_models::{Behind, ReadError, ReadModels, point};

/// The least time between two moments.
const INSTANT: TimeDelta = TimeDelta::microseconds(1);

/// The two moments of a report, and its own.
#[derive(Clone, Copy, Debug)]
pub struct Standpoint {
    /// What was known: up to this sequence of the tenant; as far as the read models have come where absent.
    pub as_of: Option<i64>,
    /// What had happened: up to and with this moment, whenever it came to be known; everything where absent.
    pub effective_at: Option<DateTime<Utc>>,
    /// The tenant's time when that was what was known.
    pub now: DateTime<Utc>,
}

impl Standpoint {
    /// What is known now, of all that has happened.
    pub fn now(now: DateTime<Utc>) -> Self {
        Self { as_of: None, effective_at: None, now }
    }

    /// The first moment of which nothing is shown any more: the one after `effective_at`, or `to` where that comes first.
    pub(crate) fn before(&self, to: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let effective = self.effective_at.map(after);
        to.into_iter().chain(effective).min()
    }

    /// The last moment of a report that ends before `to`: that, what is effective or the report's own, whichever is first.
    pub(crate) fn last(&self, to: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let before = self.before(to).and_then(|before| before.checked_sub_signed(INSTANT));
        before.map_or(self.now, |last| last.min(self.now))
    }
}

/// The moment after another.
pub(crate) fn after(moment: DateTime<Utc>) -> DateTime<Utc> {
    moment.checked_add_signed(INSTANT).unwrap_or(moment)
}

impl ReadModels {
    /// A transaction whose statements all see one moment, and the sequence up to which a report is made of each of these
    /// projectors' rows, which must be of those revisions: what an older fold has made does not say since when it holds.
    pub(crate) async fn stand<const N: usize>(
        &self,
        tenant: Uuid,
        standpoint: &Standpoint,
        projectors: [(&str, i32); N],
    ) -> Result<(TenantTx, [i64; N]), ReadError> {
        let mut tx = self.snapshot(tenant).await?;
        let mut sequences = [0; N];
        for (sequence, (projector, revision)) in sequences.iter_mut().zip(projectors) {
            let point = point(&mut tx, projector, tenant).await?;
            if point.revision.is_some_and(|made| made < revision) {
                return Err(ReadError::MadeAnew);
            }
            *sequence = standpoint.as_of.unwrap_or(point.sequence);
            if point.sequence < *sequence {
                return Err(Behind { point, wanted: *sequence }.into());
            }
        }
        Ok((tx, sequences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::at;

    #[test]
    fn a_report_ends_with_whatever_comes_first() {
        let (may, june, july) = (at("2026-05-01T00:00:00Z"), at("2026-06-01T00:00:00Z"), at("2026-07-01T00:00:00Z"));
        let all = Standpoint::now(june);
        assert_eq!((all.before(None), all.last(None)), (None, june));
        assert_eq!((all.before(Some(july)), all.last(Some(july))), (Some(july), june));
        assert_eq!((all.before(Some(may)), after(all.last(Some(may)))), (Some(may), may));
        let effective = Standpoint { effective_at: Some(may), ..all };
        assert_eq!((effective.before(Some(july)), effective.last(Some(july))), (Some(after(may)), may));
        assert_eq!(effective.before(Some(may)), Some(may), "what ends before it ends there");
        assert_eq!(Standpoint { effective_at: Some(july), ..all }.last(None), june);
    }
}
