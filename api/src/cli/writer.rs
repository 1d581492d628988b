//! The one place that writes to the terminal. A reader that has gone away is no reason to panic.

use std::fmt::Arguments;
use std::io::Write;

/// A line of result.
pub(super) fn out(line: Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line about how it goes.
pub(super) fn err(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
