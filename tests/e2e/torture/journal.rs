//! What a run intended, was answered and did to others, as lines of JSON, each with its time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};

/// A folder with the journal and with what the processes of the run have said.
pub(crate) struct Journal {
    folder: PathBuf,
    begun: Instant,
    lines: Mutex<BufWriter<File>>,
}

impl Journal {
    pub(super) fn create(folder: PathBuf) -> Self {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let lines = Mutex::new(BufWriter::new(File::create(folder.join("journal.jsonl")).unwrap()));
        Self { folder, begun: Instant::now(), lines }
    }

    /// A line: milliseconds since the beginning, what it is, and more of it.
    pub(crate) fn note(&self, what: &str, more: Value) {
        let mut line = json!({ "ms": self.begun.elapsed().as_millis() as u64, "what": what });
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        writeln!(self.lines.lock().unwrap(), "{line}").unwrap();
    }

    /// A file beside the journal.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where it is, complete.
    pub(super) fn keep(&self) -> &Path {
        self.lines.lock().unwrap().flush().unwrap();
        &self.folder
    }

    pub(super) fn remove(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}
