//! Who may ask: API keys.

mod api_key;

pub use api_key::{ApiKey, ApiKeyCommand, ApiKeyError, ApiKeyEvent, ApiKeyStatus};
