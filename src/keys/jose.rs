//! JWS in its compact form (RFC 7515 §7.1), made and taken apart by hand: one way to read a token,
//! and no option to read it differently.
//!
//! What is not understood is refused: other serialisations, padding, members that come twice, `crit`,
//! `alg: none` and every keyed hash. The header never chooses a key's algorithm; it may only agree with it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::de::{DeserializeOwned, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::jwk::{KeySet, VerifyingKey};
use super::{Algorithm, KeyError, Signer};

/// The longest name of a key that a header may carry.
const LONGEST_KEY_ID: usize = 256;

/// What a token's header says (RFC 7515 §4.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The algorithm that the token claims to be signed with.
    pub algorithm: Algorithm,
    /// The key that it claims to be signed by.
    pub kid: Option<String>,
    /// What kind of token it claims to be.
    pub typ: Option<String>,
    members: BTreeSet<String>,
}

impl Header {
    /// The names of all members of the header, known or not.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// Whether `typ` is this media type. RFC 7515 §4.1.9: case does not count, and `application/`
    /// may be left out.
    pub fn is_typ(&self, wanted: &str) -> bool {
        fn bare(typ: &str) -> &str {
            let parts = typ.split_at_checked("application/".len());
            let named = parts.filter(|(start, _)| start.eq_ignore_ascii_case("application/"));
            named.map_or(typ, |(_, rest)| rest)
        }
        let typ = self.typ.as_deref();
        typ.is_some_and(|typ| bare(typ).eq_ignore_ascii_case(bare(wanted)))
    }
}

/// A token whose signature nobody has looked at yet. Its claims may be used to choose the key, and
/// for nothing else.
pub struct Unverified<'a> {
    signed: &'a [u8],
    header: Header,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a compact token apart. Refuses one of more than `longest` bytes before anything else.
    pub fn parse(compact: &'a str, longest: usize) -> Result<Self, JoseError> {
        if compact.len() > longest {
            return Err(JoseError::TooLong(longest));
        }
        let (signed, signature) = compact.rsplit_once('.').ok_or(JoseError::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(JoseError::NotCompact)?;
        if payload.contains('.') {
            return Err(JoseError::NotCompact);
        }
        let part = |text: &str, name| BASE64URL.decode(text).map_err(|_| JoseError::NotBase64Url(name));
        let payload = part(payload, "payload")?;
        members(&payload).map_err(|problem| JoseError::Malformed("payload", problem))?;
        Ok(Self {
            signed: signed.as_bytes(),
            header: parse_header(&part(header, "header")?)?,
            payload,
            signature: part(signature, "signature")?,
        })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The claims, read as `T`. They are true only once a signature over them was verified.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, JoseError> {
        serde_json::from_slice(&self.payload).map_err(|e| JoseError::Malformed("payload", words(&e)))
    }

    /// Whether this key signed the token. The key's algorithm counts; the header has to agree with it.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), JoseError> {
        if !key.accepts(self.header.algorithm) {
            return Err(JoseError::OtherAlgorithm(self.header.algorithm));
        }
        if key.verify(self.header.algorithm, self.signed, &self.signature) {
            Ok(())
        } else {
            Err(JoseError::BadSignature)
        }
    }

    /// Whether a key of this set signed the token: the one that the header names, or, where it names
    /// none, any that has the algorithm.
    pub fn verify_with(&self, keys: &KeySet) -> Result<(), JoseError> {
        self.signer_among(keys).map(drop)
    }

    /// The key of this set that signed the token, as [`verify_with`](Self::verify_with) finds it.
    pub fn signer_among<'k>(&self, keys: &'k KeySet) -> Result<&'k VerifyingKey, JoseError> {
        let mut outcome = Err(JoseError::NoKey);
        for key in keys.find(self.header.kid.as_deref(), self.header.algorithm) {
            outcome = self.verify(key).map(|()| key);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// Without the token: whoever holds it can use it.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Makes a compact token of these claims, with `alg`, `kid` and `typ` in its header.
pub async fn sign<C: Serialize + Sync>(
    signer: &dyn Signer,
    typ: &str,
    claims: &C,
) -> Result<String, KeyError> {
    #[derive(Serialize)]
    struct Header<'a> {
        alg: &'static str,
        kid: &'a str,
        typ: &'a str,
    }
    let unusable = |e: serde_json::Error| KeyError::Unusable {
        key: signer.key_id().to_string(),
        reason: format!("the token cannot be written as JSON: {e}"),
    };
    let mut json = Vec::with_capacity(1024);
    let header = Header {
        alg: signer.algorithm().as_str(),
        kid: &signer.key_id().0,
        typ,
    };
    serde_json::to_writer(&mut json, &header).map_err(unusable)?;
    let mut token = String::with_capacity(1536);
    BASE64URL.encode_string(&json, &mut token);
    token.push('.');
    json.clear();
    serde_json::to_writer(&mut json, claims).map_err(unusable)?;
    BASE64URL.encode_string(&json, &mut token);
    let signature = signer.sign(token.as_bytes()).await?;
    token.push('.');
    BASE64URL.encode_string(&signature, &mut token);
    Ok(token)
}

