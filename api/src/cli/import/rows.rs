//! The rows of a purchase history, read one by one.

use std::io::Read;

use chrono::{NaiveDate, NaiveTime, SecondsFormat};
use csv::{ByteRecord, Reader, ReaderBuilder, Terminator, Trim};
use domain::Currency;
use domain::commerce::MAX_QUANTITY;
use domain::money::MAX_AMOUNT;
use domain::text::{ExternalId, Line};

use crate::extract::ids::Moment;

/// The columns that a file must have.
const REQUIRED: [&str; 5] = ["customer", "placed_at", "quantity", "amount", "currency"];
/// The column that it may have.
const SKU: &str = "sku";
/// What is bought, where no column says.
const NO_SKU: &str = "item";

/// A line of the file: one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its number in the file; the header is 1.
    pub(super) line: u64,
    pub(super) customer: String,
    pub(super) placed_at: String,
    pub(super) quantity: i64,
    /// In minor units.
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) sku: String,
}

/// A row that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) line: u64,
    pub(super) column: &'static str,
    pub(super) why: String,
}

/// Reads the rows of a file.
pub(super) struct Rows<R> {
    reader: Reader<R>,
    record: ByteRecord,
    columns: [usize; 5],
    sku: Option<usize>,
}

impl<R: Read> Rows<R> {
    /// Reads the header; the error says what is wrong with it.
    pub(super) fn open(file: R) -> Result<Self, String> {
        // A line ends with its line feed, so that lines are counted right; a carriage return before it is trimmed away.
        let lines = Terminator::Any(b'\n');
        let mut reader = ReaderBuilder::new().flexible(true).trim(Trim::All).terminator(lines).from_reader(file);
        let header = reader.headers().map_err(|error| format!("line 1: {error}"))?.clone();
        let place = |name: &str| header.iter().position(|column| column == name);
        let mut columns = [0; 5];
        for (column, name) in columns.iter_mut().zip(REQUIRED) {
            *column = place(name).ok_or_else(|| format!("line 1: there is no column `{name}`"))?;
        }
        if let Some(unknown) = header.iter().find(|name| !REQUIRED.contains(name) && *name != SKU) {
            return Err(format!("line 1: the column `{unknown}` is unknown"));
        }
        Ok(Self { reader, record: ByteRecord::new(), columns, sku: place(SKU) })
    }

    /// How many bytes were read.
    pub(super) fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// The next row; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, csv::Error> {
        loop {
            if !self.reader.read_byte_record(&mut self.record)? {
                return Ok(None);
            }
            let blank = self.record.len() == 1 && self.record.get(0).is_some_and(<[u8]>::is_empty);
            if !blank {
                break;
            }
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some(self.row(line).map_err(|(column, why)| BadRow { line, column, why })))
    }

    fn row(&self, line: u64) -> Result<Row, (&'static str, String)> {
        let field = |index: usize| {
            let name = REQUIRED[index];
            let bytes = self.record.get(self.columns[index]).ok_or((name, "is missing".to_owned()))?;
            std::str::from_utf8(bytes).map_err(|_| (name, "is not UTF-8".to_owned()))
        };
        let customer = field(0)?;
        customer.parse::<ExternalId>().map_err(|error| ("customer", error.to_string()))?;
        let currency = field(4)?;
        let known: Currency = currency.parse().map_err(|_| ("currency", format!("`{currency}` is no currency")))?;
        let sku = match self.sku.and_then(|index| self.record.get(index)).filter(|sku| !sku.is_empty()) {
            Some(sku) => std::str::from_utf8(sku).map_err(|_| (SKU, "is not UTF-8".to_owned()))?,
            None => NO_SKU,
        };
        sku.parse::<Line>().map_err(|error| (SKU, error.to_string()))?;
        Ok(Row {
            line,
            customer: customer.to_owned(),
            placed_at: moment(field(1)?).map_err(|why| ("placed_at", why))?,
            quantity: quantity(field(2)?).map_err(|why| ("quantity", why))?,
            amount: minor_units(field(3)?, known.exponent()).map_err(|why| ("amount", why))?,
            currency: currency.to_owned(),
            sku: sku.to_owned(),
        })
    }
}

