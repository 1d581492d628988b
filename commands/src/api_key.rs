//! The text of an API key: `ann_live_<id>_<secret><checksum>` in base62. The id finds it, the secret's SHA-256 is stored,
//! the checksum (CRC-32 of all before it) spares a look-up for what is mistyped.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

const PREFIX: &str = "ann_live_";
/// Digits of 128 bits in base62.
const DIGITS: usize = 22;
/// Digits of 32 bits in base62.
const CHECK_DIGITS: usize = 6;

/// A key as its owner sees it once.
#[derive(Debug)]
pub struct NewApiKey {
    /// The whole text.
    pub text: SecretString,
    /// What is stored of it.
    pub hash: [u8; 32],
}

/// A key as a request brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedApiKey {
    /// Which key it claims to be.
    pub id: Uuid,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
}

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an API key")]
pub struct NotAKey;

fn digits(number: u128, width: usize) -> String {
    format!("{:0>width$}", base62::encode(number))
}

fn hash_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl NewApiKey {
    /// A key of 256 random bits for that id; fails where the system has no randomness.
    pub fn generate(id: Uuid) -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let (high, low) = random.split_at(16);
        let number = |half: &[u8]| half.iter().fold(0_u128, |n, byte| (n << 8) | u128::from(*byte));
        let secret = digits(number(high), DIGITS) + &digits(number(low), DIGITS);
        let body = format!("{PREFIX}{}_{secret}", digits(id.as_u128(), DIGITS));
        let check = digits(u128::from(crc32fast::hash(body.as_bytes())), CHECK_DIGITS);
        Ok(Self { text: SecretString::from(body + &check), hash: hash_of(&secret) })
    }

    /// The text, to be shown once.
    pub fn reveal(&self) -> &str {
        self.text.expose_secret()
    }
}

impl ParsedApiKey {
    /// Reads a key; its checksum must be right.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let length = PREFIX.len() + DIGITS + 1 + 2 * DIGITS + CHECK_DIGITS;
        if text.len() != length || !text.is_ascii() || !text.starts_with(PREFIX) {
            return Err(NotAKey);
        }
        let (body, check) = text.split_at(length - CHECK_DIGITS);
        if digits(u128::from(crc32fast::hash(body.as_bytes())), CHECK_DIGITS) != check {
            return Err(NotAKey);
        }
        let (id, secret) = body.trim_start_matches(PREFIX).split_once('_').ok_or(NotAKey)?;
        let id = base62::decode(id).map_err(|_| NotAKey)?;
        Ok(Self { id: Uuid::from_u128(id), hash: hash_of(secret) })
    }

    /// Whether the stored hash is that of this key's secret, in constant time.
    pub fn matches(&self, stored: &[u8]) -> bool {
        stored.len() == self.hash.len() && bool::from(self.hash.ct_eq(stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_every_changed_letter_is_found() {
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let key = NewApiKey::generate(id).unwrap();
        let parsed = ParsedApiKey::parse(key.reveal()).unwrap();
        assert_eq!((parsed.id, parsed.matches(&key.hash), parsed.matches(&[0; 32])), (id, true, false));
        for index in 0..key.reveal().len() {
            let mut bytes = key.reveal().as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'x' { b'y' } else { b'x' };
            assert_eq!(ParsedApiKey::parse(std::str::from_utf8(&bytes).unwrap()), Err(NotAKey), "at {index}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_a_look_up() {
        for text in ["", "ann_live_", "ann_test_x", "ann_live_é"] {
            assert_eq!(ParsedApiKey::parse(text), Err(NotAKey));
        }
    }
}
