//! Adapters to the outside world: one folder a port, one file a provider. All of them go through the egress port.

pub(crate) mod agents;
