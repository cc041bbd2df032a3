//! JWS in its compact form (RFC 7515 §7.1): one way to read a token, and no option to read it differently.
//!
//! What is not understood is refused: other serialisations, padding, members that come twice, `crit`, and every algorithm
//! that Dayfly does not sign with. The header never chooses a key's algorithm; it may only agree with it.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The longest name of a key that a header may carry.
const LONGEST_KEY_ID: usize = 256;

/// What Dayfly signs with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Es256,
    Es384,
    EdDsa,
    Rs256,
}

impl Algorithm {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            "RS256" => Self::Rs256,
            _ => return None,
        })
    }
}

/// Why a token is no token of a key that we have. The texts contain nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
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
    /// It is signed in a way that Dayfly does not use.
    #[error("the algorithm of the token is not accepted here")]
    OtherAlgorithm,
    /// No known key fits what the header says.
    #[error("no known key fits the `kid` and `alg` of the token")]
    NoKey,
    /// The signature is not by the key.
    #[error("the signature of the token is wrong")]
    BadSignature,
}

/// A token whose signature nobody has looked at yet.
pub(super) struct Unverified<'a> {
    signed: &'a [u8],
    algorithm: Algorithm,
    kid: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// A token, or that it is of another type.
pub(super) enum Parsed<'a> {
    Token(Unverified<'a>),
    OtherType,
}

impl<'a> Unverified<'a> {
    /// Takes a compact token of this type apart. Refuses one of more than `longest` bytes before anything else.
    pub(super) fn parse(compact: &'a str, typ: &str, longest: usize) -> Result<Parsed<'a>, InvalidToken> {
        if compact.len() > longest {
            return Err(InvalidToken::TooLong(longest));
        }
        let (signed, signature) = compact.rsplit_once('.').ok_or(InvalidToken::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(InvalidToken::NotCompact)?;
        if payload.contains('.') {
            return Err(InvalidToken::NotCompact);
        }
        let part = |text: &str, name| {
            BASE64URL
                .decode(text)
                .map_err(|_| InvalidToken::NotBase64Url(name))
        };
        let payload = part(payload, "payload")?;
        members(&payload).map_err(|problem| InvalidToken::Malformed("payload", problem))?;
        let header = Header::parse(&part(header, "header")?)?;
        if !header.is_typ(typ) {
            return Ok(Parsed::OtherType);
        }
        let missing = || InvalidToken::Malformed("header", "`kid` is missing".to_owned());
        Ok(Parsed::Token(Self {
            signed: signed.as_bytes(),
            algorithm: Algorithm::read(&header.alg).ok_or(InvalidToken::OtherAlgorithm)?,
            kid: header.kid.ok_or_else(missing)?,
            payload,
            signature: part(signature, "signature")?,
        }))
    }

    /// The claims, once one of the keys is found to have signed them.
    pub(super) fn verified<T: DeserializeOwned>(&self, keys: &Keys) -> Result<T, InvalidToken> {
        let mut named = keys
            .0
            .iter()
            .filter(|key| key.id == self.kid && key.accepts(self.algorithm));
        let mut outcome = Err(InvalidToken::NoKey);
        // Several keys of one name are a mistake of whoever publishes them; each may be the one.
        for key in named.by_ref().take(Keys::TRIED) {
            outcome = Err(InvalidToken::BadSignature);
            if key.verify(self.algorithm, self.signed, &self.signature) {
                outcome = Ok(());
                break;
            }
        }
        outcome?;
        serde_json::from_slice(&self.payload)
            .map_err(|error| InvalidToken::Malformed("payload", words(&error)))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, InvalidToken> {
        let malformed = |problem| InvalidToken::Malformed("header", problem);
        if members(json).map_err(malformed)?.contains("crit") {
            return Err(InvalidToken::Critical);
        }
        let header: Self = serde_json::from_slice(json).map_err(|error| malformed(words(&error)))?;
        if header.kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KEY_ID) {
            return Err(malformed("`kid` is too long".to_owned()));
        }
        Ok(header)
    }

    /// RFC 7515 §4.1.9: case does not count, and `application/` may be left out.
    fn is_typ(&self, wanted: &str) -> bool {
        let typ = self.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        typ.strip_prefix("application/").unwrap_or(&typ) == wanted
    }
}

/// The names of the members of a JSON object, each of which may come once (RFC 7515 §4, RFC 7519 §4). Parsers differ in
/// which of two they take, and what differs can be used to say two things at once.
fn members(json: &[u8]) -> Result<BTreeSet<String>, String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeSet<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = BTreeSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if !names.insert(name) {
                    return Err(serde::de::Error::custom("a member comes twice"));
                }
            }
            Ok(names)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let names = deserializer
        .deserialize_map(Names)
        .map_err(|error| words(&error))?;
    deserializer.end().map_err(|error| words(&error))?;
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

/// The keys of a broker: a JWK Set (RFC 7517 §5), of which the entries that are not understood are left out.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    /// Its one algorithm, or any that its shape permits.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    /// An uncompressed point: `04`, x, y.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// Big-endian, without leading zeros.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

/// A set of keys that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the JWK Set cannot be used: {0}")]
pub struct InvalidKeys(&'static str);

/// The members that only a private or a symmetric key has (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    use_: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Keys {
    /// The longest text that is read: 1 MiB.
    pub const LONGEST: usize = 1 << 20;
    /// The most entries that a set may have.
    const MOST: usize = 256;
    /// The most keys that are tried for one token.
    const TRIED: usize = 8;

    /// Reads a JWK Set. One with a private key in it is refused as a whole.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidKeys> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        if json.len() > Self::LONGEST {
            return Err(InvalidKeys("it is longer than 1 MiB"));
        }
        let raw: Result<Raw<'_>, _> = serde_json::from_slice(json);
        let raw = raw.map_err(|_| InvalidKeys("it is no JSON object with an array `keys`"))?;
        if raw.keys.len() > Self::MOST {
            return Err(InvalidKeys("it has more than 256 keys"));
        }
        let mut keys = Vec::new();
        for entry in raw.keys {
            let Ok(members) = members(entry.get().as_bytes()) else {
                continue;
            };
            if PRIVATE.iter().any(|name| members.contains(*name)) {
                return Err(InvalidKeys(
                    "it contains a private key: whoever publishes it has to replace that key",
                ));
            }
            let jwk = serde_json::from_str::<Jwk>(entry.get()).ok();
            keys.extend(jwk.and_then(Key::read));
        }
        Ok(Self(keys))
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Self> {
        let signs = matches!(jwk.use_.as_deref(), None | Some("sig"));
        let verifies = jwk.key_ops.iter().all(|ops| ops.iter().any(|op| op == "verify"));
        if !signs || !verifies {
            return None;
        }
        let material = Material::read(&jwk)?;
        let algorithm = match &jwk.alg {
            None => None,
            Some(alg) => Some(Algorithm::read(alg).filter(|alg| material.fits(*alg))?),
        };
        Some(Self {
            id: jwk.kid?,
            algorithm,
            material,
        })
    }

    fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.material.fits(algorithm)
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        let with = |how: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key).verify(message, signed).is_ok()
        };
        self.accepts(algorithm)
            && match &self.material {
                Material::P256(point) => with(&signature::ECDSA_P256_SHA256_FIXED, point),
                Material::P384(point) => with(&signature::ECDSA_P384_SHA384_FIXED, point),
                Material::Ed25519(key) => with(&signature::ED25519, key),
                Material::Rsa(key) => {
                    let how = &signature::RSA_PKCS1_2048_8192_SHA256;
                    key.verify(how, message, signed).is_ok()
                }
            }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Material {
    fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm
            == match self {
                Self::P256(_) => Algorithm::Es256,
                Self::P384(_) => Algorithm::Es384,
                Self::Ed25519(_) => Algorithm::EdDsa,
                Self::Rsa(_) => Algorithm::Rs256,
            }
    }

    fn read(jwk: &Jwk) -> Option<Self> {
        let bytes = |member: &Option<String>| BASE64URL.decode(member.as_deref()?).ok();
        let exactly = |member, length| bytes(member).filter(|bytes| bytes.len() == length);
        let point = |length| {
            let (x, y) = (exactly(&jwk.x, length)?, exactly(&jwk.y, length)?);
            Some([&[4], x.as_slice(), y.as_slice()].concat())
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => point(32).map(Self::P256),
            ("EC", Some("P-384")) => point(48).map(Self::P384),
            ("OKP", Some("Ed25519")) => exactly(&jwk.x, 32).map(Self::Ed25519),
            ("RSA", None) => {
                let trimmed = |bytes: Vec<u8>| {
                    bytes
                        .into_iter()
                        .skip_while(|byte| *byte == 0)
                        .collect::<Vec<_>>()
                };
                let (n, e) = (trimmed(bytes(&jwk.n)?), trimmed(bytes(&jwk.e)?));
                let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
                let sound = (2048..=8192).contains(&bits) && (1..=5).contains(&e.len());
                sound.then_some(Self::Rsa(RsaPublicKeyComponents { n, e }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{SigningKey, key};
    use super::*;

    fn read(token: &str, keys: &Keys) -> Result<Value, InvalidToken> {
        match Unverified::parse(token, "at+jwt", 4096)? {
            Parsed::Token(token) => token.verified(keys),
            Parsed::OtherType => Ok(Value::Null),
        }
    }

    fn keys(of: &[&SigningKey]) -> Keys {
        let set = json!({ "keys": of.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
        Keys::parse(set.to_string().as_bytes()).unwrap()
    }

    fn compact(header: Value, payload: &str, key: &SigningKey) -> String {
        key.sign_raw(&header.to_string(), payload)
    }

    #[test]
    fn each_algorithm_of_dayfly_is_verified_with_its_own_key_alone() {
        let all = [SigningKey::es256(), SigningKey::es384(), SigningKey::ed25519()];
        for key in &all {
            let token = key.sign("at+jwt", &json!({"a": 1}));
            assert_eq!(read(&token, &keys(&[key])), Ok(json!({"a": 1})));
            assert_eq!(read(&token, &keys(&[])), Err(InvalidToken::NoKey));
            let (signed, _) = token.rsplit_once('.').unwrap();
            let forged = format!("{signed}.{}", BASE64URL.encode([7; 64]));
            assert_eq!(read(&forged, &keys(&[key])), Err(InvalidToken::BadSignature));
        }
        // The name of one key with the algorithm of another.
        let [one, other, _] = &all;
        let header = json!({"alg": other.alg(), "kid": one.kid(), "typ": "at+jwt"});
        let token = compact(header, "{}", other);
        assert_eq!(read(&token, &keys(&[one, other])), Err(InvalidToken::NoKey));
    }

    #[test]
    fn a_known_rsa_signature_is_verified() {
        // RFC 7515 §A.2, of which the header has no `kid`: here the key alone is looked at.
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let jwk = json!({"kty": "RSA", "n": n, "e": "AQAB", "kid": "rsa", "alg": "RS256"});
        let set = Keys::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
        let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let signature = BASE64URL.decode(signature).unwrap();
        let [key] = &set.0[..] else { panic!() };
        assert!(key.verify(Algorithm::Rs256, signed.as_bytes(), &signature));
        assert!(!key.verify(Algorithm::Rs256, b"something else", &signature));
        let (_, payload) = signed.split_once('.').unwrap();
        let mut token = Unverified {
            signed: signed.as_bytes(),
            algorithm: Algorithm::Rs256,
            kid: "rsa".to_owned(),
            payload: BASE64URL.decode(payload).unwrap(),
            signature,
        };
        assert_eq!(token.verified::<Value>(&set).unwrap()["iss"], "joe");
        token.algorithm = Algorithm::Es256;
        assert_eq!(token.verified::<Value>(&set), Err(InvalidToken::NoKey));
        (token.algorithm, token.signature[7]) = (Algorithm::Rs256, 0);
        assert_eq!(token.verified::<Value>(&set), Err(InvalidToken::BadSignature));
    }

    #[test]
    fn known_signatures_over_curves_are_verified() {
        // RFC 7515 §A.3 and RFC 8037 §A.4.
        let es256 = json!({
            "kty": "EC", "crv": "P-256", "kid": "a", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let ed25519 = json!({
            "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        });
        for (jwk, algorithm, signed, signature) in [
            (
                es256,
                Algorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                ed25519,
                Algorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            let set = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
            let signature = BASE64URL.decode(signature).unwrap();
            assert!(set.0[0].verify(algorithm, signed.as_bytes(), &signature));
            assert!(!set.0[0].verify(algorithm, b"something else", &signature));
        }
    }

    #[test]
    fn every_token_that_was_changed_in_one_letter_is_refused() {
        for key in [SigningKey::es256(), SigningKey::ed25519()] {
            let (set, claims) = (keys(&[&key]), json!({"a": 1}));
            let token = key.sign("at+jwt", &claims);
            for place in 0..token.len() {
                let mut bytes = token.as_bytes().to_vec();
                bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                // As of another type it is not for us, and nothing in it counts.
                assert!(
                    matches!(read(&changed, &set), Err(_) | Ok(Value::Null)),
                    "letter {place}"
                );
            }
        }
    }

    #[test]
    fn a_name_that_many_keys_have_makes_no_more_than_a_few_tried() {
        let key = SigningKey::es256().renamed("k");
        let token = key.sign("at+jwt", &json!({}));
        let others: Vec<_> = (0..Keys::TRIED)
            .map(|_| SigningKey::es256().renamed("k"))
            .collect();
        let mut of: Vec<_> = others.iter().skip(1).chain([&key]).collect();
        assert_eq!(read(&token, &keys(&of)), Ok(json!({})), "the last that is tried");
        of.insert(0, &others[0]);
        assert_eq!(read(&token, &keys(&of)), Err(InvalidToken::BadSignature));
    }

    #[test]
    fn a_set_that_is_too_large_is_refused() {
        let jwk = key().jwk();
        let set = |many: usize| json!({ "keys": vec![jwk.clone(); many] }).to_string();
        assert_eq!(
            Keys::parse(set(Keys::MOST).as_bytes()).unwrap().0.len(),
            Keys::MOST
        );
        assert!(Keys::parse(set(Keys::MOST + 1).as_bytes()).is_err());
        let long = |length: usize| format!(r#"{{"keys":[],"x":"{}"}}"#, "a".repeat(length));
        assert!(Keys::parse(long(Keys::LONGEST - 100).as_bytes()).is_ok());
        assert!(Keys::parse(long(Keys::LONGEST).as_bytes()).is_err());
    }

    #[test]
    fn errors_do_not_quote_the_token() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Numbers {
            sub: u64,
        }
        let key = key();
        let token = key.sign("at+jwt", &json!({"sub": "a-secret-name"}));
        let Ok(Parsed::Token(parsed)) = Unverified::parse(&token, "at+jwt", 4096) else {
            panic!("it is one");
        };
        let refused = parsed.verified::<Numbers>(&keys(&[&key])).unwrap_err();
        let header = json!({"alg": "a-secret-name", "kid": "a-secret-name", "typ": "at+jwt"});
        let twice = r#"{"a-secret-name":1,"a-secret-name":2}"#;
        let others = [
            compact(header, "{}", &key),
            key.sign_raw(r#"{"alg":"ES256","kid":7,"typ":"a-secret-name"}"#, "{}"),
            key.sign_raw(r#"{"alg":"ES256","kid":"a-secret-name","typ":"at+jwt"}"#, twice),
            "a-secret-name.a-secret-name!.a-secret-name".to_owned(),
        ];
        let others = others
            .iter()
            .map(|token| read(token, &keys(&[&key])).unwrap_err());
        for error in [refused].into_iter().chain(others) {
            assert!(!format!("{error} {error:?}").contains("a-secret-name"), "{error}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let key = key();
        let set = keys(&[&key]);
        let header = |name: &str, value: Value| {
            let mut header = json!({"alg": "ES256", "kid": key.kid(), "typ": "at+jwt"});
            header[name] = value;
            header
        };
        for alg in ["none", "HS256", "PS256", "ES512", ""] {
            let token = compact(header("alg", alg.into()), "{}", &key);
            assert_eq!(read(&token, &set), Err(InvalidToken::OtherAlgorithm), "{alg}");
        }
        let token = compact(header("crit", json!(["exp"])), "{}", &key);
        assert_eq!(read(&token, &set), Err(InvalidToken::Critical));
        assert!(read(&compact(header("kid", Value::Null), "{}", &key), &set).is_err());
        assert!(read(&compact(header("kid", "k".repeat(257).into()), "{}", &key), &set).is_err());
        for payload in ["", "[]", r#"{"a":1,"a":2}"#, "{} {}", "null"] {
            let token = compact(header("typ", "at+jwt".into()), payload, &key);
            let refused = read(&token, &set);
            assert!(
                matches!(refused, Err(InvalidToken::Malformed("payload", _))),
                "{payload}"
            );
        }
        let token = key.sign("at+jwt", &json!({}));
        for bad in [
            format!("{token}="),
            format!("{token}.x"),
            token.replace('.', " ."),
            "a.b".to_owned(),
        ] {
            assert!(read(&bad, &set).is_err(), "{bad}");
        }
        assert_eq!(read(&"a".repeat(4097), &set), Err(InvalidToken::TooLong(4096)));
        assert_eq!(
            read(&key.sign("application/AT+JWT", &json!({})), &set),
            Ok(json!({}))
        );
        assert_eq!(
            read(&key.sign("JWT", &json!({})), &set),
            Ok(Value::Null),
            "another type"
        );
    }

    #[test]
    fn a_set_leaves_out_what_it_does_not_understand_and_refuses_private_keys() {
        let key = key();
        let with = |name: &str, value: Value| {
            let mut jwk = key.jwk();
            jwk[name] = value;
            json!({"keys": [jwk, {"kty": "unheard"}, 7]}).to_string()
        };
        let count = |set: &str| Keys::parse(set.as_bytes()).map(|keys| keys.0.len());
        assert_eq!(count(&with("new", "member".into())), Ok(1));
        for (name, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("ES384")),
            ("crv", json!("P-384")),
            ("x", json!("AAAA")),
            ("kid", Value::Null),
        ] {
            assert_eq!(count(&with(name, value)), Ok(0), "{name}");
        }
        for name in PRIVATE {
            assert!(count(&with(name, "x".into())).is_err(), "{name}");
        }
        assert!(count("[]").is_err() && count("{}").is_err());
    }
}
