//! What agents are doing, and how well.

pub mod metrics;
pub mod runs;

#[cfg(test)]
mod tests;
