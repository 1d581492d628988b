//! How every key of the vault is derived: HKDF-SHA-256 (RFC 5869) with an empty salt, and an `info` that begins with a
//! label and a zero byte, so that no two uses share a key.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// A cipher or a key derivation refused lengths that the formats never have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cipher refused its input")]
pub struct CipherError;

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `N` bytes of key from `secret` for the use that `info` (its parts joined) names.
pub(super) fn derive<const N: usize>(secret: &[u8], info: &[&[u8]]) -> Result<Zeroizing<[u8; N]>, CipherError> {
    let mut out = Zeroizing::new([0; N]);
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
    let expanded = extracted.expand(info, Length(N)).map_err(|_| CipherError)?;
    expanded.fill(out.as_mut_slice()).map_err(|_| CipherError)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivation_is_that_of_rfc_5869() {
        // Appendix A.3: SHA-256, no salt, no info.
        let okm = derive::<42>(&[0x0b; 22], &[]).unwrap();
        let expected = [
            0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f, 0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c, 0x5a, 0x31, 0xb8, 0xa1,
            0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e, 0xc3, 0x45, 0x4e, 0x5f, 0x3c, 0x73, 0x8d, 0x2d, 0x9d, 0x20, 0x13, 0x95,
            0xfa, 0xa4, 0xb6, 0x1a, 0x96, 0xc8,
        ];
        assert_eq!(*okm, expected);
    }
}
