//! The command line. Results go to stdout as JSON, everything else to stderr.

mod admin;
mod import;
mod processes;
mod projections;
mod replay;
mod schema;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use domain::TenantId;
use eventstore::chain;

use crate::app::{App, RunningApp};
use crate::config::{Config, Roles, SETTINGS};
use crate::telemetry;

use writer::{err, out};

/// What went wrong, for people.
type Failure = Box<dyn Error + Send + Sync>;

/// Annals: an event-sourced backend. Every change is an event that is stored once, in order, for good.
///
/// One binary does everything: `annals all` runs the whole house in one process; `serve`, `relay`, `project` and `work`
/// run its parts apart, any number of each. Settings come from the environment (`annals config --help` lists them).
#[derive(Debug, Parser)]
#[command(name = "annals", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in this process: API, relay, projectors, process managers
    ///
    /// Ends in good order on SIGTERM or Ctrl-C: takes no more requests, finishes those in flight (20 s at most), then
    /// what its other parts have in hand.
    All,
    /// Answer the API
    Serve,
    /// Publish the log to Kafka
    ///
    /// One process publishes at a time; others stand by and take over when it ends.
    Relay,
    /// Keep the read models that lists and reports are answered from
    ///
    /// Fed by Kafka where ANNALS_KAFKA_BROKERS is set, else by the log itself.
    Project,
    /// Run what waits for moments: renewals, runs of agents, erasures, clocks of test tenants
    ///
    /// Any number of processes share the work; where one ends or hangs, the others go on within seconds.
    Work,
    /// Bring the databases to the schema of this binary, and end
    ///
    /// Needs ANNALS_OWNER_PASSWORD. Safe to repeat, and to run beside a process of the version before.
    Migrate,
    /// Walk over the log and check every promise that it makes
    ///
    /// Order and density of positions, sequences and versions; payloads against the schemas of their versions; hashes,
    /// heads, and what stands beside the events. It only reads: beside a house that goes on, on a standby, on a restored
    /// backup. Prints what the log is as JSON and names on stderr what is wrong; then the exit code is 1.
    VerifyLog,
    /// The projectors that keep lists and reports: look at them, mend them, make their rows anew
    #[command(subcommand)]
    Projections(projections::Projections),
    /// What waits for a moment: erasures, renewals, runs, test clocks
    #[command(subcommand)]
    Processes(processes::Processes),
    /// What the log holds, and what this program knows of it
    #[command(subcommand)]
    Schema(Schema),
    /// Write a tenant's history to files for analysts: lines of JSON, CSV, or Parquet
    ///
    /// A manifest beside them (FILE.manifest.json, FOLDER/manifest.json), which is also printed, has sequences, counts, and
    /// the SHA-256 of each file. The same call with --until gives the same bytes, whenever it is made, until somebody in
    /// them is erased. Memory does not grow with the log, and a file appears under its name when it is whole.
    Replay(replay::Replay),
    /// Print the settings in force, secrets masked
    #[command(after_help = settings_help())]
    Config,
    /// Make tenants
    #[command(subcommand)]
    Tenants(Tenants),
    /// Make API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Bring data in, through the HTTP API of a running Annals
    #[command(subcommand)]
    Import(Import),
}

