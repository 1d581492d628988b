//! Tenants: the customers of ours that everything belongs to.

mod tenant;
mod test_clock;

pub use tenant::{Tenant, TenantCommand, TenantError, TenantEvent};
pub use test_clock::{FURTHEST, TestClock, TestClockCommand, TestClockError, TestClockEvent, TestClockStatus};
