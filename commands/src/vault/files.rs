//! The few file operations of the key store, each whole or not at all after a crash. All of them block.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::kdf::CipherError;

/// Why the key store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The file system refused.
    #[error("{path} can't be {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No copy of the file is there.
    #[error("{0} is missing, and so is its copy")]
    Missing(PathBuf),
    /// Copies are there, none can be read.
    #[error("{0} and its copy are damaged, or of another root key")]
    Unreadable(PathBuf),
    /// The store was written under another root key.
    #[error("{0} says that this key store has another root key")]
    WrongRootKey(PathBuf),
    /// Both copies would share one fate.
    #[error("the key store and its copy must be two directories, not both {0}")]
    OneDirectory(PathBuf),
    /// What was written does not read back as it should; the old file is untouched or still beside it.
    #[error("{0} does not read back as it was written")]
    NotVerified(PathBuf),
    /// No ring has such a slot.
    #[error("a keyring has no slot {0}")]
    NoSuchSlot(i16),
    /// Lengths beyond the cipher's.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] getrandom::Error),
}

/// Says on which file an operation failed.
pub(super) fn at<T>(what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, KeyStoreError> {
    result.map_err(|source| KeyStoreError::Io { what, path: path.to_owned(), source })
}

/// A neighbour of the file, by a suffix to its whole name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a directory that only this user enters, its parents too; durable once this returns.
pub(super) fn make_dirs(path: &Path) -> Result<(), KeyStoreError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        make_dirs(parent)?;
    }
    make_dir(path)
}

/// The same without its parents: one that is missing is a disk that is gone, and must not be made up elsewhere.
pub(super) fn make_dir(path: &Path) -> Result<(), KeyStoreError> {
    if path.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => at("created", path, Err(error)),
        _ => sync_parent(path),
    }
}

/// Makes what was linked, renamed or removed beside `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), KeyStoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    at("made durable", parent, File::open(parent).and_then(|dir| dir.sync_all()))
}

/// The bytes of a file, none where it is not there. Reads one byte beyond `limit` at most, so that a file which grew
/// by damage is found out, not loaded.
pub(super) fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, KeyStoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => at("read", path, opened)?,
    };
    let mut bytes = Vec::with_capacity(limit + 1);
    at("read", path, file.take(limit as u64 + 1).read_to_end(&mut bytes))?;
    Ok(Some(bytes))
}

/// Writes a file anew, for this user alone, and makes its bytes (not yet its name) durable.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), KeyStoreError> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    at("written", path, written)
}

/// Puts a file in another's place.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), KeyStoreError> {
    at("put in place", to, fs::rename(from, to))?;
    sync_parent(to)
}

/// Replaces a file's content at one stroke.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyStoreError> {
    let temp = temp_name(path);
    write(&temp, bytes)?;
    rename(&temp, path)
}

/// Creates a file with its whole content unless it is there; tells whether this caller was the one. `rename` would
/// replace what another process just created, a hard link does not.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<bool, KeyStoreError> {
    let temp = temp_name(path);
    write(&temp, bytes)?;
    let linked = fs::hard_link(&temp, path);
    at("removed", &temp, fs::remove_file(&temp))?;
    sync_parent(path)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        linked => at("created", path, linked).map(|()| true),
    }
}

fn temp_name(path: &Path) -> PathBuf {
    beside(path, &format!(".{}.tmp", Uuid::now_v7()))
}

/// Keeps a second name for a file that is about to be replaced.
pub(super) fn keep(path: &Path, name: &Path) -> Result<(), KeyStoreError> {
    match fs::hard_link(path, name) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        linked => at("kept", name, linked),
    }
}

/// Overwrites a file's bytes in place and removes it; nothing where it is not there. Where it is but another name of
/// `living`, only the name goes.
///
/// Best effort: file systems that copy on write, journals and the wear levelling of flash may keep old blocks. What
/// those hold is still encrypted under the root key.
pub(super) fn shred(path: &Path, living: &Path) -> Result<(), KeyStoreError> {
    let old = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => at("read", path, found)?,
    };
    let is_living = fs::symlink_metadata(living).is_ok_and(|new| (new.dev(), new.ino()) == (old.dev(), old.ino()));
    if !is_living {
        let zeros = vec![0; usize::try_from(old.len()).unwrap_or(0)];
        let wiped = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(&zeros).and_then(|()| file.sync_all()));
        at("overwritten", path, wiped)?;
    }
    at("removed", path, fs::remove_file(path))?;
    sync_parent(path)
}

/// Waits for the lock of this file; it is held until the file is dropped, or its process dies.
pub(super) fn lock(path: &Path) -> Result<File, KeyStoreError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = at("locked", path, file)?;
    at("locked", path, file.lock())?;
    Ok(file)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory of a test's own, removed at its end.
    pub(crate) struct TempDir(pub PathBuf);

    impl TempDir {
        pub(crate) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("annals-vault-{}", Uuid::now_v7()));
            make_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_created_once_and_replaced_whole() {
        let dir = TempDir::new();
        let path = dir.0.join("a/b/file");
        make_dirs(path.parent().unwrap()).unwrap();
        assert!(read(&path, 10).unwrap().is_none());
        assert!(create(&path, b"first").unwrap());
        assert!(!create(&path, b"second").unwrap());
        assert_eq!(read(&path, 10).unwrap().unwrap(), b"first");
        replace(&path, b"third").unwrap();
        assert_eq!(read(&path, 2).unwrap().unwrap(), b"thi", "one byte beyond the limit");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary files stay");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn shredding_overwrites_the_bytes_but_never_those_of_the_living_file() {
        let dir = TempDir::new();
        let (living, old, witness) = (dir.0.join("living"), dir.0.join("old"), dir.0.join("witness"));
        write(&living, b"secret").unwrap();
        keep(&living, &old).unwrap();
        shred(&old, &living).unwrap();
        assert_eq!(fs::read(&living).unwrap(), b"secret");
        assert!(!old.exists());
        write(&old, b"erased").unwrap();
        fs::hard_link(&old, &witness).unwrap();
        shred(&old, &living).unwrap();
        assert_eq!(fs::read(&witness).unwrap(), [0; 6], "the bytes went, not the name alone");
        shred(&old, &living).unwrap();
    }
}
