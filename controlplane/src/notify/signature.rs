//! Signatures of webhooks as the Standard Webhooks specification has them
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>): HMAC-SHA256 over
//! `id.timestamp.body`, so that a receiver knows who sent a message, that nobody changed it, and that it is not an old one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// What signs. The specification asks for 24 to 64 bytes.
#[derive(Debug, Clone)]
pub struct SigningKey(Secret);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// Not in the form of the specification.
    #[error("a webhook's secret is \"whsec_\" and 24 to 64 bytes in base64: openssl rand -base64 32 makes them")]
    Form,
    /// Of the wrong size.
    #[error("a webhook's secret has 24 to 64 bytes, this one has {0}")]
    Length(usize),
}

impl SigningKey {
    /// Reads `whsec_` and base64, as receivers show it.
    ///
    /// # Errors
    /// When it is something else; the text is not in the error.
    pub fn parse(secret: &Secret) -> Result<Self, NoKey> {
        let text = secret.text().ok_or(NoKey::Form)?.trim();
        let bytes = STANDARD.decode(text.strip_prefix("whsec_").ok_or(NoKey::Form)?).map_err(|_| NoKey::Form)?;
        if (24..=64).contains(&bytes.len()) { Ok(Self(Secret::new(bytes))) } else { Err(NoKey::Length(bytes.len())) }
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        // A key of any length will do: HMAC has no other error.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.bytes()) else { return String::new() };
        mac.update(id.as_bytes());
        mac.update(format!(".{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn key(text: &str) -> Result<SigningKey, NoKey> {
        SigningKey::parse(&Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_known_message_has_the_signature_that_others_compute() {
        // Computed with openssl: printf '%s' msg_test_0001.1700000000.BODY | openssl dgst -sha256 -mac HMAC ...
        let key = key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n").unwrap();
        let signature = key.sign("msg_test_0001", 1_700_000_000, br#"{"event":"attack.detected"}"#);
        assert_eq!(signature, "v1,g6A3J1rP0AqX5evNNL+ELblJv+LMgYOmZxymdVuxze0=");
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_shown() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for (text, error) in [
            ("", NoKey::Form),
            ("C2FVsBQIhrscChlQIMV+b5sSYspob7oD", NoKey::Form),
            ("whsec_not base64", NoKey::Form),
            (&short, NoKey::Length(23)),
            (&long, NoKey::Length(65)),
        ] {
            let found = key(text).unwrap_err();
            assert_eq!(found, error);
            assert!(text.is_empty() || !found.to_string().contains(text));
        }
        assert!(!format!("{:?}", key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap()).contains("C2FV"));
    }
}
