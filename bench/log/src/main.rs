//! The log beside its peers, on one server in one run. A figure is a ratio within the run.

mod annals;
mod big;
mod closed;
mod event;
mod fill;
mod load;
mod open;
mod peer;
mod pgbench;
mod report;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use closed::Contender;
use load::{Kind, Timing};
use report::Group;
use serde_json::json;
use server::Server;

// The product's own; every contender has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the log beside postgres-es and pgbench's one insert a commit, all on the same server with the same event of
/// 300 bytes. Every measurement begins with a database of its own and ends with a count: the run fails where a store
/// has not just what it has acknowledged.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: Server,
    /// What to measure; everything if absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    /// Whom to measure, where there is a choice.
    #[arg(long, value_delimiter = ',', default_values = ["annals", "postgres-es", "pgbench"])]
    contenders: Vec<Contender>,
    /// How many writers, each with one append at a time [default: 1,8,64,256; 64 if quick].
    #[arg(long, value_delimiter = ',')]
    writers: Vec<usize>,
    /// How long each measurement takes, in seconds [default: 5; 2 if quick].
    #[arg(long)]
    seconds: Option<f64>,
    /// How long goes before it uncounted, in seconds [default: 1; 0.5 if quick].
    #[arg(long)]
    warm_up: Option<f64>,
    /// How often each is measured; contenders take turns [default: 3; 1 if quick].
    #[arg(long)]
    repeats: Option<usize>,
    /// Appends a second in the open loop.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000, 10_000])]
    rates: Vec<u64>,
    /// How many events are in the large log [default: 10000000; 1000000 if quick]. Ten million take 12 GB while they
    /// are made.
    #[arg(long)]
    events: Option<u64>,
    /// A short run, for a first look.
    #[arg(long)]
    quick: bool,
    /// Also writes the figures to this file; `./dev` is in the repository while it runs.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the server's data is, for the heading.
    #[arg(long, env = "BENCH_PLACE", default_value = "unknown", hide = true)]
    place: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The first event of a new stream.
    New,
    /// One more event of one of 1,000 streams: load, decide, append.
    Hot,
    /// New streams at a fixed rate, latency from the moment at which an append should have begun.
    Open,
    /// Appends to a large log and to an empty one.
    Size,
    /// All events of a large log, each as its domain type.
    Replay,
}

impl Arguments {
    fn measures(&self, case: Case) -> bool {
        self.only.is_empty() || self.only.contains(&case)
    }

    fn writers(&self) -> &[usize] {
        match &self.writers[..] {
            [] if self.quick => &[64],
            [] => &[1, 8, 64, 256],
            writers => writers,
        }
    }

    fn timing(&self) -> Timing {
        let seconds = |given: Option<f64>, quick, full| {
            Duration::from_secs_f64(given.unwrap_or(if self.quick { quick } else { full }))
        };
        Timing { warm_up: seconds(self.warm_up, 0.5, 1.0), measured: seconds(self.seconds, 2.0, 5.0) }
    }

    fn events(&self) -> u64 {
        self.events.unwrap_or(if self.quick { 1_000_000 } else { 10_000_000 })
    }

    fn repeats(&self) -> usize {
        self.repeats.unwrap_or(if self.quick { 1 } else { 3 })
    }
}

#[tokio::main]
async fn main() {
    let filter = tracing_subscriber::EnvFilter::new("warn,sqlx=error");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let server = &arguments.server;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = server.version().await;
    println!("PostgreSQL {version}, its data {}; {cores} cores for it and its clients", arguments.place);
    server.prepare().await;
    let groups = measure(&arguments).await;
    if let Some(file) = &arguments.json {
        let (timing, repeats) = (arguments.timing(), arguments.repeats());
        let all = json!({
            "postgresql": version,
            "data": arguments.place,
            "cores": cores,
            "payload_bytes": event::PAYLOAD_BYTES,
            "seconds": timing.measured.as_secs_f64(),
            "warm_up_seconds": timing.warm_up.as_secs_f64(),
            "repeats": repeats,
            "events": arguments.events(),
            "groups": groups.iter().map(Group::json).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&all).expect("figures");
        std::fs::write(file, text + "\n").expect("a file for the figures");
    }
}

async fn measure(arguments: &Arguments) -> Vec<Group> {
    let (server, timing, repeats) = (&arguments.server, arguments.timing(), arguments.repeats());
    let mut groups = Vec::new();
    for (case, kind) in [(Case::New, Kind::New), (Case::Hot, Kind::Hot)] {
        if arguments.measures(case) {
            let contenders = &arguments.contenders;
            groups.extend(closed::measure(server, contenders, kind, arguments.writers(), repeats, timing).await);
        }
    }
    if arguments.measures(Case::Open) {
        groups.extend(open::measure(server, &arguments.contenders, &arguments.rates, repeats, timing).await);
    }
    let wanted = big::Wanted { append: arguments.measures(Case::Size), replay: arguments.measures(Case::Replay) };
    if wanted.append || wanted.replay {
        groups.extend(big::measure(server, wanted, arguments.events(), repeats, timing).await);
    }
    groups
}
