//! Signatures of what a hub sends (WebSub §7.1, PubSubHubbub 0.4 §8).

use aws_lc_rs::hmac;

use crate::domain::hub::Digest;

/// The value of `X-Hub-Signature` (WebSub §7.1).
pub fn sign(digest: Digest, secret: &str, body: &[u8]) -> String {
    let (method, algorithm) = match digest {
        Digest::Sha1 => ("sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        Digest::Sha256 => ("sha256", hmac::HMAC_SHA256),
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{method}={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3 and RFC 2202 §3, test case 2.
    #[test]
    fn signatures_are_those_of_the_published_vectors() {
        let body = b"what do ya want for nothing?";
        let sha256 = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(sign(Digest::Sha256, "Jefe", body), sha256);
        assert_eq!(sign(Digest::Sha1, "Jefe", body), "sha1=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    }
}
