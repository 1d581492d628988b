//! Tenants, as far as they see themselves: `/test-clock`.

mod test_clock;

pub use test_clock::operations;
