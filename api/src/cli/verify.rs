//! `annals verify-log`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use domain::TenantId;
use eventstore::verify::{Told, Violation};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Failure;
use super::writer::{err, out};
use crate::config::Config;
use crate::resource::to_json;

/// The most violations that are named; the others are counted.
const NAMED: u64 = 100;

/// Verifies the log, names on stderr what is wrong, and prints what the log is.
pub(super) async fn log(config: &Config) -> Result<ExitCode, Failure> {
    let (begun, bar) = (Instant::now(), progress());
    let mut found = 0;
    let mut tell = |told| match told {
        Told::Events(count) => bar.set_length(count.try_into().unwrap_or_default()),
        Told::Passed(position) => bar.set_position(position.try_into().unwrap_or_default()),
        Told::Found(violation) => {
            found += 1;
            if found <= NAMED {
                bar.suspend(|| err(format_args!("annals: {}", in_words(&violation))));
            }
        }
    };
    let summary = eventstore::verify::verify(&config.log, &mut tell).await?;
    bar.finish_and_clear();
    if found > NAMED {
        err(format_args!("annals: and {} more", found - NAMED));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut shown = json!({ "object": "log_verification", "ok": found == 0 });
    if let (Some(shown), serde_json::Value::Object(summary)) = (shown.as_object_mut(), to_json(&summary)) {
        shown.extend(summary);
        shown.insert("seconds".into(), json!((seconds * 1_000.0).round() / 1_000.0));
    }
    out(format_args!("{shown}"));
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_words(violation: &Violation) -> String {
    let Violation { position, tenant, sequence, what } = violation;
    let place = [
        position.map(|position| format!("position {position}")),
        tenant.map(|tenant| TenantId::from(tenant).to_string()),
        sequence.map(|sequence| format!("sequence {sequence}")),
    ];
    let place: Vec<_> = place.into_iter().flatten().collect();
    if place.is_empty() { what.clone() } else { format!("{}: {what}", place.join(", ")) }
}

/// A bar for a walk over the log.
pub(super) fn progress() -> ProgressBar {
    let template = "{bar:40} {percent:>3} %  {pos} events  {per_sec}  {elapsed}, {eta} to go";
    let bar =
        ProgressBar::new(0).with_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
