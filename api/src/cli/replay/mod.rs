//! `annals replay`: a tenant's history as files for analysts, on this machine. Chunks of events come from the log some
//! ranges ahead, and several are encoded at a time; see [`crate::replay`].

mod file;
mod place;
mod target;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use commands::{Executor, Vault, admin};
use domain::audit::{ReplayFormat, Requested};
use domain::{TenantId, TypedId};
use eventstore::EventStore;
use futures::TryStreamExt;
use indicatif::ProgressBar;

use super::Failure;
use super::verify::progress;
use super::writer::out;
use crate::app::{open_store, open_vault};
use crate::as_of::sequence_of;
use crate::config::Config;
use crate::replay::{Condition, Manifest, Personal, Place, Range, ReplayError, Selection, Sink, wanted};
use crate::resource::to_json;

use place::Disk;
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
    let types = wanted(&replay.types).map_err(|unknown| format!("--type: {unknown}"))?;
    let condition = replay.condition.as_deref().map(Condition::compile).transpose();
    let condition = condition.map_err(|wrong| format!("--where {wrong}"))?;
    let target = Target::of(&replay.to, replay.format, types.as_ref())?;
    let config = Config::from_env()?;
    let store = open_store(&config).await?;
    let replayed = async {
        let range = range(&store, &replay).await?;
        let mut selection = Selection { tenant: replay.tenant, types, condition, personal: Personal::Null };
        if replay.open_personal {
            let vault = open_vault(&config, store.clone()).await?;
            leave_trail(&store, &vault, &selection, range, target.format()).await?;
            selection.personal = Personal::Opened(vault);
        }
        write(&store, Arc::new(selection), range, &target).await
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

/// Whoever opens what is personal is on record before anything is opened, as over HTTP.
async fn leave_trail(
    store: &EventStore,
    vault: &Vault,
    selection: &Selection,
    range: Range,
    format: ReplayFormat,
) -> Result<(), Failure> {
    let condition = selection.condition.as_ref().map(|condition| condition.text.parse());
    let request = Requested {
        after: range.after,
        until: range.until,
        types: selection.types_named(),
        condition: condition.transpose().map_err(|error| format!("--where {error}"))?,
        format,
        open_personal: true,
    };
    admin::request_replay(&Executor::new(store.clone(), vault.clone()), selection.tenant, request).await?;
    Ok(())
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
    let disk = Disk { target, private: matches!(selection.personal, Personal::Opened(_)) };
    disk.prepare()?;
    let format = target.format();
    // A file that is named is there also where there are no events.
    let named = if let Target::File(..) = target { selection.only_type() } else { None };
    let bar = if target.is_stdout() { ProgressBar::hidden() } else { progress() };
    bar.set_length((range.until - range.after).try_into().unwrap_or_default());
    let mut sink = Sink::open(disk, format, named)?;
    let written = fill(store, &selection, range, format, &mut sink, &bar).await;
    bar.finish_and_clear();
    written.map_err(|error| match error {
        ReplayError::Condition { .. } => format!("--where {error}").into(),
        ReplayError::Io(error) => Failure::from(error),
        other => Failure::from(other),
    })?;
    let earlier = disk.retract()?;
    let (files, counts) = sink.end()?;
    let manifest = Manifest::of(&selection, range, format, counts, files);
    disk.end(&manifest, &earlier)?;
    Ok(manifest)
}

async fn fill(
    store: &EventStore,
    selection: &Arc<Selection>,
    range: Range,
    format: ReplayFormat,
    sink: &mut Sink<impl Place>,
    bar: &ProgressBar,
) -> Result<(), ReplayError> {
    let filter = selection.filter();
    let dense = filter.event_type.is_none();
    let chunks = store.tenant_chunks(selection.tenant.uuid(), range.after, range.until, filter);
    let blocks = chunks.map_err(ReplayError::from).map_ok(move |events| {
        let passed = events.first().zip(events.last()).map(|(first, last)| (first.sequence, last.sequence));
        let selection = selection.clone();
        let block = tokio::spawn(async move { selection.block(events, format).await });
        async move { Ok((passed, block.await??)) }
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
    // Sequences are dense, unless the log was restored to an earlier moment while it was read.
    if dense && stands != range.until { Err(ReplayError::Gone(stands + 1)) } else { Ok(()) }
}

fn is_broken_pipe(failure: &(dyn std::error::Error + 'static)) -> bool {
    failure.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
