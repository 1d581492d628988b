//! The events of one type as a Parquet file: the columns of the envelope, then those of the payload.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use domain::{DecodeError, EventType};
use eventstore::RecordedEvent;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::ReplayError;
use super::columns::{self, Columns, UTC};
use super::selection::{Data, Shown};
use crate::audit::ShownEvent;

/// How many rows, and bytes of payloads, are made columns at a time.
const BATCH: (usize, usize) = (4_096, 2 * 1024 * 1024);
/// About how many bytes of rows a row group has. It depends on nothing but the events of the table's own type, so a table is
/// the same whichever others are made beside it.
const GROUP: usize = 32 * 1024 * 1024;
/// About what an envelope takes, in bytes.
const ENVELOPE: usize = 256;

/// Why an event can be no row.
type Unfit = Box<dyn std::error::Error + Send + Sync>;

/// An event on its way into a table, its payload as the columns want it.
pub(super) struct Row {
    pub(super) kind: &'static EventType,
    pub(super) event: RecordedEvent,
    stream: String,
    request_id: Option<String>,
    cause: Option<String>,
    payload: String,
}

impl Row {
    /// The event in the newest version of its type; an error where this program does not know it.
    pub(super) fn of(shown: Shown) -> Result<Self, ReplayError> {
        let sequence = shown.event.sequence;
        Self::read(shown).map_err(|what| ReplayError::Event { sequence, what: what.to_string() })
    }

    fn read(shown: Shown) -> Result<Self, Unfit> {
        let Shown { mut event, data } = shown;
        let version = event.schema_version;
        let kind = domain::event_type(&event.event_type).filter(|kind| (1..=kind.schema_version).contains(&version));
        let (Some(kind), Some(columns)) = (kind, columns::of_type(&event.event_type)) else {
            return Err(DecodeError::Unknown { name: event.event_type, schema_version: version }.into());
        };
        let envelope = ShownEvent::of(&event, ());
        let (stream, request_id, cause) = (envelope.stream, envelope.request_id, envelope.cause);
        let as_stored = version == kind.schema_version && columns.take_as_stored();
        let payload = match (data, event.payload.take()) {
            (Data::Gone, _) | (_, None) => "{}".to_owned(),
            (Data::Stored, Some(payload)) if as_stored => payload,
            (Data::Stored, Some(payload)) => newest(kind, version, columns, serde_json::from_str(&payload)?)?,
            (Data::Value(value), _) => newest(kind, version, columns, value)?,
        };
        Ok(Self { kind, event, stream, request_id, cause, payload })
    }
}

fn newest(kind: &EventType, version: i32, columns: &Columns, payload: Value) -> Result<String, Unfit> {
    let Value::Object(payload) = payload else { return Err("its payload is no JSON object".into()) };
    let mut payload = kind.upcast_json(version, payload);
    columns.fit(&mut payload);
    Ok(serde_json::to_string(&payload)?)
}

/// A Parquet file that is being written.
pub(super) struct Table<F: Write + Send> {
    name: &'static str,
    schema: SchemaRef,
    envelope: Envelope,
    /// Reads payloads; none where the type says nothing beside that it happened.
    payloads: Option<Decoder>,
    /// Rows, and bytes of payloads, that are no columns yet.
    waiting: (usize, usize),
    /// About how many bytes of rows are in no row group yet.
    buffered: usize,
    events: u64,
    writer: ArrowWriter<F>,
}

