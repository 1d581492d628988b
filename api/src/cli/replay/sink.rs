//! Takes the events of a replay in order: to stdout, into a file of lines, or into tables.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::Failure;
use super::file::Output;
use super::manifest::{Count, Manifest};
use super::selection::{Personal, Selection, Shown};
use super::table::{Row, Table};
use super::target::{Format, Target};
use super::text;

/// About how many bytes of rows may wait, in all tables, until one of them writes a row group. It depends on nothing but the
/// events, so the same ones give the same groups.
const BUFFERED: usize = 64 * 1024 * 1024;

/// How events are handed to the sink.
#[derive(Clone, Copy)]
pub(super) struct Encoding(Format);

/// Some events, encoded.
pub(super) struct Block {
    counts: BTreeMap<String, Count>,
    content: Content,
}

enum Content {
    Text(Vec<u8>),
    Rows(Vec<Row>),
}

impl Encoding {
    /// Encodes some events.
    pub(super) fn encode(self, all: Vec<Shown>) -> Result<Block, Failure> {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for Shown { event, .. } in &all {
            if !counts.contains_key(&event.event_type) {
                counts.insert(event.event_type.clone(), Count::default());
            }
            if let Some(count) = counts.get_mut(&event.event_type) {
                count.add(event.schema_version, 1);
            }
        }
        let content = match self.0 {
            Format::Jsonl => Content::Text(text::json(&all)?),
            Format::Csv => Content::Text(text::csv(&all)?),
            Format::Parquet => Content::Rows(all.into_iter().map(Row::of).collect::<Result<_, _>>()?),
        };
        Ok(Block { counts, content })
    }
}

impl Count {
    fn add(&mut self, schema_version: i32, events: u64) {
        self.events += events;
        *self.schema_versions.entry(schema_version).or_default() += events;
    }
}

/// See the module.
pub(super) struct Sink {
    format: Format,
    to: To,
    /// Where the manifest goes.
    manifest: Option<PathBuf>,
    private: bool,
    counts: BTreeMap<String, Count>,
}

enum To {
    Stdout,
    File(Box<Output>),
    Tables { place: Place, all: BTreeMap<&'static str, Table>, buffered: usize },
}

/// Where tables are.
enum Place {
    File(PathBuf),
    Folder(PathBuf),
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder(path) => path.join(format!("{name}.parquet")),
        }
    }
}

impl Sink {
    /// Begins what the target names.
    pub(super) fn open(target: &Target, selection: &Selection) -> Result<Self, Failure> {
        let private = matches!(selection.personal, Personal::Opened(_));
        let tables = |place| To::Tables { place, all: BTreeMap::new(), buffered: 0 };
        let to = match target {
            Target::Stdout(_) => To::Stdout,
            Target::File(path, Format::Parquet) => tables(Place::File(path.clone())),
            Target::File(path, _) => To::File(Box::new(Output::create(path, private)?)),
            Target::Folder(path) => {
                let told = |error| format!("{} can't be made: {error}", path.display());
                std::fs::create_dir_all(path).map_err(told)?;
                tables(Place::Folder(path.clone()))
            }
        };
        let (format, manifest) = (target.format(), target.manifest());
        let mut sink = Self { format, to, manifest, private, counts: BTreeMap::new() };
        if format == Format::Csv {
            sink.write(text::HEADING.as_bytes())?;
        }
        // A file that is named is there also where there are no events.
        if let (To::Tables { place: Place::File(_), .. }, Some(name)) = (&sink.to, selection.only_type()) {
            sink.table(name)?;
        }
        Ok(sink)
    }

    /// How it wants events.
    pub(super) fn encoding(&self) -> Encoding {
        Encoding(self.format)
    }

    /// Takes the next events.
    pub(super) fn take(&mut self, block: Block) -> Result<(), Failure> {
        for (name, count) in block.counts {
            let all = self.counts.entry(name).or_default();
            count.schema_versions.into_iter().for_each(|(version, events)| all.add(version, events));
        }
        match block.content {
            Content::Text(lines) => self.write(&lines),
            Content::Rows(rows) => rows.iter().try_for_each(|row| self.row(row)),
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        match &mut self.to {
            To::Stdout => std::io::stdout().lock().write_all(lines)?,
            To::File(file) => file.write_all(lines)?,
            To::Tables { .. } => {}
        }
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), Failure> {
        let bytes = self.table(row.kind.name)?.map_or(Ok(0), |table| table.take(row))?;
        let To::Tables { all, buffered, .. } = &mut self.to else { return Ok(()) };
        *buffered += bytes;
        if *buffered >= BUFFERED
            && let Some(largest) = all.values_mut().max_by_key(|table| table.buffered)
        {
            *buffered -= largest.buffered;
            largest.flush()?;
        }
        Ok(())
    }

    /// The table of a type, begun where there is none yet.
    fn table(&mut self, name: &'static str) -> Result<Option<&mut Table>, Failure> {
        let To::Tables { place, all, .. } = &mut self.to else { return Ok(None) };
        if !all.contains_key(name)
            && let Some(kind) = domain::event_type(name)
        {
            all.insert(name, Table::create(&place.path(name), kind, self.private)?);
        }
        Ok(all.get_mut(name))
    }

    /// Ends all files, and writes the manifest last: what it names is there.
    pub(super) fn end(self, mut manifest: Manifest) -> Result<Manifest, Failure> {
        manifest.events = self.counts.values().map(|count| count.events).sum();
        manifest.counts = self.counts;
        for (name, count) in &mut manifest.counts {
            count.newest = domain::event_type(name).map(|kind| kind.schema_version);
        }
        let earlier = self.manifest.as_deref().map(files_of).unwrap_or_default();
        if let Some(path) = &self.manifest
            && path.exists()
        {
            std::fs::remove_file(path)?;
        }
        match self.to {
            To::Stdout => std::io::stdout().lock().flush()?,
            To::File(file) => {
                let events = manifest.events;
                manifest.files.push(super::manifest::Written { events, ..file.keep()? });
            }
            To::Tables { all, place, .. } => {
                for table in all.into_values() {
                    manifest.files.push(table.end()?);
                }
                if let Place::Folder(folder) = place {
                    forget(&folder, &earlier, &manifest)?;
                }
            }
        }
        if let Some(path) = self.manifest {
            let mut file = Output::create(&path, self.private)?;
            serde_json::to_writer_pretty(&mut file, &manifest)?;
            file.write_all(b"\n")?;
            file.keep()?;
        }
        Ok(manifest)
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
    for name in earlier.iter().filter(|name| table(name) && gone(name)) {
        let path = folder.join(name);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
