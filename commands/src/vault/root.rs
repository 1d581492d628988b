//! The root key of a house: it wraps the files of the key store, and never leaves the process.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::kdf::{self, CipherError};

/// Why a text is no root key.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    /// The file can't be read.
    #[error("the file of the root key can't be read")]
    File(#[source] std::io::Error),
    /// Not base64 of 32 bytes. Never shows what it was.
    #[error("the root key must be 32 bytes in base64, as of `openssl rand -base64 32`")]
    Malformed,
}

/// 32 secret bytes, wiped when dropped and never shown.
pub struct RootKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey(…)")
    }
}

impl RootKey {
    /// The key in a base64 text: the standard or the URL alphabet, padded or not, white space around it allowed.
    pub fn from_base64(text: &str) -> Result<Self, RootKeyError> {
        let text = text.trim();
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let alphabet = if text.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
        let bytes = GeneralPurpose::new(&alphabet, lenient).decode(text).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| RootKeyError::Malformed)?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(RootKeyError::Malformed);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// The key in a file of such a text.
    pub fn from_file(path: &Path) -> Result<Self, RootKeyError> {
        Self::from_base64(&Zeroizing::new(fs::read_to_string(path).map_err(RootKeyError::File)?))
    }

    /// A value that tells this root key from others and gives nothing of it away.
    pub(super) fn check(&self) -> Result<Zeroizing<[u8; 32]>, CipherError> {
        kdf::derive(self.0.as_slice(), &[b"annals root key check v1\0"])
    }

    fn cipher(&self, label: &[u8], ids: &[Uuid]) -> Result<XChaCha20Poly1305, CipherError> {
        let mut info = label.to_vec();
        info.push(0);
        for id in ids {
            info.extend_from_slice(id.as_bytes());
        }
        let key = kdf::derive::<32>(self.0.as_slice(), &[&info])?;
        XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| CipherError)
    }

    /// header ‖ nonce 24 ‖ ciphertext of `body` ‖ tag 16, the header authenticated, under a key of its own for
    /// `label` and `ids`.
    pub(super) fn seal_file(
        &self,
        label: &[u8],
        ids: &[Uuid],
        header: &[u8],
        nonce: [u8; 24],
        body: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        // The capacity is exact, so that no copy of the plain body is left behind by a reallocation.
        let mut file = Vec::with_capacity(header.len() + nonce.len() + body.len() + 16);
        file.extend_from_slice(header);
        file.extend_from_slice(&nonce);
        file.extend_from_slice(body);
        let (_, text) = file.split_at_mut(header.len() + nonce.len());
        let tag = self
            .cipher(label, ids)?
            .encrypt_inout_detached(&nonce.into(), header, text.into())
            .map_err(|_| CipherError)?;
        file.extend_from_slice(&tag);
        Ok(file)
    }

    /// The body of a wrapped file; none where the file is not whole, or of another root key, label, header or ids.
    pub(super) fn open_file(
        &self,
        label: &[u8],
        ids: &[Uuid],
        header: &[u8],
        file: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CipherError> {
        let parts = file.strip_prefix(header).and_then(|rest| rest.split_first_chunk::<24>());
        let parts = parts.and_then(|(nonce, rest)| rest.split_last_chunk::<16>().map(|(text, tag)| (nonce, text, tag)));
        let Some((nonce, text, tag)) = parts else { return Ok(None) };
        let mut body = Zeroizing::new(text.to_vec());
        let opened = self.cipher(label, ids)?.decrypt_inout_detached(
            &(*nonce).into(),
            header,
            body.as_mut_slice().into(),
            &(*tag).into(),
        );
        Ok(opened.is_ok().then_some(body))
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_root_key_is_32_bytes_of_base64_in_any_dress() {
        let bytes = [0xfb; 32];
        for text in [STANDARD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes), format!(" {}\n", STANDARD.encode(bytes))] {
            assert_eq!(*RootKey::from_base64(&text).unwrap().0, bytes, "{text}");
        }
        for text in ["", "AAAA", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33]), "not base64 at all!"] {
            assert!(matches!(RootKey::from_base64(text), Err(RootKeyError::Malformed)), "{text}");
        }
        assert!(matches!(RootKey::from_file(Path::new("/nonexistent")), Err(RootKeyError::File(_))));
        assert_eq!(format!("{:?}", RootKey::from_base64(&STANDARD.encode(bytes)).unwrap()), "RootKey(…)");
    }
}
