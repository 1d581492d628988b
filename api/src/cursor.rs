//! Cursors: encrypted, so that nobody builds on what stands in them, and bound to the query that they came from.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::problem::{Problem, codes};

const NONCE: usize = 24;

/// A cursor to `place`, good for `scope` alone.
pub fn seal(key: &[u8; 32], scope: &str, place: &[u8]) -> Result<String, Problem> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| Problem::unavailable())?;
    let payload = Payload { msg: place, aad: scope.as_bytes() };
    let sealed = XChaCha20Poly1305::new(&(*key).into()).encrypt(&XNonce::from(nonce), payload);
    let sealed = sealed.map_err(|_| Problem::unavailable())?;
    Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
}

/// The place behind a cursor of that scope.
pub fn open(key: &[u8; 32], scope: &str, cursor: &str) -> Result<Vec<u8>, Problem> {
    let invalid = || Problem::of(codes::INVALID_CURSOR);
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or_else(invalid)?;
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| invalid())?;
    let payload = Payload { msg: sealed, aad: scope.as_bytes() };
    XChaCha20Poly1305::new(&(*key).into()).decrypt(&XNonce::from(nonce), payload).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_query_alone() {
        let cursor = seal(&[1; 32], "ten_a list x=1", b"place").unwrap();
        assert_eq!(open(&[1; 32], "ten_a list x=1", &cursor).unwrap(), b"place");
        let refused = |key: [u8; 32], scope: &str, cursor: &str| open(&key, scope, cursor).unwrap_err().code();
        for (key, scope, cursor) in [
            ([1; 32], "ten_a list x=2", cursor.as_str()),
            ([2; 32], "ten_a list x=1", cursor.as_str()),
            ([1; 32], "ten_a list x=1", &cursor[1..]),
            ([1; 32], "ten_a list x=1", ""),
            ([1; 32], "ten_a list x=1", "!"),
        ] {
            assert_eq!(refused(key, scope, cursor), codes::INVALID_CURSOR);
        }
    }
}
