//! Personal data: open when a command brings it, sealed once it is stored, erased when its subject's key is gone.
//!
//! Architecture Invariant: nothing in `domain` opens what is sealed; the vault alone holds keys.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The key of a JSON object that holds a sealed value.
pub const SEALED: &str = "$sealed";
/// The key of a JSON object that holds a value still to be sealed; never stored.
pub const OPEN: &str = "$open";
/// The key of a JSON object that says that a value was here and is gone for good.
pub const ERASED: &str = "$erased";

/// How long personal data is kept, and so which of its subject's keys seals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionClass {
    /// Who somebody is; goes with an erasure.
    Profile,
    /// What the law wants kept for years: invoices.
    Billing,
    /// Conversations, reasons, agent input and output.
    Support,
}

impl RetentionClass {
    /// Every class, in the order of their bytes.
    pub const ALL: [Self; 3] = [Self::Profile, Self::Billing, Self::Support];

    /// The byte that a sealed value stores.
    pub fn byte(self) -> u8 {
        match self {
            Self::Profile => 1,
            Self::Billing => 2,
            Self::Support => 3,
        }
    }

    /// The class of a stored byte.
    pub fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.byte() == byte)
    }
}

/// A retention class that the compiler knows.
pub trait Class: Send + Sync + 'static {
    /// Which one.
    const CLASS: RetentionClass;
}

/// Class `profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile;
/// Class `billing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billing;
/// Class `support`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support;

impl Class for Profile {
    const CLASS: RetentionClass = RetentionClass::Profile;
}
impl Class for Billing {
    const CLASS: RetentionClass = RetentionClass::Billing;
}
impl Class for Support {
    const CLASS: RetentionClass = RetentionClass::Support;
}

/// A value about one person.
#[derive(Clone, PartialEq, Eq)]
pub struct Personal<T, C> {
    value: Value<T>,
    class: PhantomData<fn() -> C>,
}

/// The three states of a personal value.
#[derive(Clone, PartialEq, Eq)]
enum Value<T> {
    Open { subject: Uuid, value: T },
    Sealed(String),
    Erased,
}

impl<T, C: Class> Personal<T, C> {
    /// A value in the clear about `subject`, as a command brings it.
    pub fn open(subject: Uuid, value: T) -> Self {
        Self { value: Value::Open { subject, value }, class: PhantomData }
    }

    /// A value whose subject was erased.
    pub fn erased() -> Self {
        Self { value: Value::Erased, class: PhantomData }
    }

    /// The person that the value is about, while it is open.
    pub fn subject(&self) -> Option<Uuid> {
        match &self.value {
            Value::Open { subject, .. } => Some(*subject),
            Value::Sealed(_) | Value::Erased => None,
        }
    }
}

/// Never shows the value, so that no log line can.
impl<T, C> fmt::Debug for Personal<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.value {
            Value::Open { .. } => "Personal(open)",
            Value::Sealed(_) => "Personal(sealed)",
            Value::Erased => "Personal(erased)",
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Open<T> {
    class: RetentionClass,
    subject: Uuid,
    value: T,
}

impl<T: Serialize, C: Class> Serialize for Personal<T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match &self.value {
            Value::Open { subject, value } => {
                map.serialize_entry(OPEN, &Open { class: C::CLASS, subject: *subject, value })?;
            }
            Value::Sealed(text) => map.serialize_entry(SEALED, text)?,
            Value::Erased => map.serialize_entry(ERASED, &true)?,
        }
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Wire<T> {
    #[serde(rename = "$open")]
    Open(Open<T>),
    #[serde(rename = "$sealed")]
    Sealed(String),
    #[serde(rename = "$erased")]
    Erased(#[allow(dead_code, reason = "present only to be parsed")] bool),
}

impl<'de, T: Deserialize<'de>, C: Class> Deserialize<'de> for Personal<T, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = match Wire::deserialize(deserializer)? {
            Wire::Open(open) if open.class != C::CLASS => {
                return Err(serde::de::Error::custom("another retention class"));
            }
            Wire::Open(open) => Value::Open { subject: open.subject, value: open.value },
            Wire::Sealed(text) => Value::Sealed(text),
            Wire::Erased(_) => Value::Erased,
        };
        Ok(Self { value, class: PhantomData })
    }
}

/// Described as readers see it: the plain value, or null once it is erased or where the reader lacks `personal:read`.
impl<T: JsonSchema, C: Class> JsonSchema for Personal<T, C> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Personal_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Option::<T>::json_schema(generator);
        schema.insert("x-personal".into(), serde_json::to_value(C::CLASS).unwrap_or_default());
        schema
    }
}

/// The key of a JSON object that holds what is never shown, not even to whom sees personal data.
pub const SECRET: &str = "$secret";
/// What is shown in the place of a [`Secret`]; sent back, it means the secret that is there.
pub const HIDDEN: &str = "********";

/// A credential that a caller entrusts to us for use elsewhere. Sealed under the key of what it belongs to, opened only
/// to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    #[serde(rename = "$secret")]
    value: Personal<String, Support>,
}

impl Secret {
    /// A secret in the clear, of `owner`: the agent, the endpoint.
    pub fn open(owner: Uuid, value: String) -> Self {
        Self { value: Personal::open(owner, value) }
    }
}

/// Described as readers see it.
impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string", "description": "Kept sealed and never shown: always `********`.", "x-secret": true,
        })
    }
}

/// A stored payload as somebody sees it who may see nothing personal: null in the place of what is sealed, and
/// [`HIDDEN`] in that of a secret. This is the form that its schema describes. An error where a value stands open.
pub fn masked(value: &mut serde_json::Value) -> Result<(), OpenValue> {
    match value {
        serde_json::Value::Object(fields) => {
            let key = if fields.len() == 1 { fields.keys().next().map(String::as_str) } else { None };
            match key {
                Some(OPEN) => return Err(OpenValue),
                Some(SEALED | ERASED) => *value = serde_json::Value::Null,
                Some(SECRET) => *value = HIDDEN.into(),
                _ => fields.values_mut().try_for_each(masked)?,
            }
            Ok(())
        }
        serde_json::Value::Array(items) => items.iter_mut().try_for_each(masked),
        _ => Ok(()),
    }
}

/// A personal value in the clear, where none may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a personal value stands open")]
pub struct OpenValue;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_survive_json_and_debug_shows_none() {
        let open = Personal::<String, Profile>::open(Uuid::nil(), "Ada".into());
        let json = serde_json::to_string(&open).unwrap();
        assert_eq!(
            json,
            r#"{"$open":{"class":"profile","subject":"00000000-0000-0000-0000-000000000000","value":"Ada"}}"#
        );
        assert_eq!(serde_json::from_str::<Personal<String, Profile>>(&json).unwrap(), open);
        assert!(serde_json::from_str::<Personal<String, Support>>(&json).is_err(), "another class");
        let sealed: Personal<String, Profile> = serde_json::from_str(r#"{"$sealed":"AQ"}"#).unwrap();
        assert_eq!(serde_json::to_string(&sealed).unwrap(), r#"{"$sealed":"AQ"}"#);
        assert!(!format!("{open:?}{sealed:?}").contains("Ada"));
    }
}
