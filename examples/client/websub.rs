//! WebSub for a subscriber (W3C WebSub §7.1): is a push from the hub that knows our secret?

use aws_lc_rs::hmac;

/// Whether `signature`, the value of `X-Hub-Signature` (`sha256=<hex>` or another method of WebSub), belongs to these bytes.
pub fn signature_fits(signature: &str, body: &[u8], secret: &str) -> bool {
    let Some((method, hex)) = signature.split_once('=') else { return false };
    let algorithm = match method {
        "sha1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "sha256" => hmac::HMAC_SHA256,
        "sha384" => hmac::HMAC_SHA384,
        "sha512" => hmac::HMAC_SHA512,
        _ => return false,
    };
    let bytes = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let Some(tag) = bytes.collect::<Option<Vec<u8>>>() else { return false };
    hmac::verify(&hmac::Key::new(algorithm, secret.as_bytes()), body, &tag).is_ok()
}
