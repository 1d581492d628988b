//! `/customers`.

use chrono::{DateTime, Utc};
use domain::CustomerId;
use domain::aggregate::{Patch, patch};
use domain::commerce::{Customer, CustomerCommand, CustomerError, CustomerStatus, NewCustomer};
use domain::names::{COMMERCE_READ, COMMERCE_WRITE, Scope};
use domain::text::{Country, Email, ExternalId, Line};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::Moment;
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Problem, codes};
use crate::resource::{Filter, Resource, resource};

impl Resource for Customer {
    const OBJECT: &'static str = "customer";
    const PATH: &'static str = "/customers";
    const READ: Scope = COMMERCE_READ;
    const WRITE: Scope = COMMERCE_WRITE;
    const FILTERS: &'static [Filter] = &[Filter::word::<Country>("country"), Filter::word::<CustomerStatus>("status")];

    fn problem(error: CustomerError) -> Problem {
        match error {
            CustomerError::NotFound => Problem::not_found(),
            CustomerError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            CustomerError::Erased | CustomerError::ErasureNotBegun => Problem::of(codes::SUBJECT_ERASED),
        }
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let customers = resource::<Customer>();
    vec![
        customers.create::<CreateCustomer>("Create a customer", "An e-mail address is unique in its tenant."),
        customers.batch::<CreateCustomer>(),
        customers.get(),
        customers.list(),
        customers.history(),
        customers
            .change::<ChangeCustomer>("Change a customer", "Changes what it names; null takes a value away.")
            .refuses(&[codes::ALREADY_EXISTS, codes::SUBJECT_ERASED]),
    ]
}

/// A person who buys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateCustomer {
    /// What you call this customer; unique in the tenant. Personal.
    external_id: Option<ExternalId>,
    /// The person's name. Personal.
    name: Option<Line>,
    /// The person's e-mail address; unique in the tenant. Personal.
    email: Option<Email>,
    /// A country of ISO 3166-1 alpha-2.
    country: Option<Country>,
    /// Since when the person is a customer, where that is not now; never in the future.
    occurred_at: Option<Moment>,
}

impl Intent<Customer> for CreateCustomer {
    fn example() -> Value {
        json!({ "external_id": "crm-1815", "name": "Ada Lovelace", "email": "ada@example.com", "country": "GB" })
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn occurred_at(&self) -> Option<(&'static str, DateTime<Utc>)> {
        self.occurred_at.map(|at| ("/occurred_at", at.0))
    }

    fn command(self, id: CustomerId, _: &Call) -> Result<CustomerCommand, Problem> {
        let Self { external_id, name, email, country, .. } = self;
        Ok(CustomerCommand::Create { id, new: NewCustomer { external_id, name, email, country } })
    }
}

/// What shall change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeCustomer {
    /// The person's name.
    #[serde(default, deserialize_with = "patch")]
    #[schemars(with = "Option<Line>")]
    name: Patch<Line>,
    /// The person's e-mail address.
    #[serde(default, deserialize_with = "patch")]
    #[schemars(with = "Option<Email>")]
    email: Patch<Email>,
    /// A country of ISO 3166-1 alpha-2.
    #[serde(default, deserialize_with = "patch")]
    #[schemars(with = "Option<Country>")]
    country: Patch<Country>,
}

impl Intent<Customer> for ChangeCustomer {
    fn example() -> Value {
        json!({ "email": "ada.lovelace@example.com", "country": null })
    }

    fn command(self, id: CustomerId, _: &Call) -> Result<CustomerCommand, Problem> {
        Ok(CustomerCommand::Change { id, name: self.name, email: self.email, country: self.country })
    }
}
