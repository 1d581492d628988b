//! Which events a replay has, and how each of them is shown.

use std::collections::BTreeSet;

use commands::Vault;
use domain::audit::ReplayFormat;
use domain::{TenantId, TypedId};
use eventstore::{EventFilter, RecordedEvent};
use serde_json::Value;

use super::ReplayError;
use super::condition::Condition;
use super::sink::Block;
use crate::audit::shown_data;

/// How many names are told in the place of one that is none.
const NEAR: usize = 5;

/// What is asked for.
pub struct Selection {
    /// Whose history.
    pub tenant: TenantId,
    /// Only these types; all, if none are named.
    pub types: Option<BTreeSet<&'static str>>,
    /// Only those of which this is true.
    pub condition: Option<Condition>,
    /// What becomes of personal values.
    pub personal: Personal,
}

/// What becomes of personal values.
pub enum Personal {
    /// Null.
    Null,
    /// Opened, as far as there are keys.
    Opened(Vault),
}

/// An event, and what it says as it is shown.
pub(super) struct Shown {
    pub(super) event: RecordedEvent,
    pub(super) data: Data,
}

/// What an event says.
pub(super) enum Data {
    /// Nothing any more: it was removed.
    Gone,
    /// Its payload as it is stored: nothing in it is personal.
    Stored,
    /// This, personal values opened or null.
    Value(Value),
}

impl Shown {
    /// What it says, as a value.
    pub(super) fn value(&self) -> Value {
        match &self.data {
            Data::Gone => Value::Null,
            Data::Stored => shown_data(&self.event),
            Data::Value(value) => value.clone(),
        }
    }
}

/// A name that is that of no type, and those that are near.
#[derive(Debug, thiserror::Error)]
#[error("there is no event type `{name}`; near it are {}", near(name).join(", "))]
pub struct UnknownType {
    name: String,
}

/// The types that are meant by names, and by the beginnings of names that end with a dot; none where none is named.
pub fn wanted(names: &[String]) -> Result<Option<BTreeSet<&'static str>>, UnknownType> {
    let mut types = BTreeSet::new();
    for name in names {
        let meant = |known: &str| known == name || (name.ends_with('.') && known.starts_with(name));
        let found: Vec<_> = domain::catalogue().into_iter().filter(|kind| meant(kind.name)).collect();
        if found.is_empty() {
            return Err(UnknownType { name: name.clone() });
        }
        types.extend(found.into_iter().map(|kind| kind.name));
    }
    Ok(if names.is_empty() { None } else { Some(types) })
}

/// The names that are most like one that is none.
pub fn near(name: &str) -> Vec<String> {
    let mut names: Vec<_> = domain::catalogue().iter().map(|kind| kind.name).collect();
    names.sort_by(|a, b| strsim::jaro_winkler(name, b).total_cmp(&strsim::jaro_winkler(name, a)));
    names.into_iter().take(NEAR).map(|name| format!("`{name}`")).collect()
}

impl Selection {
    /// The one type that is wanted, if it is one.
    pub fn only_type(&self) -> Option<&'static str> {
        let types = self.types.as_ref()?;
        if types.len() == 1 { types.first().copied() } else { None }
    }

    /// Their names.
    pub fn types_named(&self) -> Option<Vec<String>> {
        self.types.as_ref().map(|types| types.iter().map(|name| (*name).to_owned()).collect())
    }

    /// What the log is asked for.
    pub fn filter(&self) -> EventFilter {
        EventFilter { event_type: self.only_type().map(str::to_owned), stream: None }
    }

    /// Some events, encoded as far as they are wanted. It computes for long: not on a thread that answers requests.
    pub async fn block(&self, events: Vec<RecordedEvent>, format: ReplayFormat) -> Result<Block, ReplayError> {
        Block::of(self.select(events).await?, format)
    }

    /// Those of some events that are wanted, as they are shown.
    async fn select(&self, events: Vec<RecordedEvent>) -> Result<Vec<Shown>, ReplayError> {
        let wanted = |event: &RecordedEvent| self.types.as_ref().is_none_or(|types| types.contains(&*event.event_type));
        let mut all: Vec<_> = events.into_iter().filter(wanted).map(shown).collect();
        self.personal.show(self.tenant, &mut all).await?;
        match &self.condition {
            Some(condition) => condition.passing(all),
            None => Ok(all),
        }
    }
}

/// An event with its personal values still sealed.
fn shown(event: RecordedEvent) -> Shown {
    let data = match event.payload.as_deref() {
        None => Data::Gone,
        // Every key of the house's own begins so, and in a text of somebody's the quote would be escaped. A line is a line.
        Some(payload) if !payload.contains("\"$") && !payload.contains('\n') => Data::Stored,
        Some(_) => Data::Value(shown_data(&event)),
    };
    Shown { event, data }
}

impl Personal {
    async fn show(&self, tenant: TenantId, all: &mut [Shown]) -> Result<(), ReplayError> {
        let mut values: Vec<_> = all
            .iter_mut()
            .filter_map(|shown| match &mut shown.data {
                Data::Value(value) => Some(value),
                Data::Gone | Data::Stored => None,
            })
            .collect();
        values.iter_mut().for_each(|value| Vault::hide_secrets(value));
        match self {
            Self::Null => values.into_iter().for_each(Vault::mask),
            Self::Opened(vault) => {
                // All at once: the log is asked once where their keys are.
                let mut together = Value::Array(values.iter_mut().map(|value| value.take()).collect());
                vault.open_value(tenant.uuid(), &mut together).await?;
                if let Value::Array(opened) = together {
                    values.into_iter().zip(opened).for_each(|(value, opened)| *value = opened);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_named_or_what_it_begins_with() {
        let of = |names: &[&str]| wanted(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["order.placed"]).unwrap(), Some(BTreeSet::from(["order.placed"])));
        let orders_and_one = BTreeSet::from(["order.placed", "order.refunded", "note.written"]);
        assert_eq!(of(&["order.", "note.written", "order.placed"]).unwrap(), Some(orders_and_one));
        for bad in ["order", "order.place", "orders.", ".", ""] {
            assert!(of(&[bad]).unwrap_err().to_string().contains("there is no event type"), "{bad}");
        }
    }
}
