//! `annals projections`: what operators do with read models.

use std::process::ExitCode;
use std::time::Duration;

use ::projections::Operator;
use clap::Subcommand;
use domain::AnyId;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::writer::{err, out};
use super::{Failure, until_signal};
use crate::app::open_executor;
use crate::config::Config;
use crate::operations::shown_parked;
use crate::resource::to_json;

/// How many parked streams are shown.
const SHOWN: i64 = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Projections {
    /// Show every projector: how far it is behind, what it has parked, which processes have its slots
    List,
    /// Show one, with its parked streams, the longest waiting first
    Show {
        /// Its name, as `annals projections list` has it
        name: String,
    },
    /// Try parked streams again, each from the event on that could not be applied
    ///
    /// After the projector was mended and deployed. A projector that had paused itself goes on, too. What can't be
    /// applied still stays parked; then the exit code is 1.
    Retry {
        /// Its name
        name: String,
        /// Only this stream: its id, such as ord_…
        #[arg(long)]
        stream: Option<AnyId>,
    },
    /// Make the rows anew from the log, beside those that are read, and read them once they are as far
    ///
    /// A process that projects does it, or else this one; the bar shows how far it is. Ctrl-C leaves it to the others: it
    /// goes on where it was left. Nobody sees it half done, and nobody reads backwards.
    Rebuild {
        /// Its name
        name: String,
    },
    /// Have it stop, in every process, within about a second; its lists and reports grow old
    Pause {
        /// Its name
        name: String,
    },
    /// Have it go on
    Resume {
        /// Its name
        name: String,
    },
    /// Make the rows once more and compare them with those that are read, row by row
    ///
    /// Live work goes on meanwhile. Prints what was compared; where rows differ, the exit code is 1.
    Verify {
        /// Its name
        name: String,
    },
}

/// Does what the arguments say.
pub(super) async fn run(config: &Config, command: Projections) -> Result<ExitCode, Failure> {
    let executor = open_executor(config).await?;
    let store = executor.store().clone();
    let operator = Operator::connect(store.clone(), &config.read)?;
    let done = carry_out(&operator, command).await;
    store.close().await;
    done
}

async fn carry_out(operator: &Operator, command: Projections) -> Result<ExitCode, Failure> {
    let shown = match command {
        Projections::List => json!({ "object": "list", "data": operator.list().await? }),
        Projections::Show { name } => show(operator, &name).await?,
        Projections::Retry { name, stream } => {
            let retried = operator.retry(&name, stream.map(|stream| stream.uuid())).await?;
            out(format_args!("{}", to_json(retried)));
            return Ok(if retried.parked == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Projections::Rebuild { name } => rebuild(operator, &name).await?,
        Projections::Pause { name } => {
            operator.pause(&name).await?;
            show(operator, &name).await?
        }
        Projections::Resume { name } => {
            operator.resume(&name).await?;
            show(operator, &name).await?
        }
        Projections::Verify { name } => {
            let verified = operator.verify(&name, &CancellationToken::new()).await?;
            out(format_args!("{}", to_json(&verified)));
            return Ok(if verified.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    };
    out(format_args!("{shown}"));
    Ok(ExitCode::SUCCESS)
}

async fn show(operator: &Operator, name: &str) -> Result<Value, Failure> {
    let mut shown = to_json(&operator.show(name).await?);
    let parked = operator.parked(name, SHOWN).await?;
    shown["parked_streams"] = parked.iter().map(shown_parked).collect();
    Ok(shown)
}

/// Asks for new rows, takes part in making them, and shows how far they are.
async fn rebuild(operator: &Operator, name: &str) -> Result<Value, Failure> {
    let generation = operator.rebuild(name).await?;
    let stop = CancellationToken::new();
    let builder = tokio::spawn({
        let (operator, name, stop) = (operator.clone(), name.to_owned(), stop.clone());
        async move {
            // Whoever has begun may die: then this process goes on.
            while !stop.is_cancelled() {
                operator.build(&name, generation, &stop).await?;
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
            }
            Ok::<_, ::projections::OperatorError>(())
        }
    });
    let bar = super::verify::progress();
    let mut signal = std::pin::pin!(until_signal());
    let report = loop {
        let report = operator.show(name).await?;
        match report.building.as_ref().filter(|building| building.generation == generation) {
            Some(building) => {
                bar.set_length(building.end.try_into().unwrap_or_default());
                bar.set_position(building.position.try_into().unwrap_or_default());
            }
            None => break report,
        }
        tokio::select! {
            told = &mut signal => {
                told?;
                err(format_args!("annals: left to the processes that project"));
                break report;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    };
    bar.finish_and_clear();
    stop.cancel();
    builder.await??;
    Ok(to_json(&report))
}