fn parse_header(json: &[u8]) -> Result<Header, JoseError> {
    #[derive(Deserialize)]
    struct Known {
        alg: String,
        kid: Option<String>,
        typ: Option<String>,
    }
    let malformed = |problem| JoseError::Malformed("header", problem);
    let members = members(json).map_err(malformed)?;
    if members.contains("crit") {
        return Err(JoseError::Critical);
    }
    let known: Known = serde_json::from_slice(json).map_err(|e| malformed(words(&e)))?;
    if known.kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KEY_ID) {
        return Err(malformed("`kid` is too long".into()));
    }
    Ok(Header {
        algorithm: known.alg.parse().map_err(|_| JoseError::UnknownAlgorithm)?,
        kid: known.kid,
        typ: known.typ,
        members: members.into_iter().map(Cow::into_owned).collect(),
    })
}

/// The names of the members of a JSON object, each of which may come once (RFC 7515 §4, RFC 7519 §4).
/// Parsers differ in which of two they take, and what differs can be used to say two things at once.
pub(super) fn members(json: &[u8]) -> Result<BTreeSet<Cow<'_, str>>, String> {
    #[derive(Deserialize)]
    struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeSet<Cow<'de, str>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = BTreeSet::new();
            while let Some(Name(name)) = map.next_key()? {
                map.next_value::<IgnoredAny>()?;
                if !names.insert(name) {
                    return Err(serde::de::Error::custom("a member comes twice"));
                }
            }
            Ok(names)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let names = deserializer.deserialize_map(Names).map_err(|e| words(&e))?;
    deserializer.end().map_err(|e| words(&e))?;
    Ok(names)
}

/// What is wrong, without quoting the input: a token's content does not belong into logs.
fn words(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data if error.to_string().starts_with("a member comes twice") => {
            "a member comes twice".to_owned()
        }
        serde_json::error::Category::Data => {
            format!(
                "a member is missing or has the wrong type (column {})",
                error.column()
            )
        }
        _ => "it is no JSON object".to_owned(),
    }
}

