//! What people may ask about their data.

mod request;

pub use request::{
    PrivacyRequest, PrivacyRequestCommand, PrivacyRequestError, PrivacyRequestEvent, PrivacyRequestStatus, Receipt,
    RequestKind, due_at,
};
