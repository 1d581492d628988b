use super::*;

const TENANT: Uuid = Uuid::from_u128(0x01890a5d_ac96_774b_bcce_b302099a8057);
const SUBJECT: Uuid = Uuid::from_u128(0x01890a5d_ac96_7000_8000_000000000002);
const EVENT: Uuid = Uuid::from_u128(0x01890a5d_ac96_7000_8000_000000000003);

/// The key of class 1 is 32 times 0x11, that of class 2 0x22, and so on.
fn key(class: RetentionClass) -> [u8; 32] {
    [class.byte() * 0x11; 32]
}

fn at(path: &str) -> Address<'_> {
    Address { tenant: TENANT, subject: SUBJECT, event: EVENT, path }
}

/// 24 bytes that count up from the first.
fn nonce(first: u8) -> [u8; 24] {
    std::array::from_fn(|index| first + index as u8)
}

/// Class, path, JSON text, first byte of the nonce, sealed value. Made by an implementation apart from this one: HKDF
/// from Python's hmac, HChaCha20 as in draft-irtf-cfrg-xchacha-03, ChaCha20-Poly1305 of RFC 8439 from OpenSSL.
const GOLDEN: [(RetentionClass, &str, &str, u8, &str); 4] = [
    (
        RetentionClass::Profile,
        "/name",
        r#""Ada Lovelace""#,
        0,
        "AQEhdmR49I11Xy6Xag_-UyzgOlC6lB52ACpmkk0WH3ylIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFwA1AYkKXayWd0u8zrMCCZqAVwGJCl2s\
         lnAAgAAAAAAAAAIBiQpdrJZwAIAAAAAAAAADL25hbWXO3GS457pY6DxsK5yS88mi-xMctkKwQDeq8bYdwJ4",
    ),
    (
        RetentionClass::Billing,
        "/lines/0/größe~1m~0",
        r#""""#,
        32,
        "AQL0d4zA57KHHsVRtE2EFy1EoMiwJcSZkKTa3GtgjWLS-yAhIiMkJSYnKCkqKywtLi8wMTIzNDU2NwBFAYkKXayWd0u8zrMCCZqAVwGJCl2s\
         lnAAgAAAAAAAAAIBiQpdrJZwAIAAAAAAAAADL2xpbmVzLzAvZ3LDtsOfZX4xbX4w5QJoFgTlQWL3SVuNVo6XOi9N",
    ),
    (
        RetentionClass::Support,
        "/transcript/12/seconds",
        "-1.5e3",
        64,
        "AQPPoHuXzn468ACJ79QeL3N0cBcQV5qIY4mrjIL4OXSUK0BBQkNERUZHSElKS0xNTk9QUVJTVFVWVwBGAYkKXayWd0u8zrMCCZqAVwGJCl2s\
         lnAAgAAAAAAAAAIBiQpdrJZwAIAAAAAAAAADL3RyYW5zY3JpcHQvMTIvc2Vjb25kc8oBVttA-n4IUVVx0IjYCYtPwZL6hug",
    ),
    (
        RetentionClass::Profile,
        "",
        r#"{"line1":"1 Rue de l’Été","tags":[null,true]}"#,
        96,
        "AQHJRwbtMvMDs_rx-WVosBj4VYc8UamjjE4wVmEnO9EbE2BhYmNkZWZnaGlqa2xtbm9wcXJzdHV2dwAwAYkKXayWd0u8zrMCCZqAVwGJCl2s\
         lnAAgAAAAAAAAAIBiQpdrJZwAIAAAAAAAAADJAcNfPycJH242ru_klTmeQuBGR7i36xz4r7sTt1gV02GdxNoI84FXMIKjs0r_VKA4PHiCzJD\
         IiFgBcRHJbJTmvE",
    ),
];

#[test]
fn golden_vectors_both_ways() {
    for (class, path, json, first, text) in GOLDEN {
        assert_eq!(seal(&key(class), class, at(path), nonce(first), json).unwrap(), text, "{path}");
        let envelope = Envelope::parse(text).unwrap();
        assert_eq!((envelope.class(), envelope.address()), (class, at(path)));
        assert_eq!(*envelope.open(TENANT, &key(class)).unwrap(), json.as_bytes(), "{path}");
    }
}