/// A time of RFC 3339, or a date, which is its midnight in UTC.
fn moment(text: &str) -> Result<String, String> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(NaiveTime::MIN).and_utc().to_rfc3339_opts(SecondsFormat::Secs, true));
    }
    match text.parse::<Moment>() {
        Ok(moment) => Ok(crate::resource::time(moment.0)),
        Err(_) => Err(format!("`{text}` is no time such as 1997-01-31T12:00:00Z, and no date such as 1997-01-31")),
    }
}

fn quantity(text: &str) -> Result<i64, String> {
    let parsed = text.parse().ok().filter(|quantity| (1..=MAX_QUANTITY).contains(quantity));
    parsed.ok_or_else(|| format!("`{text}` is no whole number from 1 to {MAX_QUANTITY}"))
}

/// `29.33` as 2933: exactly, never by way of a float.
fn minor_units(text: &str, exponent: u32) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no amount from 0 up with at most {exponent} digits after the point");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return Err(wrong());
    }
    let exponent = exponent as usize;
    let (kept, beyond) = fraction.split_at(fraction.len().min(exponent));
    if beyond.bytes().any(|byte| byte != b'0') {
        return Err(wrong());
    }
    let padded = format!("{whole}{kept:0<exponent$}");
    padded.parse().ok().filter(|amount| *amount <= MAX_AMOUNT).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Row, BadRow>> {
        let mut rows = Rows::open(text.as_bytes()).unwrap();
        std::iter::from_fn(|| rows.next().unwrap()).collect()
    }

    #[test]
    fn a_row_is_an_order() {
        let rows = read(
            "customer,placed_at,quantity,amount,currency\r\n7,1997-01-01T00:00:00Z,2,29.3,USD\r\n\r\n8,1997-01-02,1,0,JPY\r\n",
        );
        let row = |line, customer: &str, placed_at: &str, quantity, amount, currency: &str| Row {
            line,
            customer: customer.into(),
            placed_at: placed_at.into(),
            quantity,
            amount,
            currency: currency.into(),
            sku: "item".into(),
        };
        let expected = [
            Ok(row(2, "7", "1997-01-01T00:00:00Z", 2, 2930, "USD")),
            Ok(row(4, "8", "1997-01-02T00:00:00Z", 1, 0, "JPY")),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_bad_row_names_line_and_column_and_the_rest_goes_on() {
        let text = "currency,customer,placed_at,quantity,amount,sku\nUSD,7,never,2,1,a\nUSD,7,1997-01-01,0,1,a\n\
            USD,7,1997-01-01,1,1.234,a\nEURO,7,1997-01-01,1,1,a\nUSD,,1997-01-01,1,1,a\nUSD,7\nUSD,7,1997-01-01,1,1,cd\n";
        let rows = read(text);
        let bad: Vec<_> = rows.iter().filter_map(|row| row.as_ref().err()).map(|bad| (bad.line, bad.column)).collect();
        let expected =
            [(2, "placed_at"), (3, "quantity"), (4, "amount"), (5, "currency"), (6, "customer"), (7, "placed_at")];
        assert_eq!(bad, expected);
        assert_eq!(rows.last().unwrap().as_ref().unwrap().sku, "cd");
    }

    #[test]
    fn a_header_must_have_the_columns() {
        assert!(Rows::open(&b"customer,quantity\n"[..]).is_err_and(|why| why.contains("placed_at")));
        let strange = &b"customer,placed_at,quantity,amount,currency,colour\n"[..];
        assert!(Rows::open(strange).is_err_and(|why| why.contains("colour")));
    }

    #[test]
    fn amounts_are_exact() {
        for (text, exponent, minor) in
            [("0", 2, 0), ("29.33", 2, 2933), ("29.330", 2, 2933), ("1.5", 3, 1500), ("7", 0, 7), ("7.0", 0, 7)]
        {
            assert_eq!(minor_units(text, exponent), Ok(minor), "{text}");
        }
        for bad in ["", "-1", "1.", ".5", "1e3", "1,5", "1.001", "99999999999999999999", "+1"] {
            assert!(minor_units(bad, 2).is_err(), "{bad}");
        }
    }
}
