//! A file that is there when it is whole: written under another name, hashed on its way, renamed at its end.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::super::Failure;
use super::manifest::Written;

/// For all whom the process' umask lets read it, and for its owner alone where it has personal values.
const MODES: [u32; 2] = [0o666, 0o600];

/// A file that is being written; nothing is left of it where it is dropped.
pub(super) struct Output {
    path: PathBuf,
    file: NamedTempFile,
    hash: Sha256,
    bytes: u64,
}

impl Output {
    /// Begins a file.
    pub(super) fn create(path: &Path, private: bool) -> Result<Self, Failure> {
        let told = |error: io::Error| format!("{} can't be written: {error}", path.display());
        let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else {
            return Err(format!("{} is no name of a file", path.display()).into());
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.display()))
            .suffix(".partial")
            .permissions(Permissions::from_mode(MODES[usize::from(private)]))
            .tempfile_in(folder)
            .map_err(told)?;
        Ok(Self { path: path.to_owned(), file, hash: Sha256::new(), bytes: 0 })
    }

    /// Ends it: from now on it is there under its name.
    pub(super) fn keep(self) -> Result<Written, Failure> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Written { name, events: 0, bytes: self.bytes, sha256 })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
