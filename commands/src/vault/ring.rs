//! A keyring: 256 slots of three random keys, one a retention class, for the people of one tenant.
//!
//! Format 1 of its file: `annals ring` ‖ 0x01 ‖ ring id 16 ‖ tenant 16 ‖ nonce 24 ‖ ciphertext ‖ tag 16
//! (XChaCha20-Poly1305; the 44 bytes before the nonce are authenticated), under HKDF-SHA-256 of the root key with
//! info = `annals keyring v1` ‖ 0x00 ‖ ring id ‖ tenant. Inside: generation u64 big-endian ‖ one bit a key, set where
//! the key is there (96 bytes; key n is bit n mod 8, from the lowest, of byte n / 8) ‖ the 768 keys, zeros where
//! destroyed. Key n is the one of slot n / 3 and class byte n mod 3 + 1.

use domain::RetentionClass;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::kdf::CipherError;
use super::root::RootKey;

/// How many people one ring holds keys for.
pub const SLOTS: usize = 256;
const KEY: usize = 32;
const KEYS: usize = SLOTS * RetentionClass::ALL.len();
const PRESENCE: std::ops::Range<usize> = 8..8 + KEYS / 8;
const BODY: usize = PRESENCE.end + KEYS * KEY;
const MAGIC: &[u8; 12] = b"annals ring\x01";
const LABEL: &[u8] = b"annals keyring v1";
/// The exact size of a ring's file.
pub const FILE_BYTES: usize = MAGIC.len() + 16 + 16 + 24 + BODY + 16;

/// A decrypted ring: on the heap, in one piece, wiped when dropped.
pub struct Ring {
    id: Uuid,
    tenant: Uuid,
    body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.id)
    }
}

fn key_number(slot: u8, class: RetentionClass) -> usize {
    usize::from(slot) * RetentionClass::ALL.len() + usize::from(class.byte() - 1)
}

fn header(id: Uuid, tenant: Uuid) -> [u8; 44] {
    let mut header = [0; 44];
    header[..12].copy_from_slice(MAGIC);
    header[12..28].copy_from_slice(id.as_bytes());
    header[28..].copy_from_slice(tenant.as_bytes());
    header
}

impl Ring {
    /// A new ring; `fill` gives the random bytes of its keys.
    pub fn generate<E>(id: Uuid, tenant: Uuid, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut body = Zeroizing::new(vec![0; BODY]);
        body[PRESENCE].fill(0xff);
        fill(&mut body[PRESENCE.end..])?;
        Ok(Self { id, tenant, body })
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whose people it holds keys for.
    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    /// How often keys were destroyed in it. Of two copies the higher one counts.
    pub fn generation(&self) -> u64 {
        self.body.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// The key of a slot's class, unless it was destroyed.
    pub fn key(&self, slot: u8, class: RetentionClass) -> Option<&[u8; KEY]> {
        let number = key_number(slot, class);
        let there = self.body[PRESENCE.start + number / 8] >> (number % 8) & 1 == 1;
        let at = PRESENCE.end + number * KEY;
        if there { self.body[at..at + KEY].try_into().ok() } else { None }
    }

    /// The next generation, without these keys of one slot.
    pub fn without(&self, slot: u8, classes: &[RetentionClass]) -> Self {
        let mut next = Self { id: self.id, tenant: self.tenant, body: self.body.clone() };
        next.body[..8].copy_from_slice(&self.generation().saturating_add(1).to_be_bytes());
        for class in classes {
            next.wipe(key_number(slot, *class));
        }
        next
    }

    fn wipe(&mut self, number: usize) {
        self.body[PRESENCE.start + number / 8] &= !(1 << (number % 8));
        let at = PRESENCE.end + number * KEY;
        self.body[at..at + KEY].fill(0);
    }

    /// Whether `next` has all keys of this ring but those of one slot's classes, and none of these.
    pub fn survives_in(&self, next: &Self, slot: u8, destroyed: &[RetentionClass]) -> bool {
        self.id == next.id
            && self.tenant == next.tenant
            && (0..=u8::MAX).all(|each| {
                RetentionClass::ALL.into_iter().all(|class| {
                    let gone = each == slot && destroyed.contains(&class);
                    next.key(each, class) == if gone { None } else { self.key(each, class) }
                })
            })
    }

    /// Whether both copies are the same, to the byte.
    pub fn same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.tenant == other.tenant && self.body == other.body
    }

    /// The copy that counts: the higher generation, so that no old copy brings a destroyed key back. Two copies of one
    /// generation are the same unless a file lock failed; then what either destroyed stays destroyed.
    pub fn newest(self, other: Self) -> Self {
        if self.generation() != other.generation() || self.body[PRESENCE] == other.body[PRESENCE] {
            return if other.generation() > self.generation() { other } else { self };
        }
        let mut merged = self.without(0, &[]);
        for slot in 0..=u8::MAX {
            for class in RetentionClass::ALL {
                if other.key(slot, class).is_none() {
                    merged.wipe(key_number(slot, class));
                }
            }
        }
        merged
    }

    /// The bytes of its file. The nonce must be fresh.
    pub fn encode(&self, root: &RootKey, nonce: [u8; 24]) -> Result<Vec<u8>, CipherError> {
        root.seal_file(LABEL, &[self.id, self.tenant], &header(self.id, self.tenant), nonce, &self.body)
    }

    /// Reads its file; none where the bytes are damaged, or of another ring, tenant or root key.
    pub fn decode(root: &RootKey, id: Uuid, tenant: Uuid, file: &[u8]) -> Result<Option<Self>, CipherError> {
        let body = root.open_file(LABEL, &[id, tenant], &header(id, tenant), file)?;
        Ok(body.filter(|body| body.len() == BODY).map(|body| Self { id, tenant, body }))
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
