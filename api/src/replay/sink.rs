//! Takes the events of a replay in order, and makes files of them: one of lines, or a table of each type. Where the files
//! are is a [`Place`]'s.

use std::collections::BTreeMap;
use std::io::{self, Write};

use domain::audit::ReplayFormat;
use sha2::{Digest, Sha256};

use super::ReplayError;
use super::manifest::{Count, Written};
use super::table::{Row, Table};
use super::text;

/// Where the files of a replay are written.
pub trait Place {
    /// A file that is being written.
    type File: Write + Send;

    /// Begins a file: of one type where they are tables.
    fn create(&mut self, kind: Option<&'static str>) -> Result<Self::File, ReplayError>;

    /// Ends a file; gives its name.
    fn keep(&mut self, kind: Option<&'static str>, file: Self::File) -> Result<String, ReplayError>;
}

/// A file that is hashed on its way.
pub(super) struct Hashed<F> {
    file: F,
    hash: Sha256,
    bytes: u64,
}

impl<F: Write> Write for Hashed<F> {
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

/// Some events, encoded.
pub struct Block {
    counts: BTreeMap<String, Count>,
    content: Content,
}

enum Content {
    Text(Vec<u8>),
    Rows(Vec<Row>),
}

impl Block {
    /// Encodes some events.
    pub(super) fn of(all: Vec<super::selection::Shown>, format: ReplayFormat) -> Result<Self, ReplayError> {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for shown in &all {
            let name = &shown.event.event_type;
            if !counts.contains_key(name) {
                counts.insert(name.clone(), Count::default());
            }
            if let Some(count) = counts.get_mut(name) {
                count.add(shown.event.schema_version, 1);
            }
        }
        let content = match format {
            ReplayFormat::Jsonl => Content::Text(text::json(&all)?),
            ReplayFormat::Csv => Content::Text(text::csv(&all)?),
            ReplayFormat::Parquet => Content::Rows(all.into_iter().map(Row::of).collect::<Result<_, _>>()?),
        };
        Ok(Self { counts, content })
    }
}

/// See the module.
pub struct Sink<P: Place> {
    place: P,
    files: Files<Hashed<P::File>>,
    counts: BTreeMap<String, Count>,
}

enum Files<F: Write + Send> {
    Lines(F),
    Tables(BTreeMap<&'static str, Table<F>>),
}

impl<P: Place> Sink<P> {
    /// Begins files in that place; the table of a type that is named is there also where there are no events.
    pub fn open(place: P, format: ReplayFormat, kind: Option<&'static str>) -> Result<Self, ReplayError> {
        let mut sink = Self { place, files: Files::Tables(BTreeMap::new()), counts: BTreeMap::new() };
        if format != ReplayFormat::Parquet {
            let mut file = create(&mut sink.place, None)?;
            if format == ReplayFormat::Csv {
                file.write_all(text::HEADING.as_bytes())?;
            }
            sink.files = Files::Lines(file);
        } else if let (Files::Tables(all), Some(name)) = (&mut sink.files, kind) {
            table(&mut sink.place, all, name)?;
        }
        Ok(sink)
    }

    /// Takes the next events.
    pub fn take(&mut self, block: Block) -> Result<(), ReplayError> {
        for (name, count) in block.counts {
            self.counts.entry(name).or_default().add_all(count);
        }
        match (&mut self.files, block.content) {
            (Files::Lines(file), Content::Text(lines)) => file.write_all(&lines)?,
            (Files::Tables(all), Content::Rows(rows)) => {
                for row in &rows {
                    if let Some(table) = table(&mut self.place, all, row.kind.name)? {
                        table.take(row)?;
                    }
                }
            }
            // One format makes both.
            (Files::Lines(_), Content::Rows(_)) | (Files::Tables(_), Content::Text(_)) => {}
        }
        Ok(())
    }

    /// Ends all files; gives them, and how many events of each type there are.
    pub fn end(mut self) -> Result<(Vec<Written>, BTreeMap<String, Count>), ReplayError> {
        let mut files = Vec::new();
        match self.files {
            Files::Lines(file) => {
                let events = self.counts.values().map(|count| count.events).sum();
                files.push(keep(&mut self.place, None, file, events)?);
            }
            Files::Tables(all) => {
                for (name, table) in all {
                    let (file, events) = table.end()?;
                    files.push(keep(&mut self.place, Some(name), file, events)?);
                }
            }
        }
        Ok((files, self.counts))
    }
}

fn create<P: Place>(place: &mut P, kind: Option<&'static str>) -> Result<Hashed<P::File>, ReplayError> {
    Ok(Hashed { file: place.create(kind)?, hash: Sha256::new(), bytes: 0 })
}

fn keep<P: Place>(
    place: &mut P,
    kind: Option<&'static str>,
    file: Hashed<P::File>,
    events: u64,
) -> Result<Written, ReplayError> {
    let Hashed { mut file, hash, bytes } = file;
    file.flush()?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Written { name: place.keep(kind, file)?, events, bytes, sha256 })
}

/// The table of a type, begun where there is none yet.
fn table<'a, P: Place>(
    place: &mut P,
    all: &'a mut BTreeMap<&'static str, Table<Hashed<P::File>>>,
    name: &'static str,
) -> Result<Option<&'a mut Table<Hashed<P::File>>>, ReplayError> {
    if !all.contains_key(name)
        && let Some(kind) = domain::event_type(name)
    {
        all.insert(name, Table::begin(create(place, Some(name))?, kind)?);
    }
    Ok(all.get_mut(name))
}
