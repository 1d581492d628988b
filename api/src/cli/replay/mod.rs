//! `annals replay`: a tenant's history as files for analysts. It streams: memory does not grow with the log, and the same
//! call gives the same bytes, whenever it is made.
//!
//! Chunks of events come from the log some ranges ahead. Each is shown, filtered and encoded in a task of its own, several
//! at a time; [`sink`] takes them in order.

mod columns;
mod condition;
mod file;
mod manifest;
mod selection;
mod sink;
mod table;
mod target;
mod text;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use domain::{TenantId, TypedId};
use eventstore::{EventFilter, EventStore};
use futures::TryStreamExt;
use indicatif::ProgressBar;

use super::Failure;
use super::verify::progress;
use super::writer::out;
use crate::app::{open_store, open_vault};
use crate::as_of::sequence_of;
use crate::config::Config;
use crate::resource::to_json;

use condition::Condition;
use manifest::{Manifest, Range};
use selection::{Personal, Selection};
use sink::Sink;
use target::{Format, Target};

/// How many chunks are worked on at a time.
const AHEAD: usize = 3;

/// What `annals replay` takes.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// Whose history: ten_…
    #[arg(long)]
    tenant: TenantId,
    /// Only what came after this: a sequence of the tenant, or a time of RFC 3339 (the last one that was recorded by then)
    #[arg(long, value_name = "MOMENT", default_value = "0")]
    after: String,
    /// Only what came up to and with this; up to now, if absent. Give it to get the same bytes again
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// Only this type: order.placed; with a dot at its end all that begin so: order. May be given more than once
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only those of which this expression of CEL is true
    ///
    /// It may name sequence, type, schema_version, stream, version, occurred_at and recorded_at (timestamps), actor,
    /// request_id, cause and data, as `GET /api/v1/events` shows them: type == "order.placed" && data.total.amount >= 1000
    #[arg(long = "where", value_name = "CEL")]
    condition: Option<String>,
    /// FILE.jsonl, FILE.csv, FILE.parquet (of one type), a folder for a Parquet file of each type (FOLDER/), or - for stdout
    #[arg(long, value_name = "FILE")]
    to: String,
    /// What is written, where the name does not say so
    #[arg(long)]
    format: Option<Format>,
    /// Open personal values with the key store; without it they are null. What was erased is null either way
    #[arg(long)]
    open_personal: bool,
}

/// Writes what is asked for, and prints its manifest unless stdout has the events.
pub(super) async fn run(replay: Replay, stopped: impl Future<Output = ()>) -> Result<ExitCode, Failure> {
    let types = selection::wanted(&replay.types)?;
    let condition = replay.condition.as_deref().map(Condition::compile).transpose()?;
    let target = Target::of(&replay.to, replay.format, types.as_ref())?;
    let config = Config::from_env()?;
    let store = open_store(&config).await?;
    let replayed = async {
        let personal = match replay.open_personal {
            true => Personal::Opened(open_vault(&config, store.clone()).await?),
            false => Personal::Null,
        };
        let range = range(&store, &replay).await?;
        let selection = Arc::new(Selection { tenant: replay.tenant, types, condition, personal });
        write(&store, selection, range, &target).await
    };
    let written = tokio::select! {
        written = replayed => written,
        () = stopped => Err("it was stopped before its end; nothing was written".into()),
    };
    store.close().await;
    match written {
        Ok(manifest) if !target.is_stdout() => out(format_args!("{}", to_json(&manifest))),
        // Whoever reads stdout has seen enough.
        Err(failure) if !(target.is_stdout() && is_broken_pipe(failure.as_ref())) => return Err(failure),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The sequences that are asked for.
async fn range(store: &EventStore, replay: &Replay) -> Result<Range, Failure> {
    let tenant = replay.tenant;
    let head = store.tenant_head(tenant.uuid()).await?;
    if head == 0 {
        return Err(format!("--tenant: there is no tenant {tenant}").into());
    }
    let after = sequence_of(store, tenant, &replay.after).await.map_err(|error| format!("--after {error}"))?;
    let until = match &replay.until {
        Some(until) => sequence_of(store, tenant, until).await.map_err(|error| format!("--until {error}"))?,
        None => head,
    };
    if after > until {
        return Err(format!("--after is sequence {after}, which lies behind --until, {until}").into());
    }
    let incarnation = store.token(tenant.uuid(), until).await?.incarnation;
    Ok(Range { after, until, incarnation })
}

async fn write(
    store: &EventStore,
    selection: Arc<Selection>,
    range: Range,
    target: &Target,
) -> Result<Manifest, Failure> {
    let bar = if target.is_stdout() { ProgressBar::hidden() } else { progress() };
    bar.set_length((range.until - range.after).try_into().unwrap_or_default());
    let mut sink = Sink::open(target, &selection)?;
    let written = fill(store, &selection, range, &mut sink, &bar).await;
    bar.finish_and_clear();
    written?;
    sink.end(Manifest::begin(&selection, range, target.format()))
}

async fn fill(
    store: &EventStore,
    selection: &Arc<Selection>,
    range: Range,
    sink: &mut Sink,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let filter = EventFilter { event_type: selection.only_type().map(str::to_owned), stream: None };
    let dense = filter.event_type.is_none();
    let chunks = store.tenant_chunks(selection.tenant.uuid(), range.after, range.until, filter);
    let encoding = sink.encoding();
    let blocks = chunks.map_err(Failure::from).map_ok(move |events| {
        let selection = selection.clone();
        let task = tokio::spawn(async move {
            let passed = events.first().zip(events.last()).map(|(first, last)| (first.sequence, last.sequence));
            let block = encoding.encode(selection.select(events).await?)?;
            Ok::<_, Failure>((passed, block))
        });
        async move { task.await? }
    });
    let mut blocks = std::pin::pin!(blocks.try_buffered(AHEAD));
    let mut stands = range.after;
    while let Some((passed, block)) = blocks.try_next().await? {
        sink.take(block)?;
        if let Some((first, last)) = passed {
            if dense && first != stands + 1 {
                break;
            }
            stands = last;
            bar.set_position((last - range.after).try_into().unwrap_or_default());
        }
    }
    if dense && stands != range.until {
        // Sequences are dense, unless the log was restored to an earlier moment while it was read.
        return Err(format!("the log has no sequence {} any more", stands + 1).into());
    }
    Ok(())
}

fn is_broken_pipe(failure: &(dyn std::error::Error + 'static)) -> bool {
    failure.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