/// What opening gives after one bit of the byte at `index` was flipped.
fn flipped(index: usize, bit: u8) -> SealError {
    let mut bytes = URL_SAFE_NO_PAD.decode(GOLDEN[0].4).unwrap();
    bytes[index] ^= 1 << bit;
    let envelope = Envelope::parse(&URL_SAFE_NO_PAD.encode(bytes));
    let opened = envelope.and_then(|envelope| {
        let key = key(envelope.class());
        envelope.open(TENANT, &key)
    });
    opened.unwrap_err()
}

#[test]
fn every_flipped_bit_is_found_and_says_where_it_was() {
    let length = URL_SAFE_NO_PAD.decode(GOLDEN[0].4).unwrap().len();
    for index in 0..length {
        for bit in 0..8 {
            let error = flipped(index, bit);
            let expected = match index {
                0 => matches!(error, SealError::UnknownFormat(_)),
                // Another class has another key.
                1 => matches!(error, SealError::Malformed | SealError::WrongKey),
                2..34 => error == SealError::WrongKey,
                34..58 => error == SealError::Tampered,
                58..60 => matches!(error, SealError::Malformed | SealError::WrongKey),
                60..76 => error == SealError::OtherTenant,
                76..92 => error == SealError::Tampered,
                // A path that is UTF-8 no longer is malformed.
                92..113 => matches!(error, SealError::WrongKey | SealError::Malformed),
                _ => error == SealError::Tampered,
            };
            assert!(expected, "byte {index}, bit {bit}: {error:?}");
        }
    }
}

#[test]
fn a_value_opens_only_as_what_it_was_sealed_as() {
    let (class, other) = (RetentionClass::Profile, Uuid::from_u128(99));
    let secret = |at: Address<'_>, key: &[u8; 32]| seal(key, class, at, nonce(0), r#""x""#).unwrap();
    let open = |text: &str, tenant, key: &[u8; 32]| Envelope::parse(text).unwrap().open(tenant, key).map(drop);

    let text = secret(at("/a"), &key(class));
    assert_eq!(open(&text, TENANT, &key(class)), Ok(()));
    assert_eq!(open(&text, other, &key(class)), Err(SealError::OtherTenant));
    for class in [RetentionClass::Billing, RetentionClass::Support] {
        assert_eq!(open(&text, TENANT, &key(class)), Err(SealError::WrongKey));
    }
    // The same ciphertext under the address of another value.
    let graft = |address: Address<'_>| {
        let (body, donor) = (URL_SAFE_NO_PAD.decode(&text).unwrap(), secret(address, &key(class)));
        let mut donor = URL_SAFE_NO_PAD.decode(donor).unwrap();
        let tail = donor.len() - 19;
        donor[tail..].copy_from_slice(&body[body.len() - 19..]);
        URL_SAFE_NO_PAD.encode(donor)
    };
    assert_eq!(open(&graft(at("/a")), TENANT, &key(class)), Ok(()));
    for address in [at("/b"), Address { subject: other, ..at("/a") }, Address { event: other, ..at("/a") }] {
        assert_eq!(open(&graft(address), TENANT, &key(class)), Err(SealError::Tampered), "{address:?}");
    }
    let foreign = graft(Address { tenant: other, ..at("/a") });
    assert_eq!(open(&foreign, other, &key(class)), Err(SealError::Tampered));
}

#[test]
fn malformed_texts_are_refused() {
    let whole = GOLDEN[0].4;
    let mut cut = URL_SAFE_NO_PAD.decode(whole).unwrap();
    cut.truncate(cut.len() - 15);
    for text in
        ["", "A", "AQ", "AQE", "not base64!", &format!("{whole}="), &whole[..100], &URL_SAFE_NO_PAD.encode([1; 60])]
    {
        assert_eq!(Envelope::parse(text).map(drop), Err(SealError::Malformed), "{text}");
    }
    assert_eq!(Envelope::parse("Ag").map(drop), Err(SealError::UnknownFormat(2)));
    let long = "x".repeat(65_488);
    let class = RetentionClass::Profile;
    assert_eq!(seal(&key(class), class, at(&long), nonce(0), "1"), Err(SealError::PathTooLong));
    assert!(seal(&key(class), class, at(&long[1..]), nonce(0), "1").is_ok());
}
