//! One sealed value, as pure bytes: no keys are kept here, and no chance is drawn.
//!
//! Format 1, whose base64url text (RFC 4648, section 5, unpadded) stands in `{"$sealed": …}`:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format, `0x01` |
//! | 1 | retention class ([`RetentionClass::byte`]) |
//! | 32 | commitment to the key |
//! | 24 | nonce |
//! | 2 | length of the address, big-endian |
//! | n | the address: tenant 16 ‖ subject 16 ‖ event id 16 ‖ RFC 6901 path, UTF-8 |
//! | m + 16 | ciphertext and tag of XChaCha20-Poly1305, with the address as associated data |
//!
//! HKDF-SHA-256 of the subject's key of that class, with info = `annals sealed value v1` ‖ 0x00 ‖ event id ‖ path,
//! gives 64 bytes: the key ‖ the commitment. Another class is another key, so its byte needs no further proof. XChaCha20-Poly1305 alone does not bind a ciphertext to one key; the commitment does.
//!
//! The address stands inside the value, in the clear but authenticated, because `apply` moves values out of their event
//! into states and read models: there nothing else would tell which event and path, or whose key, a value came from.
//! All of it is pseudonymous.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use domain::RetentionClass;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::kdf::{self, CipherError};

const FORMAT: u8 = 1;
const LABEL: &[u8] = b"annals sealed value v1\0";
const COMMITMENT: std::ops::Range<usize> = 2..34;
const NONCE: std::ops::Range<usize> = 34..58;
const LENGTH: std::ops::Range<usize> = 58..60;
const TAG: usize = 16;
/// Tenant, subject and event id; the path is what follows.
const IDS: usize = 48;

/// Why a value could not be sealed or opened. None of these ever shows a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not the bytes of a sealed value.
    #[error("the sealed value is malformed")]
    Malformed,
    /// Sealed by a later version of the house.
    #[error("the sealed value has the unknown format {0}")]
    UnknownFormat(u8),
    /// Sealed for somebody else.
    #[error("the sealed value belongs to another tenant")]
    OtherTenant,
    /// The commitment is to another key.
    #[error("the sealed value was sealed with another key")]
    WrongKey,
    /// The key is right, the bytes are not.
    #[error("the sealed value was tampered with")]
    Tampered,
    /// The path does not fit the format.
    #[error("the path of the value is too long to be sealed")]
    PathTooLong,
    /// Lengths beyond the cipher's.
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

/// Where a value belongs: what it is sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The tenant of the event.
    pub tenant: Uuid,
    /// The person whom the value is about.
    pub subject: Uuid,
    /// The event that brought it.
    pub event: Uuid,
    /// Where it stands in the event's payload (RFC 6901).
    pub path: &'a str,
}

/// The key and the commitment of one value.
fn derive(class_key: &[u8; 32], event: &[u8], path: &[u8]) -> Result<Zeroizing<[u8; 64]>, CipherError> {
    kdf::derive(class_key, &[LABEL, event, path])
}

fn cipher(key: &[u8]) -> Result<XChaCha20Poly1305, CipherError> {
    XChaCha20Poly1305::new_from_slice(key).map_err(|_| CipherError)
}

/// Seals the JSON text of one value. The nonce must be fresh; it is a parameter so that the format can be tested.
pub fn seal(
    class_key: &[u8; 32],
    class: RetentionClass,
    at: Address<'_>,
    nonce: [u8; 24],
    json: &str,
) -> Result<String, SealError> {
    let address = u16::try_from(IDS + at.path.len()).map_err(|_| SealError::PathTooLong)?;
    let body = LENGTH.end + usize::from(address);
    let derived = derive(class_key, at.event.as_bytes(), at.path.as_bytes())?;
    let (key, commitment) = derived.split_at(32);

    let mut bytes = Vec::with_capacity(body + json.len() + TAG);
    bytes.extend_from_slice(&[FORMAT, class.byte()]);
    bytes.extend_from_slice(commitment);
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&address.to_be_bytes());
    for id in [at.tenant, at.subject, at.event] {
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes.extend_from_slice(at.path.as_bytes());
    bytes.extend_from_slice(json.as_bytes());
    let (head, text) = bytes.split_at_mut(body);
    let tag = cipher(key)?
        .encrypt_inout_detached(&nonce.into(), &head[LENGTH.end..], text.into())
        .map_err(|_| CipherError)?;
    bytes.extend_from_slice(&tag);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A sealed value that was read, not yet opened.
#[derive(Clone)]
pub struct Envelope {
    bytes: Vec<u8>,
    class: RetentionClass,
    body: usize,
}

impl Envelope {
    /// Reads the text of a sealed value.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(SealError::UnknownFormat(other)),
            None => return Err(SealError::Malformed),
        }
        let class = bytes.get(1).and_then(|byte| RetentionClass::of_byte(*byte)).ok_or(SealError::Malformed)?;
        let length: [u8; 2] =
            bytes.get(LENGTH).and_then(|length| length.try_into().ok()).ok_or(SealError::Malformed)?;
        let length = usize::from(u16::from_be_bytes(length));
        let body = LENGTH.end + length;
        if length < IDS || bytes.len() < body + TAG {
            return Err(SealError::Malformed);
        }
        std::str::from_utf8(&bytes[LENGTH.end + IDS..body]).map_err(|_| SealError::Malformed)?;
        Ok(Self { bytes, class, body })
    }

    /// Which of the subject's keys seals it.
    pub fn class(&self) -> RetentionClass {
        self.class
    }

    /// Where it belongs, as it says itself: proven only once it opens.
    pub fn address(&self) -> Address<'_> {
        let (ids, path) = self.bytes[LENGTH.end..self.body].split_at(IDS);
        let id = |at: usize| Uuid::from_slice(&ids[at..at + 16]).unwrap_or_default();
        Address {
            tenant: id(0),
            subject: id(16),
            event: id(32),
            path: std::str::from_utf8(path).unwrap_or_default(), // checked when it was read
        }
    }

    /// Opens it for a tenant with its subject's key of its class: the JSON text of the value.
    pub fn open(mut self, tenant: Uuid, class_key: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if self.address().tenant != tenant {
            return Err(SealError::OtherTenant);
        }
        let (event, path) = self.bytes[LENGTH.end + 32..self.body].split_at(16);
        let derived = derive(class_key, event, path)?;
        let (key, commitment) = derived.split_at(32);
        if !bool::from(self.bytes[COMMITMENT].ct_eq(commitment)) {
            return Err(SealError::WrongKey);
        }
        let end = self.bytes.len() - TAG;
        let (head, sealed) = self.bytes.split_at_mut(self.body);
        let (text, tag) = sealed.split_at_mut(end - self.body);
        let nonce: [u8; 24] = head[NONCE].try_into().map_err(|_| SealError::Malformed)?;
        let tag: [u8; TAG] = (&*tag).try_into().map_err(|_| SealError::Malformed)?;
        cipher(key)?
            .decrypt_inout_detached(&nonce.into(), &head[LENGTH.end..], text.into(), &tag.into())
            .map_err(|_| SealError::Tampered)?;
        self.bytes.truncate(end);
        self.bytes.drain(..self.body);
        Ok(Zeroizing::new(self.bytes))
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
