//! Load on a running Annals, over HTTP as its users have it. Every figure is of one run; compare within a run.

mod orders;
mod provider;
mod runs;
mod timers;
mod user;
mod year;

use clap::{Parser, Subcommand};
use user::User;

/// Measures a running Annals over HTTP.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    what: What,
}

/// Where Annals is, and who asks.
#[derive(clap::Args)]
struct At {
    /// Where Annals is.
    #[arg(long, env = "ANNALS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A key for everything.
    #[arg(long, env = "ANNALS_KEY", hide_env_values = true)]
    key: String,
    /// A key for everything, of a tenant that was made for tests.
    #[arg(long, env = "ANNALS_TEST_KEY", hide_env_values = true)]
    test_key: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Single `POST /orders`, and from there to `GET /orders` with `Annals-Min-Sequence`
    Orders(orders::Orders),
    /// `POST /agents/{id}/execute`: until the provider has the first byte, and how many a second are done
    Runs(runs::Runs),
    /// A year of monthly subscriptions passes by `POST /test-clock`
    Year(year::Year),
    /// Many subscriptions that are due in one second
    Timers(timers::Timers),
}

#[tokio::main]
async fn main() {
    let Arguments { at, what } = Arguments::parse();
    let user = User::new(&at.url, &at.key);
    match what {
        What::Orders(orders) => orders.measure(user).await,
        What::Runs(runs) => runs.measure(user).await,
        What::Year(year) => {
            let key = at.test_key.expect("ANNALS_TEST_KEY: a year can only pass for a test tenant");
            year.measure(User::new(&at.url, &key)).await;
        }
        What::Timers(timers) => timers.measure(user).await,
    }
}
