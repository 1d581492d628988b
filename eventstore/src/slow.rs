//! The slow way: appends in a transaction that holds the head's lock, with each rule looked up before the insert, so that
//! every caller hears which one it broke and nobody else hears anything. Also the way of all that is rare: tombstones,
//! releases, keys.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::append::{Append, AppendError, ClaimKey, Committed, IdempotencyRecord, SubjectSlot};
use crate::incarnation::same_incarnation;
use crate::{rare, slow_facts, statement};

/// A tenant's thing of some kind.
type Of<T> = (Uuid, T);

/// What the log says of everything that the appends ask for, and what those before in the same batch have taken.
#[derive(Default)]
pub(crate) struct Facts {
    /// The log's.
    pub(crate) epoch: i64,
    /// Where each stream stands.
    pub(crate) versions: HashMap<Of<Uuid>, i64>,
    /// Last events of appends that stand in the log already, by event id.
    pub(crate) earlier: HashMap<Uuid, Committed>,
    pub(crate) erased: HashSet<Of<Uuid>>,
    pub(crate) keys: HashMap<Of<([u8; 32], i32)>, Keyed>,
    pub(crate) commands: HashSet<Of<Uuid>>,
    pub(crate) slots: HashMap<Of<Uuid>, SubjectSlot>,
    pub(crate) claims: HashMap<Of<(String, ClaimKey)>, Uuid>,
}

/// Who has used a key.
pub(crate) enum Keyed {
    /// An append of before.
    Before(IdempotencyRecord),
    /// An append of this batch: its number.
    Here(usize),
}

/// What becomes of an append.
enum Verdict<'a> {
    /// It is to be inserted.
    Insert(Box<Cow<'a, Append>>),
    /// An earlier attempt was committed, and its answer got lost.
    Committed(Committed),
    Refused(AppendError),
    /// It has the key of another append of this batch.
    DuplicateOf(usize),
}

/// Appends within the caller's transaction, in order; answers how each fared, and the log's epoch. `known` is a position
/// that was seen committed; `decided_on` has for each append the one before it in the batch that it was decided upon, if
/// any.
pub(crate) async fn append(
    conn: &mut PgConnection,
    known: i64,
    appends: &[&Append],
    decided_on: &[Option<usize>],
) -> Result<(Vec<Result<Committed, AppendError>>, i64), sqlx::Error> {
    let (mut epoch, position): (i64, i64) =
        sqlx::query_as("SELECT epoch, position FROM log_head FOR UPDATE").fetch_one(&mut *conn).await?;
    if position < known {
        // What callers have seen is gone: nothing may be decided upon that.
        return Err(sqlx::Error::Protocol("the log went back".into()));
    }
    // Each statement from here on has a snapshot of its own, taken while nobody else can append.
    let mut facts = Facts { epoch, ..slow_facts::look_up(conn, appends).await? };
    let mut verdicts: Vec<Verdict<'_>> = Vec::with_capacity(appends.len());
    for (index, append) in appends.iter().copied().enumerate() {
        // The version alone does not tell: another process may have brought the stream to the same one.
        let before = decided_on.get(index).copied().flatten().and_then(|before| verdicts.get(before));
        if before.is_some_and(|before| !matches!(before, Verdict::Insert(_) | Verdict::Committed(_))) {
            verdicts.push(Verdict::Refused(AppendError::Superseded));
            continue;
        }
        if append.is_rare() && matches!(facts.judge(index, append), Verdict::Insert(_)) {
            // Names that are given up are free for the same append; such an append comes alone.
            rare::release(conn, append).await?;
            facts = Facts { epoch, ..slow_facts::look_up(conn, &[append]).await? };
        }
        let verdict = facts.judge(index, append);
        if let Verdict::Insert(append) = &verdict {
            facts.take(index, append);
            epoch = rare::store(conn, append, epoch).await?;
        }
        verdicts.push(verdict);
    }
    let winners: Vec<&Append> = verdicts.iter().filter_map(Verdict::inserted).collect();
    let committed = match winners.as_slice() {
        [] => Vec::new(),
        winners => statement::append(conn, (epoch, known), true, winners).await?.ok_or(sqlx::Error::RowNotFound)?,
    };
    Ok((results(appends, verdicts, committed), epoch))
}

