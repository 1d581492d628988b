//! A file that is there when it is whole: written under another name, renamed at its end.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// For all whom the process' umask lets read it, and for its owner alone where it has personal values.
const MODES: [u32; 2] = [0o666, 0o600];

/// A file that is being written; nothing is left of it where it is dropped.
pub(super) struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Begins a file.
    pub(super) fn create(path: &Path, private: bool) -> io::Result<Self> {
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{} can't be written: {error}", path.display()));
        let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else {
            return Err(io::Error::other(format!("{} is no name of a file", path.display())));
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.display()))
            .suffix(".partial")
            .permissions(Permissions::from_mode(MODES[usize::from(private)]))
            .tempfile_in(folder)
            .map_err(told)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Ends it: from now on it is there under its name, which comes back.
    pub(super) fn keep(self) -> io::Result<String> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        Ok(self.path.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
