//! How far the log had come, kept beside the keys: a log that comes back from a restore behind this mark has lost
//! events that others may have seen.
//!
//! Format 1 of the file `high-water`: `annals high-water` ‖ 0x01 ‖ incarnation i64 ‖ position i64 (big-endian) ‖
//! SHA-256 of all before, against damage alone: whoever can write here can also remove it. Needs no key, so that it can
//! be read before any.

use std::path::{Path, PathBuf};

use eventstore::{HighWater, HighWaterMark, MarkError};
use sha2::{Digest, Sha256};

use super::files::{self, KeyStoreError};
use super::keystore::Replica;

const MAGIC: &[u8; 18] = b"annals high-water\x01";
const FILE_BYTES: usize = MAGIC.len() + 8 + 8 + 32;

fn encode(mark: HighWater) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&mark.incarnation.to_be_bytes());
    bytes.extend_from_slice(&mark.position.to_be_bytes());
    bytes.extend_from_slice(&Sha256::digest(&bytes));
    bytes
}

fn decode(bytes: &[u8]) -> Option<HighWater> {
    let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mark = HighWater { incarnation: number(18)?, position: number(26)? };
    (encode(mark) == bytes).then_some(mark)
}

/// The mark's two files. Every method blocks.
#[derive(Clone, Debug)]
pub struct HighWaterFile {
    paths: [PathBuf; 2],
    lock: PathBuf,
}

impl HighWaterFile {
    /// The mark in the two directories of a key store, which are made where they are not.
    pub fn open(dir: &Path, copy_dir: &Path) -> Result<Self, KeyStoreError> {
        for dir in [dir, copy_dir] {
            files::make_dirs(dir)?;
        }
        let paths = [dir.join("high-water"), copy_dir.join("high-water")];
        Ok(Self { paths, lock: dir.join("high-water.lock") })
    }

    /// The higher of both copies, none where the mark was never set.
    pub fn read(&self) -> Result<Option<HighWater>, KeyStoreError> {
        let read = |path: &Path| Replica::read(path, FILE_BYTES, |bytes| Ok(decode(bytes)));
        match (read(&self.paths[0])?, read(&self.paths[1])?) {
            (Replica::Whole(one), Replica::Whole(two)) => Ok(Some(one.max(two))),
            (Replica::Whole(one), _) | (_, Replica::Whole(one)) => Ok(Some(one)),
            (Replica::Missing, Replica::Missing) => Ok(None),
            (Replica::Refused(error), _) | (_, Replica::Refused(error)) => Err(error),
            _ => Err(KeyStoreError::Unreadable(self.paths[0].clone())),
        }
    }

    /// Raises the mark in both copies, never lowers it; tells where it is now.
    pub fn raise(&self, mark: HighWater) -> Result<HighWater, KeyStoreError> {
        let _lock = files::lock(&self.lock)?;
        let mark = self.read()?.map_or(mark, |found| found.max(mark));
        let bytes = encode(mark);
        for path in &self.paths {
            if !matches!(files::read(path, FILE_BYTES), Ok(Some(found)) if found == bytes) {
                files::replace(path, &bytes)?;
            }
        }
        Ok(mark)
    }
}

impl HighWaterMark for HighWaterFile {
    fn read(&self) -> Result<Option<HighWater>, MarkError> {
        Ok(Self::read(self)?)
    }

    fn raise(&self, mark: HighWater) -> Result<(), MarkError> {
        Self::raise(self, mark)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::tests::TempDir;
    use super::*;

    fn at(incarnation: i64, position: i64) -> HighWater {
        HighWater { incarnation, position }
    }

    #[test]
    fn the_bytes_of_the_mark() {
        let bytes = encode(at(2, 258));
        let (head, digest) = bytes.split_at(34);
        assert_eq!(head, b"annals high-water\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x01\x02");
        assert_eq!(digest, Sha256::digest(head).as_slice());
        assert_eq!(decode(&bytes), Some(at(2, 258)));
        for flipped in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[flipped] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {flipped}");
        }
    }

    #[test]
    fn the_mark_only_rises_and_survives_one_damaged_copy() {
        let dir = TempDir::new();
        let file = HighWaterFile::open(&dir.0.join("one"), &dir.0.join("two")).unwrap();
        assert_eq!(file.read().unwrap(), None);
        assert_eq!(file.raise(at(1, 100)).unwrap(), at(1, 100));
        assert_eq!(file.raise(at(1, 90)).unwrap(), at(1, 100));
        assert_eq!(file.raise(at(2, 50)).unwrap(), at(2, 50), "a new life of the log begins further back");
        assert_eq!(file.raise(at(1, 500)).unwrap(), at(2, 50));
        for path in &file.paths {
            fs::write(path, b"damaged").unwrap();
            assert_eq!(file.read().unwrap(), Some(at(2, 50)));
            assert_eq!(file.raise(at(2, 40)).unwrap(), at(2, 50));
            fs::remove_file(path).unwrap();
            assert_eq!(file.raise(at(2, 40)).unwrap(), at(2, 50));
            assert_eq!(fs::read(path).unwrap(), encode(at(2, 50)));
        }
        fs::write(&file.paths[0], encode(at(1, 7))).unwrap();
        assert_eq!(file.read().unwrap(), Some(at(2, 50)), "an old copy does not count");
        for path in &file.paths {
            fs::write(path, b"damaged").unwrap();
        }
        assert!(matches!(file.read(), Err(KeyStoreError::Unreadable(_))));
    }

    #[test]
    fn processes_that_raise_it_together_end_at_the_highest() {
        let dir = TempDir::new();
        let file = HighWaterFile::open(&dir.0.join("one"), &dir.0.join("two")).unwrap();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let file = file.clone();
                std::thread::spawn(move || {
                    for step in 0..5 {
                        file.raise(at(1, step * 4 + writer)).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(file.read().unwrap(), Some(at(1, 19)));
    }
}
