//! Ids are TypeIDs: a three-letter prefix and a UUIDv7 in base32 (the TypeID specification, 0.3).

use std::fmt;
use std::str::FromStr;

use type_safe_id::{DynamicType, TypeSafeId};
use uuid::Uuid;

/// Why a text is no id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an id that begins with `{prefix}_`")]
pub struct IdError {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

/// An id whose kind is known to the compiler.
pub trait TypedId:
    Copy + fmt::Debug + fmt::Display + FromStr<Err = IdError> + From<Uuid> + Send + Sync + 'static
{
    /// The letters before the underscore.
    const PREFIX: &'static str;
    /// The UUID behind the prefix.
    fn uuid(&self) -> Uuid;
}

/// An id of any kind: of an actor, or of a resource that the caller names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnyId {
    prefix: [u8; 3],
    uuid: Uuid,
}

impl AnyId {
    /// The id with this prefix of three letters (another length is filled up or cut).
    pub fn new(prefix: &str, uuid: Uuid) -> Self {
        let mut bytes = *b"xxx";
        for (to, from) in bytes.iter_mut().zip(prefix.bytes()) {
            *to = from;
        }
        Self { prefix: bytes, uuid }
    }

    /// The letters before the underscore.
    pub fn prefix(&self) -> &str {
        std::str::from_utf8(&self.prefix).unwrap_or("xxx")
    }

    /// The UUID behind the prefix.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl fmt::Display for AnyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DynamicType::new(self.prefix()) {
            Ok(prefix) => TypeSafeId::from_type_and_uuid(prefix, self.uuid).fmt(f),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for AnyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AnyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let id = TypeSafeId::<DynamicType>::from_str(text).map_err(|_| IdError { prefix: "xxx" })?;
        if id.type_prefix().len() != 3 {
            return Err(IdError { prefix: "xxx" });
        }
        Ok(Self::new(id.type_prefix(), id.uuid()))
    }
}

impl serde::Serialize for AnyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AnyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom("is not an id"))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(Uuid);

        impl TypedId for $name {
            const PREFIX: &'static str = $prefix;
            fn uuid(&self) -> Uuid { self.0 }
        }
        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self { Self(uuid) }
        }
        impl From<$name> for AnyId {
            fn from(id: $name) -> Self { AnyId::new($prefix, id.0) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { AnyId::from(*self).fmt(f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.parse::<AnyId>() {
                    Ok(id) if id.prefix() == $prefix => Ok(Self(id.uuid())),
                    _ => Err(IdError { prefix: $prefix }),
                }
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$") })
            }
        }
    )*};
}

ids! {
    /// A tenant.
    TenantId = "ten";
    /// An API key.
    ApiKeyId = "key";
    /// A customer; its UUID is also the subject of the customer's personal data.
    CustomerId = "cus";
    /// An order.
    OrderId = "ord";
    /// A privacy request.
    PrivacyRequestId = "prq";
    /// A note.
    NoteId = "nte";
    /// An erasure process.
    ErasureId = "era";
    /// The clock of a test tenant.
    TestClockId = "clk";
    /// An agent.
    AgentId = "agt";
    /// A run of an agent; where no customer is named, its UUID is the subject of its input and output.
    RunId = "run";
    /// A plan.
    PlanId = "pln";
    /// A subscription.
    SubscriptionId = "sub";
    /// A replay; its UUID is the subject of its expression.
    ReplayId = "rpl";
    /// An actor of the house itself.
    SystemId = "sys";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_the_typeid_specification_has_it() {
        // Valid example of the specification, under a prefix of ours.
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let id = CustomerId::from(uuid);
        assert_eq!(id.to_string(), "cus_01h455vb4pex5vsknk084sn02q");
        assert_eq!("cus_01h455vb4pex5vsknk084sn02q".parse::<CustomerId>(), Ok(id));
    }

    #[test]
    fn prefixes_of_ids_stand_in_the_table_of_names() {
        for prefix in [TenantId::PREFIX, ApiKeyId::PREFIX, CustomerId::PREFIX, OrderId::PREFIX] {
            assert!(crate::names::stream_type_of_prefix(prefix).is_some(), "{prefix}");
        }
        assert_eq!(SystemId::PREFIX, crate::names::SYSTEM_PREFIX);
    }

    #[test]
    fn another_prefix_or_broken_text_is_refused() {
        for text in [
            "ord_01h455vb4pex5vsknk084sn02q",
            "cus_",
            "",
            "cus_01h455vb4pex5vsknk084sn0",
            "cus_81h455vb4pex5vsknk084sn02q",
        ] {
            assert!(text.parse::<CustomerId>().is_err(), "{text}");
        }
    }
}
