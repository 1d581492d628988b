//! Whether an event_id stands twice in the log. No index knows it, and the ids of ten million events are too many for
//! memory: they are sorted in runs, which go to temporary files and are merged at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use uuid::Uuid;

use crate::store::StoreError;

/// How many ids a run has: 24 MB of them.
const RUN: usize = 1_000_000;
/// The most pairs that are told.
const TOLD: usize = 1_000;

type Entry = (Uuid, i64);

/// The ids that were seen, with their positions.
#[derive(Default)]
pub(super) struct EventIds {
    run: Vec<Entry>,
    files: Vec<File>,
}

impl EventIds {
    pub(super) async fn push(&mut self, id: Uuid, position: i64) -> Result<(), StoreError> {
        self.run.push((id, position));
        if self.run.len() < RUN {
            return Ok(());
        }
        let run = std::mem::take(&mut self.run);
        self.files.push(blocking(move || write(run)).await?);
        Ok(())
    }

    /// Pairs of positions whose events have one id.
    pub(super) async fn twice(mut self) -> Result<Vec<(i64, i64)>, StoreError> {
        blocking(move || {
            self.run.sort_unstable();
            let runs =
                self.files.into_iter().map(|file| Box::new(Run(BufReader::new(file))) as Box<dyn Iterator<Item = _>>);
            let last: Box<dyn Iterator<Item = _>> = Box::new(self.run.into_iter().map(Ok));
            merge(runs.chain([last]).collect())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| sqlx::Error::WorkerCrashed)?;
    Ok(done.map_err(sqlx::Error::Io)?)
}

fn write(mut run: Vec<Entry>) -> io::Result<File> {
    run.sort_unstable();
    let mut file = BufWriter::new(tempfile::tempfile()?);
    for (id, position) in run {
        file.write_all(id.as_bytes())?;
        file.write_all(&position.to_be_bytes())?;
    }
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// A run that was written.
struct Run(BufReader<File>);

impl Iterator for Run {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut id, mut position) = ([0; 16], [0; 8]);
        match self.0.read_exact(&mut id).and_then(|()| self.0.read_exact(&mut position)) {
            Ok(()) => Some(Ok((Uuid::from_bytes(id), i64::from_be_bytes(position)))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn merge(mut runs: Vec<Box<dyn Iterator<Item = io::Result<Entry>>>>) -> io::Result<Vec<(i64, i64)>> {
    let mut firsts = BinaryHeap::new();
    for (index, run) in runs.iter_mut().enumerate() {
        if let Some(entry) = run.next() {
            firsts.push(Reverse((entry?, index)));
        }
    }
    let (mut before, mut pairs): (Option<Entry>, _) = (None, Vec::new());
    while let Some(Reverse((entry, index))) = firsts.pop() {
        if let Some((id, position)) = before
            && id == entry.0
            && pairs.len() < TOLD
        {
            pairs.push((position, entry.1));
        }
        before = Some(entry);
        if let Some(next) = runs.get_mut(index).and_then(Iterator::next) {
            firsts.push(Reverse((next?, index)));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_twice_is_found_across_runs() {
        let id = |n: u128| Uuid::from_u128(n * 7_919 % 1_000);
        let run = |from: u128, to: u128| (from..to).map(|n| (id(n), n as i64)).collect::<Vec<_>>();
        // The numbers below 1,000 give each id once; 1,000 gives that of 0 again.
        let (first, mut last) = (write(run(1, 400)).unwrap(), run(400, 1_001));
        last.extend([(id(0), 0), (id(17), 2_000)]);
        last.sort_unstable();
        let runs: Vec<Box<dyn Iterator<Item = _>>> =
            vec![Box::new(Run(BufReader::new(first))), Box::new(last.into_iter().map(Ok))];
        let mut pairs = merge(runs).unwrap();
        pairs.sort_unstable();
        assert_eq!(pairs, [(0, 1_000), (17, 2_000)]);
    }
}
