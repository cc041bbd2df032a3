//! The ticket that goes with every request: a short-lived JWS over where it goes and what it says.
//!
//! It has the claims of a DPoP proof (RFC 9449 §4.2: `htm`, `htu`, `iat`, `jti`) and those of a JWT for
//! one recipient (RFC 7523 §3: `iss`, `aud`, `exp`), plus the digest of the body, which is what
//! `Content-Digest` is for in HTTP message signatures (RFC 9421 §7.2.8, RFC 9530). Message signatures
//! would say the same, but a receiver has a JWT library and Dayfly's published keys, and no parser of
//! structured fields. The type (RFC 8725 §3.11) keeps it apart from every other token of these keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::entropy::{Entropy, draw};
use crate::keys::jose;
use crate::keys::key_ring::KeyRing;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;

/// The `typ` of a ticket.
pub const TYP: &str = "dayfly-webhook+jwt";
/// How long a ticket is good for, in seconds; also how long a receiver has to remember it.
pub const LIFE: u64 = 60;

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    htm: &'static str,
    htu: &'a str,
    body_sha256: String,
}

/// A ticket to `POST` this body to `htu`, once. Whoever holds it could be faster, so it is a secret.
pub(super) async fn issue(
    keys: &KeyRing,
    entropy: &dyn Entropy,
    (iss, aud): (&str, &str),
    htu: &str,
    body: &[u8],
    at: Timestamp,
) -> Result<Secret, ProviderError> {
    let unavailable =
        |reason: String| ProviderError::Unavailable(format!("no request can be signed: {reason}"));
    let random: [u8; 16] = draw(entropy).map_err(|e| unavailable(e.to_string()))?;
    let claims = Claims {
        iss,
        aud,
        iat: at.as_secs(),
        exp: at.as_secs().saturating_add(LIFE),
        jti: BASE64URL.encode(random),
        htm: "POST",
        htu,
        body_sha256: BASE64URL.encode(digest(&SHA256, body)),
    };
    let ticket = jose::sign(&*keys.current(), TYP, &claims).await;
    ticket.map(Secret::new).map_err(|e| unavailable(e.to_string()))
}
