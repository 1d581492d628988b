//! `annals import`: a consumer of the public API. It streams: whatever the file's size, a few thousand rows are in memory.

mod client;
mod rows;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Failure;
use super::writer::err;
use client::{Client, Outcome};
use rows::{BadRow, Row, Rows};

/// How many rows are looked at together: their new customers are created before their orders.
const WINDOW: usize = 4_000;
/// How many items one request has at most, and about how many bytes.
const ITEMS: usize = 1_000;
const BYTES: usize = 600_000;
/// How many requests are in flight.
const REQUESTS: usize = 4;
/// How many customers are remembered as created (by a hash of their name); one that was forgotten is created again,
/// which changes nothing.
const REMEMBERED: usize = 4_000_000;

/// What `annals import orders` takes.
#[derive(Debug, Args)]
pub(super) struct Orders {
    /// The CSV file
    file: PathBuf,
    /// The API key; it needs commerce:write
    #[arg(long, env = "ANNALS_API_KEY", hide_env_values = true)]
    key: String,
    /// Where Annals is
    #[arg(long, env = "ANNALS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// Some rows, and the customers that are first seen in them, each with the line where that was.
#[derive(Default)]
struct Window {
    rows: Vec<Row>,
    customers: Vec<(u64, String)>,
    bad: Vec<BadRow>,
    position: u64,
}

#[derive(Serialize)]
struct NewCustomer {
    external_id: String,
}

#[derive(Serialize)]
struct NewOrder {
    external_id: String,
    customer: String,
    placed_at: String,
    currency: String,
    lines: [NewLine; 1],
}

#[derive(Serialize)]
struct NewLine {
    sku: String,
    quantity: i64,
    total: Money,
}

#[derive(Serialize)]
struct Money {
    amount: i64,
    currency: String,
}

/// How the import went so far.
#[derive(Default)]
struct Tally {
    created: u64,
    existing: u64,
    bad: u64,
    customers: u64,
}

/// Carries the import out.
pub(super) async fn run(arguments: Orders) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let name = file_name(&arguments.file)?;
    let client = Client::new(&arguments.url, &arguments.key)?;
    let file = File::open(&arguments.file).map_err(|error| format!("{name}: {error}"))?;
    let bar = progress(file.metadata()?.len());
    let rows = Rows::open(file).map_err(|why| format!("{name}: {why}"))?;
    let (sender, mut windows) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || read(rows, &sender));
    let mut import = Import { name, client, bar, room: Arc::new(Semaphore::new(REQUESTS)), tally: Tally::default() };
    let mut orders = JoinSet::new();
    while let Some(window) = windows.recv().await {
        import.take(window, &mut orders).await?;
    }
    while let Some(done) = orders.join_next().await {
        import.note(done??);
    }
    reading.await?.map_err(|error| format!("{}: {error}", import.name))?;
    import.bar.finish_and_clear();
    let Tally { created, existing, bad, customers } = import.tally;
    let seconds = begun.elapsed().as_secs_f64();
    err(format_args!(
        "{}: {created} orders and {customers} customers created, {existing} orders were there, {bad} rows refused, \
         in {seconds:.1} s",
        import.name
    ));
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn file_name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().ok_or_else(|| format!("{} is no file", path.display()))?;
    Ok(name.to_str().ok_or("the file's name is not UTF-8")?.to_owned())
}

