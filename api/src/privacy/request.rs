//! `/privacy/requests`.

use domain::PrivacyRequestId;
use domain::commerce::Customer;
use domain::names::{PRIVACY_APPROVE, PRIVACY_READ, PRIVACY_WRITE, Scope};
use domain::privacy::{PrivacyRequest, PrivacyRequestCommand, PrivacyRequestError, PrivacyRequestStatus, RequestKind};
use domain::text::Prose;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::{Ref, Referent};
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Code, Problem, codes};
use crate::resource::{Filter, Resource, resource};

const CANCELLED: Code =
    Code::rule("privacy-request-cancelled", "The request was cancelled", "It stays cancelled. File a new request.");
const BEGUN: Code = Code::rule(
    "privacy-request-begun",
    "The request is being carried out",
    "It has begun or is complete, and can no longer be approved or called off.",
);
const NOT_APPROVED: Code = Code::rule(
    "privacy-request-not-approved",
    "The request was not approved",
    "Another principal must approve it first.",
);

impl Resource for PrivacyRequest {
    const OBJECT: &'static str = "privacy_request";
    const PATH: &'static str = "/privacy/requests";
    const READ: Scope = PRIVACY_READ;
    const WRITE: Scope = PRIVACY_WRITE;
    const FILTERS: &'static [Filter] =
        &[Filter::id::<Customer>("customer", "customer_id"), Filter::word::<PrivacyRequestStatus>("status")];

    fn problem(error: PrivacyRequestError) -> Problem {
        match error {
            PrivacyRequestError::NotFound => Problem::not_found(),
            PrivacyRequestError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            PrivacyRequestError::SamePrincipal => Problem::of(codes::APPROVAL_REQUIRED),
            PrivacyRequestError::Cancelled => Problem::of(CANCELLED),
            PrivacyRequestError::Begun => Problem::of(BEGUN),
            PrivacyRequestError::NotApproved => Problem::of(NOT_APPROVED),
        }
    }
}

/// Its operations.
pub fn operations() -> Vec<Operation> {
    let requests = resource::<PrivacyRequest>();
    vec![
        requests
            .create::<FileRequest>(
                "File a privacy request",
                "Another key than this one must approve it; then it is carried out after a delay in which it can be called off.",
            )
            .status(202)
            .refuses(&[codes::SUBJECT_ERASED]),
        requests.get(),
        requests.list(),
        requests.history(),
        requests
            .verb(
                "approve",
                "Approve a privacy request",
                "Needs another key than the one that filed it. An erasure destroys the person's keys for good.",
                |call| PrivacyRequestCommand::Approve { delay: call.state.settings.erasure_delay },
            )
            .scope(PRIVACY_APPROVE)
            .refuses(&[codes::APPROVAL_REQUIRED, CANCELLED, BEGUN]),
        requests
            .verb("cancel", "Call a privacy request off", "Possible until it begins.", |_| PrivacyRequestCommand::Cancel)
            .refuses(&[BEGUN]),
    ]
}

/// What a person asks for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileRequest {
    /// Whom it is about: `cus_…` or `ext:…`.
    customer: Ref<Customer>,
    /// What is asked.
    kind: RequestKind,
    /// Why. Personal.
    reason: Option<Prose>,
}

impl Intent<PrivacyRequest> for FileRequest {
    fn example() -> Value {
        json!({ "customer": "ext:crm-1815", "kind": "erasure", "reason": "Asked by mail." })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        vec![("/customer", &mut self.customer)]
    }

    fn command(self, _: PrivacyRequestId, _: &Call) -> Result<PrivacyRequestCommand, Problem> {
        let Self { customer, kind, reason } = self;
        Ok(PrivacyRequestCommand::Receive { customer: customer.id()?, kind, reason })
    }
}
