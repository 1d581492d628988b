//! The facts behind the reports.
