//! Tenants: the customers of ours that everything belongs to.

mod tenant;

pub use tenant::{Tenant, TenantCommand, TenantError, TenantEvent};