impl<F: Write + Send> Table<F> {
    /// Begins the file of a type.
    pub(super) fn begin(file: F, kind: &'static EventType) -> Result<Self, ReplayError> {
        let payload = columns::of_type(kind.name).map(Columns::fields).unwrap_or_default();
        let envelope = Envelope::fields();
        let taken: HashSet<_> = envelope.iter().map(|field| field.name().clone()).collect();
        // A field of a payload that is called like a column of the envelope.
        let column = |field: &Arc<Field>| match taken.contains(field.name()) {
            true => Field::clone(field).with_name(format!("data_{}", field.name())),
            false => Field::clone(field),
        };
        let all: Vec<_> = envelope.into_iter().chain(payload.iter().map(column)).collect();
        let schema = Arc::new(Schema::new(all));
        let payloads = match payload.is_empty() {
            true => None,
            false => Some(ReaderBuilder::new(Arc::new(Schema::new(payload))).with_batch_size(BATCH.0).build_decoder()?),
        };
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("annals version ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        let (envelope, waiting) = (Envelope::default(), (0, 0));
        Ok(Self { name: kind.name, schema, envelope, payloads, waiting, buffered: 0, events: 0, writer })
    }

    /// Takes an event.
    pub(super) fn take(&mut self, row: &Row) -> Result<(), ReplayError> {
        self.envelope.take(row);
        if let Some(payloads) = &mut self.payloads {
            let bytes = row.payload.as_bytes();
            if payloads.decode(bytes)? != bytes.len() {
                let what = "its payload is more than one".to_owned();
                return Err(ReplayError::Event { sequence: row.event.sequence, what });
            }
        }
        let bytes = row.payload.len() + ENVELOPE;
        self.waiting = (self.waiting.0 + 1, self.waiting.1 + bytes);
        self.buffered += bytes;
        self.events += 1;
        if self.waiting.0 == BATCH.0 || self.waiting.1 >= BATCH.1 {
            self.make_columns()?;
        }
        if self.buffered >= GROUP { self.end_group() } else { Ok(()) }
    }

    fn make_columns(&mut self) -> Result<(), ReplayError> {
        let (rows, _) = std::mem::take(&mut self.waiting);
        if rows == 0 {
            return Ok(());
        }
        let mut columns = self.envelope.columns(self.name, rows);
        if let Some(payloads) = &mut self.payloads {
            let unfit = |error| format!("a payload of `{}` does not fit: {error}", self.name);
            let read = payloads.flush().map_err(|error| ReplayError::Unmade(unfit(error).into()))?;
            columns.extend(read.iter().flat_map(|batch| batch.columns().iter().cloned()));
        }
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        Ok(())
    }

    /// Writes what was taken as a row group of its own.
    fn end_group(&mut self) -> Result<(), ReplayError> {
        self.make_columns()?;
        self.writer.flush()?;
        self.buffered = 0;
        Ok(())
    }

    /// Ends the file; gives it and how many events it has.
    pub(super) fn end(mut self) -> Result<(F, u64), ReplayError> {
        self.end_group()?;
        Ok((self.writer.into_inner()?, self.events))
    }
}

/// The columns that every event has.
struct Envelope {
    sequence: Int64Builder,
    schema_version: Int32Builder,
    stream: StringBuilder,
    version: Int64Builder,
    occurred_at: TimestampMicrosecondBuilder,
    recorded_at: TimestampMicrosecondBuilder,
    actor: StringBuilder,
    request_id: StringBuilder,
    cause: StringBuilder,
}

impl Default for Envelope {
    fn default() -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone(UTC);
        Self {
            sequence: Int64Builder::new(),
            schema_version: Int32Builder::new(),
            stream: StringBuilder::new(),
            version: Int64Builder::new(),
            occurred_at: time(),
            recorded_at: time(),
            actor: StringBuilder::new(),
            request_id: StringBuilder::new(),
            cause: StringBuilder::new(),
        }
    }
}

impl Envelope {
    fn fields() -> Vec<Field> {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        vec![
            Field::new("sequence", DataType::Int64, false),
            Field::new("type", DataType::Utf8, false),
            Field::new("schema_version", DataType::Int32, false),
            Field::new("stream", DataType::Utf8, false),
            Field::new("version", DataType::Int64, false),
            Field::new("occurred_at", time(), false),
            Field::new("recorded_at", time(), false),
            Field::new("actor", DataType::Utf8, false),
            Field::new("request_id", DataType::Utf8, true),
            Field::new("cause", DataType::Utf8, true),
        ]
    }

    fn take(&mut self, row: &Row) {
        let event = &row.event;
        self.sequence.append_value(event.sequence);
        self.schema_version.append_value(event.schema_version);
        self.stream.append_value(&row.stream);
        self.version.append_value(event.version);
        self.occurred_at.append_value(event.occurred_at.timestamp_micros());
        self.recorded_at.append_value(event.recorded_at.timestamp_micros());
        self.actor.append_value(&event.actor);
        self.request_id.append_option(row.request_id.as_deref());
        self.cause.append_option(row.cause.as_deref());
    }

    fn columns(&mut self, name: &str, rows: usize) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.sequence.finish()),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, rows))),
            Arc::new(self.schema_version.finish()),
            Arc::new(self.stream.finish()),
            Arc::new(self.version.finish()),
            Arc::new(self.occurred_at.finish()),
            Arc::new(self.recorded_at.finish()),
            Arc::new(self.actor.finish()),
            Arc::new(self.request_id.finish()),
            Arc::new(self.cause.finish()),
        ]
    }
}