fn results(
    appends: &[&Append],
    verdicts: Vec<Verdict<'_>>,
    committed: Vec<Committed>,
) -> Vec<Result<Committed, AppendError>> {
    let mut committed = committed.into_iter();
    let mut results: Vec<Result<Committed, AppendError>> = Vec::with_capacity(verdicts.len());
    for verdict in verdicts {
        results.push(match verdict {
            Verdict::Insert(_) => committed.next().ok_or(AppendError::Unavailable),
            Verdict::Committed(committed) => Ok(committed),
            Verdict::Refused(error) => Err(error),
            Verdict::DuplicateOf(first) => match (&results[first], &appends[first].idempotency) {
                (Ok(committed), Some(record)) => {
                    let sequence = if appends[first].event_count() == 0 { record.sequence } else { committed.sequence };
                    Err(AppendError::Duplicate(Box::new(IdempotencyRecord { sequence, ..record.clone() })))
                }
                _ => Err(AppendError::Unavailable),
            },
        });
    }
    results
}

impl Verdict<'_> {
    fn inserted(&self) -> Option<&Append> {
        match self {
            Self::Insert(append) => Some(append),
            _ => None,
        }
    }
}

impl Facts {
    /// What becomes of an append, by the facts.
    fn judge<'a>(&self, index: usize, append: &'a Append) -> Verdict<'a> {
        let tenant = append.tenant;
        for stream in &append.streams {
            let actual = self.versions.get(&(tenant, stream.stream_id)).copied().unwrap_or_default();
            if actual != stream.expected_version {
                // Where its own last event stands in the log, an attempt whose answer got lost was committed.
                let earlier = append.last_event_id().and_then(|id| self.earlier.get(&id));
                return match earlier {
                    Some(committed) => Verdict::Committed(*committed),
                    None => Verdict::Refused(AppendError::Conflict { stream_id: stream.stream_id, actual }),
                };
            }
        }
        if !same_incarnation(append.epoch, self.epoch) {
            return Verdict::Refused(AppendError::LogRestored);
        }
        if let Some(subject) = append.about.iter().find(|subject| self.erased.contains(&(tenant, **subject))) {
            return Verdict::Refused(AppendError::SubjectErased(*subject));
        }
        if let Some(record) = &append.idempotency {
            match self.keys.get(&(tenant, (record.key, record.item))) {
                Some(Keyed::Before(record)) => {
                    return Verdict::Refused(AppendError::Duplicate(Box::new(record.clone())));
                }
                Some(Keyed::Here(first)) if *first != index => return Verdict::DuplicateOf(*first),
                _ => {}
            }
        }
        if append.process_command.is_some_and(|id| self.commands.contains(&(tenant, id))) {
            return Verdict::Refused(AppendError::AlreadySent);
        }
        match self.without_what_it_has(append) {
            Ok(append) => Verdict::Insert(Box::new(append)),
            Err(refused) => Verdict::Refused(refused),
        }
    }

    /// The append without slots and names that are stored for it already.
    fn without_what_it_has<'a>(&self, append: &'a Append) -> Result<Cow<'a, Append>, AppendError> {
        let mut append = Cow::Borrowed(append);
        for wanted in append.subjects.clone() {
            // A person that another process named first has that process's slot; the same again is an earlier attempt's.
            match self.slots.get(&(append.tenant, wanted.subject)) {
                Some(stored) if *stored != wanted => return Err(AppendError::SlotTaken(*stored)),
                Some(_) => append.to_mut().subjects.retain(|slot| *slot != wanted),
                None => {}
            }
        }
        for wanted in append.claims.clone() {
            match self.claims.get(&(append.tenant, (wanted.kind.clone(), wanted.key))) {
                Some(holder) if *holder != wanted.stream_id => {
                    return Err(AppendError::ClaimTaken { kind: wanted.kind, holder: *holder });
                }
                Some(_) => append.to_mut().claims.retain(|claim| *claim != wanted),
                None => {}
            }
        }
        Ok(append)
    }

    /// Notes what an append takes, for those behind it.
    fn take(&mut self, index: usize, append: &Append) {
        let tenant = append.tenant;
        for stream in &append.streams {
            let version = stream.expected_version + stream.events.len() as i64;
            self.versions.insert((tenant, stream.stream_id), version);
        }
        if let Some(record) = &append.idempotency {
            self.keys.insert((tenant, (record.key, record.item)), Keyed::Here(index));
        }
        self.commands.extend(append.process_command.map(|id| (tenant, id)));
        self.slots.extend(append.subjects.iter().map(|slot| ((tenant, slot.subject), *slot)));
        let claims = append.claims.iter().map(|claim| ((tenant, (claim.kind.clone(), claim.key)), claim.stream_id));
        self.claims.extend(claims);
    }
}
