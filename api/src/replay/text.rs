//! Events as lines: of JSON, or of CSV.

use serde_json::value::RawValue;

use super::ReplayError;
use super::selection::{Data, Shown};
use crate::audit::ShownEvent;

/// The first line of a CSV file.
pub(super) const HEADING: &str =
    "sequence,type,schema_version,stream,version,occurred_at,recorded_at,actor,request_id,cause,data\n";
/// About how many bytes a line has.
const LINE: usize = 640;

/// Each as `GET /api/v1/events` shows it.
pub(super) fn json(all: &[Shown]) -> Result<Vec<u8>, ReplayError> {
    let mut lines = Vec::with_capacity(all.len() * LINE);
    for Shown { event, data } in all {
        match data {
            Data::Gone => serde_json::to_writer(&mut lines, &ShownEvent::of(event, ()))?,
            Data::Stored => {
                let stored: Option<&RawValue> =
                    event.payload.as_deref().and_then(|text| serde_json::from_str(text).ok());
                serde_json::to_writer(&mut lines, &ShownEvent::of(event, stored))?;
            }
            Data::Value(value) => serde_json::to_writer(&mut lines, &ShownEvent::of(event, value))?,
        }
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The same fields in columns, what it says as JSON.
pub(super) fn csv(all: &[Shown]) -> Result<Vec<u8>, ReplayError> {
    let mut rows = csv::Writer::from_writer(Vec::with_capacity(all.len() * LINE));
    for Shown { event, data } in all {
        let shown = ShownEvent::of(event, ());
        let data = match data {
            Data::Gone => String::new(),
            Data::Stored => event.payload.clone().unwrap_or_default(),
            Data::Value(value) => value.to_string(),
        };
        rows.write_record([
            shown.sequence.to_string().as_str(),
            shown.event_type,
            &shown.schema_version.to_string(),
            &shown.stream,
            &shown.version.to_string(),
            &shown.occurred_at,
            &shown.recorded_at,
            shown.actor,
            shown.request_id.as_deref().unwrap_or_default(),
            shown.cause.as_deref().unwrap_or_default(),
            &data,
        ])?;
    }
    rows.into_inner().map_err(|error| ReplayError::Io(error.into_error()))
}