/// Why a token is refused. The texts contain nothing of the token but the name of its algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoseError {
    /// Longer than what is accepted here.
    #[error("the token is longer than {0} bytes")]
    TooLong(usize),
    /// Not three parts.
    #[error("the token is no compact JWS: it has three parts, joined by dots")]
    NotCompact,
    /// A part is not base64url.
    #[error("the {0} of the token is not base64url without padding")]
    NotBase64Url(&'static str),
    /// A part is not the JSON that it has to be.
    #[error("the {0} of the token is malformed: {1}")]
    Malformed(&'static str, String),
    /// The header demands something that is not understood here.
    #[error("the header of the token has `crit`, which is not supported")]
    Critical,
    /// `none`, a keyed hash, or an algorithm that nobody here knows.
    #[error("the algorithm of the token is not accepted: sign with ES*, RS*, PS* or EdDSA")]
    UnknownAlgorithm,
    /// The key is for another algorithm than the header says.
    #[error("the key is not for {}, which the header of the token says", .0.as_str())]
    OtherAlgorithm(Algorithm),
    /// No known key fits what the header says.
    #[error("no known key fits the `kid` and `alg` of the token")]
    NoKey,
    /// The signature is not by the key.
    #[error("the signature of the token is wrong")]
    BadSignature,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::jwk::KeyUse;
    use super::super::ring_keys::RingSigner;
    use super::*;
    use crate::entropy::OsEntropy;

    const LONGEST: usize = 4096;

    fn keys(jwk: Value) -> KeySet {
        KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes(), KeyUse::Signature).unwrap()
    }

    fn compact(header: &str, payload: &str, signature: &[u8]) -> String {
        format!(
            "{}.{}.{}",
            BASE64URL.encode(header),
            BASE64URL.encode(payload),
            BASE64URL.encode(signature)
        )
    }

    /// RFC 7515 appendix A.2 (RS256), A.3 (ES256) and RFC 8037 appendix A.4 (EdDSA; its payload is
    /// no JSON object, so only the parts below the parser take it).
    const RS256_JWK: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    const ES256_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const EDDSA_JWK: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const EDDSA_SIGNED: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    const EDDSA_SIGNATURE: &str =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    #[test]
    fn verifies_the_examples_of_the_rfcs() {
        for (token, jwk) in [(RS256, RS256_JWK), (ES256, ES256_JWK)] {
            let token = Unverified::parse(token, LONGEST).unwrap();
            let keys = keys(serde_json::from_str(jwk).unwrap());
            assert_eq!(token.verify_with(&keys), Ok(()));
            assert_eq!(token.claims::<Value>().unwrap()["iss"], "joe");
        }
        let keys = keys(serde_json::from_str(EDDSA_JWK).unwrap());
        let key = keys.find(None, Algorithm::EdDsa).next().unwrap();
        let signature = BASE64URL.decode(EDDSA_SIGNATURE).unwrap();
        assert!(key.verify(Algorithm::EdDsa, EDDSA_SIGNED.as_bytes(), &signature));
    }

    #[test]
    fn refuses_every_token_that_was_changed_in_one_letter() {
        let keys = keys(serde_json::from_str(ES256_JWK).unwrap());
        for place in 0..ES256.len() {
            let mut bytes = ES256.as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let outcome = Unverified::parse(&changed, LONGEST).and_then(|token| token.verify_with(&keys));
            assert!(outcome.is_err(), "letter {place}");
        }
    }

    #[tokio::test]
    async fn what_we_sign_verifies_by_our_key_and_by_no_other() {
        let entropy = OsEntropy::new();
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let ours = RingSigner::generate(algorithm, &entropy).unwrap();
            let other = RingSigner::generate(algorithm, &entropy).unwrap();
            let text = sign(&ours, "at+jwt", &json!({"sub": "a"})).await.unwrap();
            let token = Unverified::parse(&text, LONGEST).unwrap();
            assert_eq!(
                token.header().members().collect::<Vec<_>>(),
                ["alg", "kid", "typ"]
            );
            assert_eq!(token.header().kid.as_deref(), Some(&*ours.key_id().0));
            assert!(token.header().is_typ("application/AT+jwt") && !token.header().is_typ("jwt"));
            assert_eq!(token.verify(ours.public_key()), Ok(()));
            assert_eq!(token.verify(other.public_key()), Err(JoseError::BadSignature));
            let set = KeySet::of([other.public_key().clone()]);
            assert_eq!(
                token.verify_with(&set),
                Err(JoseError::NoKey),
                "its `kid` is not there"
            );
            assert!(!format!("{token:?}").contains(&text[text.len() - 20..]));
        }
    }

    #[test]
    fn refuses_none_and_keyed_hashes_whatever_the_key() {
        for alg in ["none", "None", "HS256", "HS512", "", "es256", "RSA-OAEP"] {
            let token = compact(&format!(r#"{{"alg":"{alg}"}}"#), "{}", b"");
            assert_eq!(
                Unverified::parse(&token, LONGEST).unwrap_err(),
                JoseError::UnknownAlgorithm,
                "{alg}"
            );
        }
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        // The classic confusion: an HMAC whose key is the public key that everybody knows.
        let header = BASE64URL.encode(r#"{"alg":"HS256"}"#);
        let signed = format!("{header}.{}", BASE64URL.encode(r#"{"sub":"admin"}"#));
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, RS256_JWK.as_bytes());
        let tag = ring::hmac::sign(&secret, signed.as_bytes());
        let token = format!("{signed}.{}", BASE64URL.encode(tag));
        assert_eq!(
            Unverified::parse(&token, LONGEST).unwrap_err(),
            JoseError::UnknownAlgorithm
        );
    }

    #[test]
    fn the_header_cannot_choose_the_algorithm_of_a_key() {
        let keys = keys(serde_json::from_str(ES256_JWK).unwrap());
        let key = keys.find(None, Algorithm::Es256).next().unwrap();
        for alg in ["ES384", "RS256", "PS256", "EdDSA"] {
            let token = compact(&format!(r#"{{"alg":"{alg}"}}"#), "{}", &[0; 64]);
            let token = Unverified::parse(&token, LONGEST).unwrap();
            assert_eq!(
                token.verify(key),
                Err(JoseError::OtherAlgorithm(alg.parse().unwrap()))
            );
            assert_eq!(token.verify_with(&keys), Err(JoseError::NoKey));
        }
    }

    #[test]
    fn refuses_members_that_come_twice() {
        for (header, payload) in [
            (r#"{"alg":"ES256","alg":"none"}"#, "{}"),
            (r#"{"alg":"ES256","x":1,"x":1}"#, "{}"),
            (r#"{"alg":"ES256"}"#, r#"{"sub":"a","sub":"b"}"#),
            (r#"{"alg":"ES256"}"#, r#"{"sub":"a","s\u0075b":"b"}"#),
        ] {
            let error = Unverified::parse(&compact(header, payload, &[0; 64]), LONGEST).unwrap_err();
            assert!(error.to_string().ends_with("a member comes twice"), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_compact_jws() {
        let good = compact(r#"{"alg":"ES256"}"#, "{}", &[0; 64]);
        assert!(Unverified::parse(&good, LONGEST).is_ok());
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
        let bad = [
            String::new(),
            "..".into(),
            header.into(),
            format!("{header}.{payload}"),
            format!("{good}."),
            format!("{header}.{payload}.{signature}.{signature}"),
            format!("{good}=="),
            format!("{header}=.{payload}.{signature}"),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{header}.{payload}.{}", signature.replace('A', "+")),
            format!("{header}..{signature}"),
            r#"{"payload":"e30","signatures":[]}"#.into(),
            compact(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, "{}", &[0; 64]),
            compact(r#"{"alg":["ES256"]}"#, "{}", &[0; 64]),
            compact(r#"{"kid":"a"}"#, "{}", &[0; 64]),
            compact(
                &format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(257)),
                "{}",
                &[0; 64],
            ),
            compact(r#"["alg","ES256"]"#, "{}", &[0; 64]),
            compact(r#"{"alg":"ES256"}x"#, "{}", &[0; 64]),
            compact(r#"{"alg":"ES256"}"#, "[]", &[0; 64]),
            compact(r#"{"alg":"ES256"}"#, "{} {}", &[0; 64]),
            compact(r#"{"alg":"ES256"}"#, "\"text\"", &[0; 64]),
        ];
        for token in bad {
            assert!(Unverified::parse(&token, LONGEST).is_err(), "{token}");
        }
        assert_eq!(
            Unverified::parse(&good, good.len() - 1).unwrap_err(),
            JoseError::TooLong(good.len() - 1)
        );
    }

    #[test]
    fn errors_do_not_quote_the_token() {
        #[derive(Debug, Deserialize)]
        struct Claims {
            #[expect(dead_code, reason = "only its type matters")]
            sub: u64,
        }
        let token = compact(r#"{"alg":"ES256"}"#, r#"{"sub":"a-secret-name"}"#, &[0; 64]);
        let token = Unverified::parse(&token, LONGEST).unwrap();
        let error = token.claims::<Claims>().unwrap_err().to_string();
        assert!(!error.contains("a-secret-name"), "{error}");
    }
}
