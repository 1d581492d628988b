//! Claims and request fingerprints: HMAC-SHA-256 under a tenant's key, so that neither tells what it stands for.
//!
//! Input: label ‖ 0x00 ‖ each part with its length in bytes (u32, big-endian) before it. The parts of a claim
//! (label `annals claim v1`) are its kind and the canonical name; those of a fingerprint
//! (label `annals request fingerprint v1`) are the operation and the body in the form of RFC 8785, which knows numbers
//! as doubles: integers beyond 2^53 that round to one double have one fingerprint.

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use serde_json::Value;

const CLAIM: &[u8] = b"annals claim v1\0";
const FINGERPRINT: &[u8] = b"annals request fingerprint v1\0";

/// The HMAC key of a tenant.
pub(super) fn key(bytes: &[u8]) -> Key {
    Key::new(HMAC_SHA256, bytes)
}

fn mac(key: &Key, label: &[u8], parts: [&[u8]; 2]) -> [u8; 32] {
    let mut context = Context::with_key(key);
    context.update(label);
    for part in parts {
        // No part comes near 4 GiB: requests are bounded far below.
        context.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// The key of the claim on a name of a kind, such as `email`.
pub(super) fn claim(key: &Key, kind: &str, name: &str) -> [u8; 32] {
    mac(key, CLAIM, [kind.as_bytes(), name.as_bytes()])
}

/// The fingerprint of a request.
pub(super) fn fingerprint(key: &Key, operation: &str, body: &Value) -> Result<[u8; 32], serde_json::Error> {
    let body = serde_json_canonicalizer::to_vec(body)?;
    Ok(mac(key, FINGERPRINT, [operation.as_bytes(), &body]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn body(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    // Made by an implementation apart from this one (Python's hmac).
    #[test]
    fn golden_vectors() {
        let key = key(&[0x5a; 32]);
        assert_eq!(
            hex(claim(&key, "email", "ada@bücher.example")),
            "390427d7b84b297cd70c60b83b452a26e86197a263d518ac0246f15c1239adfb"
        );
        let body = body(r#"{"b":{"y":true,"x":null},"a":[1.0,2.50,"\u00e9"]}"#);
        assert_eq!(
            hex(fingerprint(&key, "commerce.customer.create", &body).unwrap()),
            "b76ddd411ea5a149858aebac643e1ab067e9f4b8114d15ae1754bd2e67b510c5"
        );
    }

    #[test]
    fn a_claim_is_of_one_tenant_kind_and_name() {
        let first = claim(&key(&[1; 32]), "email", "ada");
        assert_ne!(first, claim(&key(&[2; 32]), "email", "ada"));
        assert_ne!(first, claim(&key(&[1; 32]), "emaila", "da"));
        assert_ne!(first, claim(&key(&[1; 32]), "email", "adb"));
    }

    #[test]
    fn a_fingerprint_is_of_one_operation_and_body_but_no_order_of_keys() {
        let key = key(&[1; 32]);
        let print = |operation: &str, text: &str| fingerprint(&key, operation, &body(text)).unwrap();
        let first = print("orders.place", r#"{"a":1,"b":[{"c":2,"d":3}]}"#);
        assert_eq!(first, print("orders.place", r#"{ "b": [{"d":3,"c":2.0}], "a": 1e0 }"#));
        assert_ne!(first, print("orders.cancel", r#"{"a":1,"b":[{"c":2,"d":3}]}"#));
        assert_ne!(first, print("orders.place", r#"{"a":1,"b":[{"c":2,"d":4}]}"#));
        assert_ne!(print("orders.place", "null"), print("orders.place", "{}"));
    }
}