fn progress(bytes: u64) -> ProgressBar {
    let template = "{bar:40} {percent:>3} %  {msg}  {elapsed}, {eta} to go";
    let bar = ProgressBar::new(bytes)
        .with_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Reads the file to its end, a window ahead of what is sent.
fn read(mut rows: Rows<File>, windows: &mpsc::Sender<Window>) -> Result<(), csv::Error> {
    let hasher = RandomState::new();
    let mut seen = HashSet::new();
    loop {
        let mut window = Window::default();
        while window.rows.len() + window.bad.len() < WINDOW {
            match rows.next()? {
                None => break,
                Some(Err(bad)) => window.bad.push(bad),
                Some(Ok(row)) => {
                    if seen.len() >= REMEMBERED {
                        seen.clear();
                    }
                    if seen.insert(hasher.hash_one(&row.customer)) {
                        window.customers.push((row.line, row.customer.clone()));
                    }
                    window.rows.push(row);
                }
            }
        }
        window.position = rows.position();
        let end = window.rows.len() + window.bad.len() < WINDOW;
        // Nobody receives any more where the import has failed.
        if windows.blocking_send(window).is_err() || end {
            return Ok(());
        }
    }
}

struct Import {
    name: String,
    client: Client,
    bar: ProgressBar,
    room: Arc<Semaphore>,
    tally: Tally,
}

/// What became of some orders: their lines, and how each went.
type Sent = (Vec<u64>, Vec<Outcome>);

impl Import {
    /// Creates the window's customers, then sets its orders going while the next window is taken.
    async fn take(&mut self, window: Window, orders: &mut JoinSet<Result<Sent, Failure>>) -> Result<(), Failure> {
        for BadRow { line, column, why } in window.bad {
            self.refuse(line, column, &why);
        }
        self.create_customers(window.customers).await?;
        for chunk in chunks(window.rows) {
            let permit = self.room.clone().acquire_owned().await?;
            let (client, name) = (self.client.clone(), self.name.clone());
            orders.spawn(async move {
                let _permit = permit;
                let lines = chunk.iter().map(|row| row.line).collect();
                let items: Vec<NewOrder> = chunk.into_iter().map(|row| order(&name, row)).collect();
                Ok((lines, client.send("/orders/batch", &items).await?))
            });
        }
        self.bar.set_position(window.position);
        while let Some(done) = orders.try_join_next() {
            self.note(done??);
        }
        Ok(())
    }

    async fn create_customers(&mut self, customers: Vec<(u64, String)>) -> Result<(), Failure> {
        let mut batches = JoinSet::new();
        for chunk in customers.chunks(ITEMS) {
            let permit = self.room.clone().acquire_owned().await?;
            let client = self.client.clone();
            let lines: Vec<u64> = chunk.iter().map(|(line, _)| *line).collect();
            let items: Vec<_> = chunk.iter().map(|(_, name)| NewCustomer { external_id: name.clone() }).collect();
            batches.spawn(async move {
                let _permit = permit;
                Ok::<Sent, Failure>((lines, client.send("/customers/batch", &items).await?))
            });
        }
        while let Some(done) = batches.join_next().await {
            let (lines, outcomes) = done??;
            for (line, outcome) in lines.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Created => self.tally.customers += 1,
                    Outcome::Existing => {}
                    // Its orders will be refused too, and each is told.
                    Outcome::Refused { why, .. } => self.tell(line, "customer", &why),
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, (lines, outcomes): Sent) {
        for (line, outcome) in lines.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Created => self.tally.created += 1,
                Outcome::Existing => self.tally.existing += 1,
                Outcome::Refused { pointer, why } => self.refuse(line, column(&pointer), &why),
            }
        }
        self.bar.set_message(format!("{} orders", self.tally.created + self.tally.existing));
    }

    fn refuse(&mut self, line: u64, column: &str, why: &str) {
        self.tally.bad += 1;
        self.tell(line, column, why);
    }

    fn tell(&self, line: u64, column: &str, why: &str) {
        self.bar.suspend(|| err(format_args!("{}: line {line}, column {column}: {why}", self.name)));
    }
}

/// Rows that go into one request each.
fn chunks(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut chunks: Vec<Vec<Row>> = Vec::new();
    let mut bytes = BYTES;
    for row in rows {
        let size = 300 + row.customer.len() + row.sku.len();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < ITEMS && bytes + size <= BYTES => {
                bytes += size;
                chunk.push(row);
            }
            _ => {
                bytes = size;
                chunks.push(vec![row]);
            }
        }
    }
    chunks
}

fn order(name: &str, row: Row) -> NewOrder {
    let total = Money { amount: row.amount, currency: row.currency.clone() };
    NewOrder {
        external_id: format!("{name}:{}", row.line),
        customer: format!("ext:{}", row.customer),
        placed_at: row.placed_at,
        currency: row.currency,
        lines: [NewLine { sku: row.sku, quantity: row.quantity, total }],
    }
}

/// The column that a field of an order came from.
fn column(pointer: &str) -> &'static str {
    let columns = [
        ("/placed_at", "placed_at"),
        ("/customer", "customer"),
        ("/lines/0/quantity", "quantity"),
        ("/lines/0/sku", "sku"),
        ("/lines/0", "amount"),
        ("/currency", "currency"),
    ];
    columns.iter().find(|(field, _)| pointer.starts_with(field)).map_or("customer", |(_, column)| column)
}
