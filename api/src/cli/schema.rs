//! `annals schema`: what the log holds, and what this program knows of it.

use std::process::ExitCode;

use domain::EventType;
use domain::names::STREAM_TYPES;
use eventstore::verify::{Told, TypeCount};
use serde_json::{Value, json};

use super::Failure;
use super::verify::progress;
use super::writer::{err, out};
use crate::config::Config;
use crate::replay::near;

/// Counts the events of the log by type and version, and names those that this program can't read.
pub(super) async fn check(config: &Config) -> Result<ExitCode, Failure> {
    let bar = progress();
    let mut tell = |told| match told {
        Told::Events(count) => bar.set_length(count.try_into().unwrap_or_default()),
        Told::Passed(position) => bar.set_position(position.try_into().unwrap_or_default()),
        Told::Found(_) => {}
    };
    let types = eventstore::verify::event_types(&config.log, &mut tell).await?;
    bar.finish_and_clear();
    let known = |kind: &TypeCount| {
        domain::event_type(&kind.event_type)
            .is_some_and(|known| (1..=known.schema_version).contains(&kind.schema_version))
    };
    let shown = types.iter().map(|kind| {
        let newest = domain::event_type(&kind.event_type).map(|known| known.schema_version);
        let TypeCount { event_type, schema_version, count } = kind;
        json!({ "type": event_type, "schema_version": schema_version, "count": count, "newest": newest, "known": known(kind) })
    });
    let shown: Vec<Value> = shown.collect();
    let unknown: Vec<_> = types.iter().filter(|kind| !known(kind)).collect();
    for TypeCount { event_type, schema_version, count } in &unknown {
        err(format_args!(
            "annals: this program does not know `{event_type}` in version {schema_version}, {count} in the log"
        ));
    }
    out(format_args!("{}", json!({ "object": "schema_check", "ok": unknown.is_empty(), "types": shown })));
    Ok(if unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what is known of one type of event, in its newest version or another.
pub(super) fn show(name: &str, version: Option<i32>) -> Result<(), Failure> {
    let kind = domain::event_type(name)
        .ok_or_else(|| format!("there is no event type `{name}`; near it are {}", near(name).join(", ")))?;
    let version = version.unwrap_or(kind.schema_version);
    let schema = kind.schema_of(version).ok_or_else(|| match kind.schema_version {
        1 => format!("--version: `{name}` has version 1 alone"),
        newest => format!("--version: `{name}` has versions 1 to {newest}"),
    })?;
    let stream = STREAM_TYPES.iter().find(|stream| stream.events.contains(&name)).map(|stream| stream.name);
    let shown = json!({
        "object": "event_schema",
        "type": name,
        "stream_type": stream,
        "description": kind.about,
        "schema_version": version,
        "newest": kind.schema_version,
        "upcasters": upcasters(kind),
        "schema": schema,
    });
    out(format_args!("{shown:#}"));
    Ok(())
}

fn upcasters(kind: &EventType) -> Vec<Value> {
    let steps = kind.upcasters.iter();
    steps.map(|step| json!({ "from": step.from, "to": step.from + 1, "by": step.named })).collect()
}
