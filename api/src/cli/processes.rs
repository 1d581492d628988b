//! `annals processes`: what waits for a moment, of all tenants.

use std::process::ExitCode;

use clap::Subcommand;
use commands::Executor;
use domain::{AnyId, TenantId, TypedId};
use eventstore::WaitingFilter;
use serde_json::{Value, json};

use super::Failure;
use super::writer::out;
use crate::app::open_executor;
use crate::config::Config;
use crate::operations::{ProcessId, ProcessKind, show, waiting};
use crate::resource::to_json;

#[derive(Debug, Subcommand)]
pub(super) enum Processes {
    /// Show what waits, the longest due first: where it stands, what it waits for, and who is at it
    List {
        /// Only of this kind
        #[arg(long)]
        kind: Option<ProcessKind>,
        /// Only of this tenant: ten_…
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only those whose moment has come and whom nobody is at
        #[arg(long)]
        overdue: bool,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: u16,
    },
    /// Show one, with its last steps: what caused each, and what came of what it wanted done
    Show {
        /// Its id: era_…, sub_…, run_… or clk_…; an erasure also by its request, prq_…
        id: AnyId,
        /// Its tenant: ten_…; need not be said where it waits for a moment
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

/// Does what the arguments say.
pub(super) async fn run(config: &Config, command: Processes) -> Result<ExitCode, Failure> {
    let executor = open_executor(config).await?;
    let shown = carry_out(&executor, command).await;
    executor.store().close().await;
    out(format_args!("{}", shown?));
    Ok(ExitCode::SUCCESS)
}

async fn carry_out(executor: &Executor, command: Processes) -> Result<Value, Failure> {
    match command {
        Processes::List { kind, tenant, overdue, limit } => {
            let (tenant, kinds) = (tenant.map(|tenant| tenant.uuid()), ProcessKind::wanted(kind));
            let filter = WaitingFilter { tenant, kinds, stream: None, overdue };
            let found = waiting(executor, &filter, None, limit.into()).await?;
            let data: Vec<_> = found.into_iter().map(|(report, _)| report).collect();
            Ok(json!({ "object": "list", "data": data }))
        }
        Processes::Show { id, tenant } => {
            let process =
                ProcessId::of(&id).ok_or_else(|| format!("`{id}` is no process: era_…, sub_…, run_…, clk_…"))?;
            let tenant = match tenant {
                Some(tenant) => tenant,
                None => tenant_of(executor, process).await?.ok_or("it waits for nothing: say --tenant, too")?,
            };
            let shown = show(executor, tenant, process).await?;
            Ok(to_json(shown.ok_or_else(|| format!("{tenant} has no process {id}"))?))
        }
    }
}

/// Whose it is, as what is due tells.
async fn tenant_of(executor: &Executor, process: ProcessId) -> Result<Option<TenantId>, Failure> {
    let filter = WaitingFilter {
        kinds: vec![process.kind.stream().name],
        stream: Some(process.stream),
        ..WaitingFilter::default()
    };
    let found = executor.store().waiting(&filter, None, 1).await?;
    Ok(found.first().map(|waiting| TenantId::from(waiting.tenant)))
}
