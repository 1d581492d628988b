//! Figures: each is measured some times and told as minimum, median and maximum; what counts is the ratio within a run.

use serde_json::{Value, json};

use crate::load::Measured;

/// Whom the ratios compare with.
pub const BASE: &str = "postgres-es";

/// Of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Appends, or events read.
    pub per_second: f64,
    /// Milliseconds: half of the appends took less, 99 in a hundred took less, the slowest. None where nothing waits.
    pub latency: Option<[f64; 3]>,
}

impl From<Measured> for Figures {
    fn from(mut measured: Measured) -> Self {
        assert!(!measured.latencies.is_empty(), "nothing was acknowledged while it counted");
        measured.latencies.sort_unstable();
        let at = |share: f64| {
            let index = ((measured.latencies.len() as f64 * share).ceil() as usize).clamp(1, measured.latencies.len());
            f64::from(measured.latencies[index - 1]) / 1_000.0
        };
        Self {
            per_second: measured.latencies.len() as f64 / measured.measured.as_secs_f64(),
            latency: Some([at(0.5), at(0.99), at(1.0)]),
        }
    }
}

/// Minimum, median and maximum.
#[derive(Clone, Copy, Debug)]
struct Spread {
    minimum: f64,
    median: f64,
    maximum: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let (minimum, maximum) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { minimum, median, maximum })
    }

    fn json(spread: Option<Self>) -> Value {
        spread.map_or(Value::Null, |s| json!({ "minimum": s.minimum, "median": s.median, "maximum": s.maximum }))
    }
}

/// One contender in one group, measured some times.
pub struct Row {
    contender: String,
    figures: Vec<Figures>,
    /// How often it did not keep up with the load.
    not_sustained: usize,
}

impl Row {
    fn measurements(&self) -> usize {
        self.figures.len() + self.not_sustained
    }

    fn per_second(&self) -> Option<Spread> {
        Spread::of(self.figures.iter().map(|f| f.per_second))
    }

    fn latency(&self, which: usize) -> Option<Spread> {
        Spread::of(self.figures.iter().filter_map(|f| f.latency.map(|latency| latency[which])))
    }
}

/// Contenders under the same load: `base` is whom the others are compared with.
pub struct Group {
    /// `new`, `hot`, …
    case: &'static str,
    /// `64 writers`, …
    load: String,
    base: &'static str,
    rows: Vec<Row>,
}

impl Group {
    /// With a row for each contender, none measured yet.
    pub fn new<'a>(case: &'static str, load: String, base: &'static str, of: impl Iterator<Item = &'a str>) -> Self {
        let row = |contender: &str| Row { contender: contender.to_owned(), figures: Vec::new(), not_sustained: 0 };
        Self { case, load, base, rows: of.map(row).collect() }
    }

    fn row(&mut self, contender: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.contender == contender).expect("a contender of the group")
    }

    pub fn take(&mut self, contender: &str, figures: Figures) {
        self.row(contender).figures.push(figures);
    }

    /// The same, and says so.
    pub fn add(&mut self, contender: &str, figures: Figures) {
        self.take(contender, figures);
        eprintln!(
            "    {} {}: {contender}: {:.0} a second{}",
            self.case,
            self.load,
            figures.per_second,
            figures.latency.map_or(String::new(), |[_, p99, _]| format!(", p99 {p99:.2} ms")),
        );
    }

    pub fn not_sustained(&mut self, contender: &str) {
        self.row(contender).not_sustained += 1;
        eprintln!("    {} {}: {contender}: not sustained", self.case, self.load);
    }

    fn base(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.contender == self.base)
    }

    /// How many times the base's median.
    fn ratio(&self, row: &Row, of: impl Fn(&Row) -> Option<Spread>) -> Option<f64> {
        Some(of(row)?.median / of(self.base()?)?.median)
    }

    /// Its part of the table.
    pub fn print(&self) {
        println!("\n{}, {} (x: of {})", self.case, self.load, self.base);
        println!(
            "{:<24}{:>10}{:>10}{:>10}{:>8}{:>10}{:>10}{:>8}{:>10}",
            "a second", "minimum", "median", "maximum", "x", "p50 ms", "p99 ms", "x", "max ms"
        );
        for row in &self.rows {
            if row.not_sustained > 0 {
                println!("{:<24}not sustained in {} of {}", row.contender, row.not_sustained, row.measurements());
            }
            let Some(rate) = row.per_second() else { continue };
            let median = |which| number(row.latency(which).map(|spread| spread.median));
            println!(
                "{:<24}{:>10.0}{:>10.0}{:>10.0}{:>8}{:>10}{:>10}{:>8}{:>10}",
                row.contender,
                rate.minimum,
                rate.median,
                rate.maximum,
                number(self.ratio(row, Row::per_second)),
                median(0),
                median(1),
                number(self.ratio(row, |row| row.latency(1))),
                number(row.latency(2).map(|spread| spread.maximum)),
            );
        }
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "contender": row.contender,
                "not_sustained": row.not_sustained,
                "per_second": Spread::json(row.per_second()),
                "p50_ms": Spread::json(row.latency(0)),
                "p99_ms": Spread::json(row.latency(1)),
                "max_ms": Spread::json(row.latency(2)),
                "ratio": {
                    "per_second": self.ratio(row, Row::per_second),
                    "p99": self.ratio(row, |row| row.latency(1)),
                },
            })
        });
        json!({ "case": self.case, "load": self.load, "base": self.base, "contenders": rows.collect::<Vec<_>>() })
    }
}

/// Two digits that say something.
fn number(figure: Option<f64>) -> String {
    figure.map_or(String::new(), |figure| if figure < 0.1 { format!("{figure:.3}") } else { format!("{figure:.2}") })
}
