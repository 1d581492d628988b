//! The files of a replay where a [`Target`] has them, and what an earlier one left there.

use std::io::{self, Stdout, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::Failure;
use super::file::Output;
use super::target::Target;
use crate::replay::{Manifest, Place, ReplayError};

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Disk<'t> {
    pub(super) target: &'t Target,
    /// Whether its owner alone may read what is written.
    pub(super) private: bool,
}

/// A file that is being written there.
pub(super) enum File {
    Stdout(Stdout),
    Kept(Box<Output>),
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Kept(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Kept(output) => output.flush(),
        }
    }
}

impl Place for Disk<'_> {
    type File = File;

    fn create(&mut self, kind: Option<&'static str>) -> Result<File, ReplayError> {
        let path = match self.target {
            Target::Stdout(_) => return Ok(File::Stdout(io::stdout())),
            Target::File(path, _) => path.clone(),
            Target::Folder(folder) => folder.join(format!("{}.parquet", kind.unwrap_or_default())),
        };
        Ok(File::Kept(Box::new(Output::create(&path, self.private)?)))
    }

    fn keep(&mut self, _: Option<&'static str>, file: File) -> Result<String, ReplayError> {
        match file {
            File::Stdout(_) => Ok("-".to_owned()),
            File::Kept(output) => Ok(output.keep()?),
        }
    }
}

impl Disk<'_> {
    /// Makes the folder that the files go into.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        if let Target::Folder(folder) = self.target {
            let told = |error| format!("{} can't be made: {error}", folder.display());
            std::fs::create_dir_all(folder).map_err(told)?;
        }
        Ok(())
    }

    /// Takes the manifest of an earlier replay away, for its files are about to be replaced; gives their names.
    pub(super) fn retract(&self) -> Result<Vec<String>, Failure> {
        let Some(path) = self.target.manifest().filter(|path| path.exists()) else { return Ok(Vec::new()) };
        let earlier = files_of(&path);
        std::fs::remove_file(path)?;
        Ok(earlier)
    }

    /// Writes the manifest, last: what it names is there. What it does not name is removed, where it was of the earlier
    /// replay.
    pub(super) fn end(&self, manifest: &Manifest, earlier: &[String]) -> Result<(), Failure> {
        if let Target::Folder(folder) = self.target {
            forget(folder, earlier, manifest)?;
        }
        if let Some(path) = self.target.manifest() {
            let mut file = Output::create(&path, self.private)?;
            serde_json::to_writer_pretty(&mut file, manifest)?;
            file.write_all(b"\n")?;
            file.keep()?;
        }
        Ok(())
    }
}

/// The files that the manifest of an earlier replay names.
fn files_of(manifest: &Path) -> Vec<String> {
    let read = std::fs::read(manifest).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let files = read.and_then(|manifest| manifest["files"].as_array().cloned()).unwrap_or_default();
    files.iter().filter_map(|file| file["name"].as_str().map(str::to_owned)).collect()
}

/// Removes the files of an earlier replay into the same folder that this one does not have.
fn forget(folder: &Path, earlier: &[String], manifest: &Manifest) -> Result<(), Failure> {
    let table = |name: &str| name.strip_suffix(".parquet").is_some_and(|name| domain::event_type(name).is_some());
    let gone = |name: &String| !manifest.files.iter().any(|file| file.name == *name);
    let paths: Vec<PathBuf> =
        earlier.iter().filter(|name| table(name) && gone(name)).map(|name| folder.join(name)).collect();
    for path in paths.iter().filter(|path| path.exists()) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