#[derive(Debug, Subcommand)]
enum Tenants {
    /// Make a tenant, and print it as JSON
    ///
    /// Its first event, `tenant.created`, opens its log.
    Create {
        /// What it is called
        #[arg(long)]
        name: String,
        /// It is for tests: it has a clock that can be advanced (POST /api/v1/test-clock)
        #[arg(long)]
        test: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Make an API key, and print it as JSON: this once, for only a hash of it is kept
    #[command(after_help = scopes_help())]
    Create {
        /// The tenant that it belongs to: ten_…
        #[arg(long)]
        tenant: TenantId,
        /// What it is called
        #[arg(long)]
        name: String,
        /// What it may do; may be given more than once
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// When it stops working, in RFC 3339; never, if absent
        #[arg(long)]
        expires_at: Option<crate::extract::ids::Moment>,
    },
}

#[derive(Debug, Subcommand)]
enum Schema {
    /// Count the log's events by type and version, and name those that this program can't read
    ///
    /// Before a rollout back to an older program: what a newer one has written pauses the older. Prints JSON; where
    /// anything is unknown, it is named on stderr and the exit code is 1.
    Check,
    /// Print the JSON schema of an event, what it says, and how earlier versions of it are read
    ///
    /// Needs no settings.
    Show {
        /// Its type, as stored: order.placed
        #[arg(value_name = "TYPE")]
        name: String,
        /// In this version; the newest, if absent
        #[arg(long)]
        version: Option<i32>,
    },
}

#[derive(Debug, Subcommand)]
enum Import {
    /// Bring a purchase history in: a CSV file with the columns customer, placed_at, quantity, amount, currency
    ///
    /// Each line is one order. A customer is created when its name is first seen, with that name as `external_id`; an
    /// order's `external_id` is `<file name>:<line number>`, so the import can be run again: what is there is done.
    /// `placed_at` is a time of RFC 3339 or a date (midnight UTC); `amount` is what the whole line cost, as a decimal; a
    /// column `sku` may say what was bought. A bad row is told with line and column, and the rest goes on; then the exit
    /// code is 1.
    Orders(import::Orders),
}

fn settings_help() -> String {
    let lines = SETTINGS.iter().map(|setting| {
        let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        format!("  {:<30} {}{default}", setting.name, setting.about)
    });
    format!("Settings:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

fn scopes_help() -> String {
    let lines = domain::names::SCOPES.iter().map(|scope| format!("  {:<16} {}", scope.name, scope.about));
    format!("Scopes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// How long threads that still compute are waited for at the end.
const LINGERS: Duration = Duration::from_secs(2);

/// Does what the arguments say.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            err(format_args!("annals: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(carry_out(cli.command)).unwrap_or_else(|error| {
        err(format_args!("annals: {}", chain(error.as_ref())));
        ExitCode::FAILURE
    });
    // A thread that computes can't be broken off, and nobody is left to hear what it finds.
    runtime.shutdown_timeout(LINGERS);
    telemetry::end_logs();
    code
}

async fn carry_out(command: Command) -> Result<ExitCode, Failure> {
    let only = Roles::default();
    match command {
        Command::All => run_roles(Roles::ALL).await?,
        Command::Serve => run_roles(Roles { serve: true, ..only }).await?,
        Command::Relay => run_roles(Roles { relay: true, ..only }).await?,
        Command::Project => run_roles(Roles { project: true, ..only }).await?,
        Command::Work => run_roles(Roles { work: true, ..only }).await?,
        Command::Migrate => {
            let config = Config::from_env()?;
            eventstore::migrate::run(&config.log, &config.read).await?;
            err(format_args!("annals: the databases have the schema of version {}", env!("CARGO_PKG_VERSION")));
        }
        Command::VerifyLog => return verify::log(&Config::from_env()?).await,
        Command::Processes(command) => return processes::run(&Config::from_env()?, command).await,
        Command::Projections(command) => return projections::run(&Config::from_env()?, command).await,
        Command::Schema(Schema::Check) => return schema::check(&Config::from_env()?).await,
        Command::Schema(Schema::Show { name, version }) => schema::show(&name, version)?,
        Command::Replay(replay) => return replay::run(replay, until_stopped()).await,
        Command::Config => show_config()?,
        Command::Tenants(Tenants::Create { name, test }) => {
            admin::create_tenant(&Config::from_env()?, &name, test).await?;
        }
        Command::Keys(Keys::Create { tenant, name, scopes, expires_at }) => {
            let expires_at = expires_at.map(|moment| moment.0);
            admin::create_key(&Config::from_env()?, tenant, &name, scopes, expires_at).await?;
        }
        Command::Import(Import::Orders(orders)) => return import::run(orders).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs until a signal ends it.
async fn run_roles(roles: Roles) -> Result<(), Failure> {
    let config = Config { roles, ..Config::from_env()? };
    telemetry::start_logs(&config.log_filter, config.log_format);
    let app = App::start(config).await?;
    until_signal().await?;
    stop(app).await;
    Ok(())
}

/// Ends in good order; a second signal ends at once.
async fn stop(app: RunningApp) {
    tracing::info!("stopping");
    tokio::select! {
        () = app.stop() => {}
        _ = until_signal() => tracing::warn!("stopped at once"),
    }
}

/// Until a signal comes; for ever where none can be waited for.
async fn until_stopped() {
    if until_signal().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until_signal() -> Result<(), std::io::Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn show_config() -> Result<(), Failure> {
    let variables: BTreeMap<_, _> = std::env::vars().collect();
    for (setting, value, set) in Config::in_force(&variables) {
        let origin = match (set, value.is_empty()) {
            (true, _) => "set",
            (false, false) => "default",
            (false, true) => "not set",
        };
        out(format_args!("{:<30} {value:<40} {origin}", setting.name));
    }
    Config::from_env()?;
    Ok(())
}
