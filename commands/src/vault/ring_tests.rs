use sha2::{Digest, Sha256};

use super::super::keystore::tests::root_key;
use super::*;

const RING: Uuid = Uuid::from_u128(0x01890a5d_ac96_7000_8000_000000000004);
const TENANT: Uuid = Uuid::from_u128(0x01890a5d_ac96_774b_bcce_b302099a8057);
const NONCE: [u8; 24] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

fn ring() -> Ring {
    let fill = |keys: &mut [u8]| {
        keys.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index * 7 + index / 251) as u8);
        Ok::<_, ()>(())
    };
    Ring::generate(RING, TENANT, fill).unwrap()
}

fn digest(file: &[u8]) -> String {
    Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect()
}

// The digests are of files made by an implementation apart from this one (see the golden vectors of sealed values).
#[test]
fn golden_files() {
    let root = root_key(0xa5);
    let whole = ring().encode(&root, NONCE).unwrap();
    assert_eq!(whole.len(), FILE_BYTES);
    assert_eq!(digest(&whole), "203847f3a4660cb0e77faed2f55987ac5bcc97bb12495cdd1a3b5ebda65f3f67");
    let without = ring().without(200, &[RetentionClass::Billing]).encode(&root, NONCE).unwrap();
    assert_eq!(digest(&without), "f01811a4ea3bf1bc1bc1bd131c7885486bdc3097b39ea6ecb58e0ee90b2eb3a5");
}

#[test]
fn a_ring_survives_its_file_and_any_damage_is_found() {
    let (root, ring) = (root_key(1), ring());
    let file = ring.encode(&root, NONCE).unwrap();
    let decode = |file: &[u8]| Ring::decode(&root, RING, TENANT, file).unwrap();
    assert!(decode(&file).unwrap().same_as(&ring));
    for index in (0..file.len()).step_by(97).chain([0, 11, 12, 28, 44, 68, file.len() - 1]) {
        let mut file = file.clone();
        file[index] ^= 1;
        assert!(decode(&file).is_none(), "byte {index}");
    }
    assert!(decode(&[]).is_none() && decode(&file[..file.len() - 1]).is_none());
    let other = Uuid::from_u128(9);
    assert!(Ring::decode(&root, other, TENANT, &file).unwrap().is_none());
    assert!(Ring::decode(&root, RING, other, &file).unwrap().is_none());
    assert!(Ring::decode(&root_key(2), RING, TENANT, &file).unwrap().is_none(), "another root key");
}

#[test]
fn destroying_keys_takes_just_these() {
    let ring = Ring::generate(RING, TENANT, getrandom::fill).unwrap();
    let classes = [RetentionClass::Profile, RetentionClass::Support];
    let next = ring.without(255, &classes);
    assert_eq!((ring.generation(), next.generation()), (0, 1));
    assert!(ring.survives_in(&next, 255, &classes));
    assert!(!ring.survives_in(&next, 255, &RetentionClass::ALL) && !ring.survives_in(&next, 254, &classes));
    assert!(!ring.survives_in(&ring, 255, &classes));
    assert_eq!(next.key(255, RetentionClass::Billing), ring.key(255, RetentionClass::Billing));
    assert_eq!(next.key(255, RetentionClass::Profile), None);
    let gone = ring.key(255, RetentionClass::Support).unwrap();
    assert!(!next.body.windows(32).any(|window| window == gone), "no trace of its bytes");
    assert_eq!(format!("{next:?}"), format!("Ring({RING})"));
}

#[test]
fn of_two_copies_the_higher_generation_counts_and_equal_ones_lose_what_either_lost() {
    let classes = RetentionClass::ALL;
    let (old, new) = (|| ring(), || ring().without(1, &classes));
    assert!(old().newest(new()).same_as(&new()));
    assert!(new().newest(old()).same_as(&new()));
    assert!(new().newest(new()).same_as(&new()));
    let merged = new().newest(ring().without(2, &classes));
    assert_eq!(merged.generation(), 2);
    for slot in [1, 2] {
        assert!(classes.iter().all(|class| merged.key(slot, *class).is_none()));
    }
    assert_eq!(merged.key(3, RetentionClass::Profile), ring().key(3, RetentionClass::Profile));
}
