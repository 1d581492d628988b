//! A person who buys: `Active -> Erased`. The customer's UUID is the subject of all personal data about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::{ClaimChange, Patch, external_id_claim, patch};
use crate::personal::Profile;
use crate::text::{Country, Email, ExternalId, Line};
use crate::{Aggregate, Context, CustomerId, Event, Personal, PrivacyRequestId, StreamType, TypedId, names};

/// The kind of claim that keeps an e-mail address unique in its tenant.
const EMAIL: &str = "email";

/// All that the resource shows, also after the erasure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Customer {
    /// Where it stands.
    pub status: CustomerStatus,
    /// What the caller calls this customer; unique in its tenant.
    pub external_id: Option<Personal<ExternalId, Profile>>,
    /// The person's name.
    pub name: Option<Personal<Line, Profile>>,
    /// The person's e-mail address; unique in its tenant.
    pub email: Option<Personal<Email, Profile>>,
    /// A coarse attribute, not about one person: a country of ISO 3166-1 alpha-2.
    pub country: Option<Country>,
    /// The privacy request that the erasure follows from.
    pub erased_by: Option<PrivacyRequestId>,
    /// Whether the person's keys are destroyed; until then the erasure is under way.
    pub keys_destroyed: bool,
}

/// `none -> active -> erased`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CustomerStatus {
    /// Not there.
    #[default]
    None,
    /// A customer.
    Active,
    /// What was personal is gone, or going.
    Erased,
}

/// What a customer begins with.
#[derive(Clone, Debug, Default)]
pub struct NewCustomer {
    /// What the caller calls this customer.
    pub external_id: Option<ExternalId>,
    /// The person's name.
    pub name: Option<Line>,
    /// The person's e-mail address.
    pub email: Option<Email>,
    /// A country of ISO 3166-1 alpha-2.
    pub country: Option<Country>,
}

/// What can be asked of a customer.
#[derive(Clone, Debug)]
pub enum CustomerCommand {
    /// Make the customer known.
    Create {
        /// Its id.
        id: CustomerId,
        /// What is known.
        new: NewCustomer,
    },
    /// Change what is named; null takes a value away.
    Change {
        /// Its id.
        id: CustomerId,
        /// The person's name.
        name: Patch<Line>,
        /// The person's e-mail address.
        email: Patch<Email>,
        /// A country of ISO 3166-1 alpha-2.
        country: Patch<Country>,
    },
    /// Let nothing more be written about the person; the keys go next.
    BeginErasure {
        /// Its id.
        subject: CustomerId,
        /// The request that it follows from.
        request: PrivacyRequestId,
    },
    /// Confirm that the keys are gone.
    CompleteErasure,
}

/// What can have happened to a customer.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "customer")]
pub enum CustomerEvent {
    /// The customer is known from here on.
    Created {
        /// What the caller calls this customer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<Personal<ExternalId, Profile>>,
        /// The person's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Personal<Line, Profile>>,
        /// The person's e-mail address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        email: Option<Personal<Email, Profile>>,
        /// A country of ISO 3166-1 alpha-2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        country: Option<Country>,
    },
    /// What is named has changed; null took a value away.
    Changed {
        /// The person's name.
        #[serde(default, deserialize_with = "patch", skip_serializing_if = "Option::is_none")]
        name: Patch<Personal<Line, Profile>>,
        /// The person's e-mail address.
        #[serde(default, deserialize_with = "patch", skip_serializing_if = "Option::is_none")]
        email: Patch<Personal<Email, Profile>>,
        /// A country of ISO 3166-1 alpha-2.
        #[serde(default, deserialize_with = "patch", skip_serializing_if = "Option::is_none")]
        country: Patch<Country>,
    },
    /// The person's keys are about to be destroyed; nothing more is written about the person.
    ErasureBegun {
        /// The request that it follows from.
        request: PrivacyRequestId,
    },
    /// The person's keys are destroyed: what was sealed with them can never be read again.
    Erased,
}

/// Why a customer refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomerError {
    /// No such customer.
    #[error("there is no such customer")]
    NotFound,
    /// It is there already.
    #[error("the customer exists already")]
    AlreadyExists,
    /// The person was erased.
    #[error("the customer was erased; nothing can be written about an erased person")]
    Erased,
    /// An erasure is completed that never began.
    #[error("no erasure of the customer has begun")]
    ErasureNotBegun,
}

impl Aggregate for Customer {
    const STREAM: StreamType = names::CUSTOMER;
    const REVISION: i32 = 1;
    const IS_A_PERSON: bool = true;
    type Id = CustomerId;
    type Command = CustomerCommand;
    type Event = CustomerEvent;
    type Error = CustomerError;

    fn claims(command: &CustomerCommand) -> Vec<ClaimChange> {
        let take = |email: &Email, replaces| ClaimChange::Take { kind: EMAIL, name: email.canonical(), replaces };
        match command {
            CustomerCommand::Create { new, .. } => {
                let mut claims = external_id_claim(new.external_id.as_ref());
                claims.extend(new.email.as_ref().map(|email| take(email, false)));
                claims
            }
            CustomerCommand::Change { email: Some(Some(email)), .. } => vec![take(email, true)],
            CustomerCommand::Change { email: Some(None), .. } => vec![ClaimChange::Release { kind: EMAIL }],
            CustomerCommand::BeginErasure { .. } => vec![ClaimChange::ReleaseAll],
            CustomerCommand::Change { email: None, .. } | CustomerCommand::CompleteErasure => Vec::new(),
        }
    }

    fn tombstone(command: &CustomerCommand) -> Option<uuid::Uuid> {
        match command {
            CustomerCommand::BeginErasure { subject, .. } => Some(subject.uuid()),
            _ => None,
        }
    }

    fn decide(&self, command: CustomerCommand, _ctx: &Context) -> Result<Vec<CustomerEvent>, CustomerError> {
        use {CustomerCommand as C, CustomerError as Error, CustomerEvent as E, CustomerStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Create { id, new }) => vec![E::Created {
                external_id: new.external_id.map(|value| Personal::open(id.uuid(), value)),
                name: new.name.map(|value| Personal::open(id.uuid(), value)),
                email: new.email.map(|value| Personal::open(id.uuid(), value)),
                country: new.country,
            }],
            (_, C::Create { .. }) => return Err(Error::AlreadyExists),
            (S::None, _) => return Err(Error::NotFound),
            (S::Active, C::Change { name: None, email: None, country: None, .. }) => vec![],
            (S::Active, C::Change { id, name, email, country }) => vec![E::Changed {
                name: name.map(|value| value.map(|value| Personal::open(id.uuid(), value))),
                email: email.map(|value| value.map(|value| Personal::open(id.uuid(), value))),
                country,
            }],
            (S::Erased, C::Change { .. }) => return Err(Error::Erased),
            (S::Active, C::BeginErasure { request, .. }) => vec![E::ErasureBegun { request }],
            (S::Erased, C::BeginErasure { .. }) => vec![],
            (S::Active, C::CompleteErasure) => return Err(Error::ErasureNotBegun),
            (S::Erased, C::CompleteErasure) if self.keys_destroyed => vec![],
            (S::Erased, C::CompleteErasure) => vec![E::Erased],
        })
    }

    fn apply(&mut self, event: CustomerEvent) {
        match event {
            CustomerEvent::Created { external_id, name, email, country } => {
                *self = Self { status: CustomerStatus::Active, external_id, name, email, country, ..Self::default() };
            }
            CustomerEvent::Changed { name, email, country } => {
                if let Some(name) = name {
                    self.name = name;
                }
                if let Some(email) = email {
                    self.email = email;
                }
                if let Some(country) = country {
                    self.country = country;
                }
            }
            CustomerEvent::ErasureBegun { request } => {
                self.status = CustomerStatus::Erased;
                self.erased_by = Some(request);
                self.external_id = self.external_id.take().map(|_| Personal::erased());
                self.name = self.name.take().map(|_| Personal::erased());
                self.email = self.email.take().map(|_| Personal::erased());
            }
            CustomerEvent::Erased => self.keys_destroyed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn id() -> CustomerId {
        CustomerId::from(Uuid::from_u128(7))
    }

    fn created() -> CustomerEvent {
        let name = Some(Personal::open(id().uuid(), "Ada".parse().unwrap()));
        CustomerEvent::Created { external_id: None, name, email: None, country: Some("GB".parse().unwrap()) }
    }

    fn begun() -> CustomerEvent {
        CustomerEvent::ErasureBegun { request: PrivacyRequestId::from(Uuid::from_u128(9)) }
    }

    fn change_country(country: Patch<Country>) -> CustomerCommand {
        CustomerCommand::Change { id: id(), name: None, email: None, country }
    }

    fn given(events: impl IntoIterator<Item = CustomerEvent>) -> Given<Customer> {
        Given::events(ctx(), events)
    }

    #[test]
    fn a_customer_is_created_once_with_personal_fields_open_under_its_own_subject() {
        let new = NewCustomer {
            name: Some("Ada".parse().unwrap()),
            country: Some("GB".parse().unwrap()),
            ..NewCustomer::default()
        };
        given([]).when_then(CustomerCommand::Create { id: id(), new: new.clone() }, [created()]);
        given([created()]).when_refused(CustomerCommand::Create { id: id(), new }, CustomerError::AlreadyExists);
    }

    #[test]
    fn a_change_names_only_what_changes() {
        let changed = CustomerEvent::Changed { name: None, email: None, country: Some(None) };
        given([created()]).when_then(change_country(Some(None)), [changed]);
        given([created()]).when_then(change_country(None), []);
        given([]).when_refused(change_country(None), CustomerError::NotFound);
    }

    #[test]
    fn an_erased_customer_takes_no_change_and_is_erased_once() {
        let begin =
            || CustomerCommand::BeginErasure { subject: id(), request: PrivacyRequestId::from(Uuid::from_u128(9)) };
        given([created()]).when_then(begin(), [begun()]);
        given([created(), begun()]).when_then(begin(), []);
        given([created(), begun()]).when_refused(change_country(Some(None)), CustomerError::Erased);
        given([created()]).when_refused(CustomerCommand::CompleteErasure, CustomerError::ErasureNotBegun);
        given([created(), begun()]).when_then(CustomerCommand::CompleteErasure, [CustomerEvent::Erased]);
        given([created(), begun(), CustomerEvent::Erased]).when_then(CustomerCommand::CompleteErasure, []);
    }

    #[test]
    fn the_state_keeps_what_a_get_must_answer_after_the_end() {
        let mut state = Customer::default();
        for event in [created(), begun(), CustomerEvent::Erased] {
            state.apply(event);
        }
        assert_eq!(
            (state.status, state.name, state.country),
            (CustomerStatus::Erased, Some(Personal::erased()), Some("GB".parse().unwrap()))
        );
    }

    #[test]
    fn null_and_absent_stay_apart_in_the_payload() {
        let changed = CustomerEvent::Changed { name: None, email: None, country: Some(None) };
        let payload = changed.payload().unwrap();
        assert_eq!(payload, r#"{"country":null}"#);
        assert_eq!(CustomerEvent::decode("customer.changed", 1, &payload).unwrap(), changed);
    }
}
