//! Public keys: JWK and JWK Sets (RFC 7517, 7518 §6, 8037 §2), read strictly and written for others.
//!
//! A key is parsed once and knows its algorithms from then on. A set ignores the entries that it does
//! not understand, as RFC 7517 §5 asks, and refuses to be used at all when somebody published a
//! private key in it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Algorithm, KeyError, KeyId, jose};

/// What the keys of a set have to be for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyUse {
    /// Signatures: `use` is `sig` or absent, `key_ops` has `verify` or is absent.
    Signature,
    /// JWT-SVIDs: `use` is `jwt-svid` and there is a `kid` (SPIFFE trust bundle §4.2).
    JwtSvid,
    /// X.509-SVIDs: `use` is `x509-svid`. What counts is the certificate in `x5c`, not the key.
    X509Svid,
}

/// A public key as a JWK. Public members only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Jwk {
    /// The family of the key: `EC`, `RSA` or `OKP`.
    pub kty: String,
    /// What it is for.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub use_: Option<String>,
    /// What may be done with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    /// Its one algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Its curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// The first coordinate of its point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// The second coordinate of its point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Its modulus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// Its exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

/// A parsed public key, with the algorithms that it may be used for.
#[derive(Clone)]
pub struct VerifyingKey {
    id: Option<KeyId>,
    algorithms: Arc<[Algorithm]>,
    material: Material,
}

#[derive(Clone)]
pub(super) enum Material {
    /// An uncompressed point: `04`, x, y.
    P256(Arc<[u8]>),
    P384(Arc<[u8]>),
    #[cfg(feature = "josekit")]
    P521(Arc<super::josekit::P521Key>),
    Ed25519(Arc<[u8]>),
    /// Big-endian, without leading zeros.
    Rsa(Arc<RsaPublicKeyComponents<Vec<u8>>>),
}

const RSA: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

impl Material {
    /// What a key of this shape can be used for when nothing narrows it.
    fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::P256(_) => &[Algorithm::Es256],
            Self::P384(_) => &[Algorithm::Es384],
            #[cfg(feature = "josekit")]
            Self::P521(_) => &[Algorithm::Es512],
            Self::Ed25519(_) => &[Algorithm::EdDsa],
            Self::Rsa(_) => &RSA,
        }
    }

    fn parse(jwk: &Jwk) -> Option<Self> {
        let bytes = |member: &Option<String>| BASE64URL.decode(member.as_deref()?).ok();
        let exactly = |member, length| bytes(member).filter(|bytes| bytes.len() == length);
        let point = |length| {
            let (x, y) = (exactly(&jwk.x, length)?, exactly(&jwk.y, length)?);
            Some([&[4], x.as_slice(), y.as_slice()].concat().into())
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => point(32).map(Self::P256),
            ("EC", Some("P-384")) => point(48).map(Self::P384),
            #[cfg(feature = "josekit")]
            ("EC", Some("P-521")) => super::josekit::P521Key::new(jwk).map(|key| Self::P521(key.into())),
            ("OKP", Some("Ed25519")) => exactly(&jwk.x, 32).map(|x| Self::Ed25519(x.into())),
            ("RSA", None) => {
                let trimmed = |bytes: Vec<u8>| bytes.into_iter().skip_while(|b| *b == 0).collect::<Vec<_>>();
                let (n, e) = (trimmed(bytes(&jwk.n)?), trimmed(bytes(&jwk.e)?));
                let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
                ((2048..=8192).contains(&bits) && (1..=5).contains(&e.len()))
                    .then(|| Self::Rsa(Arc::new(RsaPublicKeyComponents { n, e })))
            }
            _ => None,
        }
    }
}

impl VerifyingKey {
    /// From a JWK; `None` when it is not understood or its members do not fit each other.
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let material = Material::parse(jwk)?;
        let algorithms: Arc<[Algorithm]> = match &jwk.alg {
            None => material.algorithms().into(),
            Some(alg) => {
                let alg = alg.parse().ok()?;
                material.algorithms().contains(&alg).then(|| [alg].into())?
            }
        };
        Some(Self {
            id: jwk.kid.as_deref().map(|kid| KeyId(kid.into())),
            algorithms,
            material,
        })
    }

    /// A key of our own: one algorithm, named by its thumbprint.
    pub(super) fn own(material: Material, algorithm: Algorithm) -> (KeyId, Self) {
        let mut key = Self {
            id: None,
            algorithms: [algorithm].into(),
            material,
        };
        let id = KeyId(key.thumbprint().into());
        key.id = Some(id.clone());
        (id, key)
    }

    /// Its name, where it has one.
    pub fn id(&self) -> Option<&KeyId> {
        self.id.as_ref()
    }

    /// Whether it may be used for this algorithm.
    pub fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether this key signed the message with this algorithm. The signature has the form of RFC 7518 §3.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let with = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key)
                .verify(message, signature)
                .is_ok()
        };
        self.accepts(algorithm)
            && match &self.material {
                Material::P256(point) => with(&signature::ECDSA_P256_SHA256_FIXED, point),
                Material::P384(point) => with(&signature::ECDSA_P384_SHA384_FIXED, point),
                #[cfg(feature = "josekit")]
                Material::P521(key) => key.verify(message, signature),
                Material::Ed25519(key) => with(&signature::ED25519, key),
                Material::Rsa(key) => {
                    let how = match algorithm {
                        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                        _ => return false,
                    };
                    key.verify(how, message, signature).is_ok()
                }
            }
    }

    /// The key for publishing, with its name, and its algorithm where there is just one.
    pub fn to_jwk(&self) -> Jwk {
        let text = |bytes: &[u8]| Some(BASE64URL.encode(bytes));
        let mut jwk = Jwk {
            kty: String::new(),
            use_: Some("sig".into()),
            key_ops: None,
            alg: match &*self.algorithms {
                [one] => Some(one.as_str().into()),
                _ => None,
            },
            kid: self.id.as_ref().map(ToString::to_string),
            crv: None,
            x: None,
            y: None,
            n: None,
            e: None,
        };
        let mut ec = |curve: &str, point: &[u8]| {
            let (x, y) = point.split_at(point.len().div_ceil(2));
            jwk.kty = "EC".into();
            jwk.crv = Some(curve.into());
            (jwk.x, jwk.y) = (text(x.get(1..).unwrap_or_default()), text(y));
        };
        match &self.material {
            Material::P256(point) => ec("P-256", point),
            Material::P384(point) => ec("P-384", point),
            #[cfg(feature = "josekit")]
            Material::P521(key) => {
                let (x, y) = key.coordinates();
                jwk.kty = "EC".into();
                jwk.crv = Some("P-521".into());
                (jwk.x, jwk.y) = (Some(x.into()), Some(y.into()));
            }
            Material::Ed25519(x) => {
                jwk.kty = "OKP".into();
                jwk.crv = Some("Ed25519".into());
                jwk.x = text(x);
            }
            Material::Rsa(key) => {
                jwk.kty = "RSA".into();
                (jwk.n, jwk.e) = (text(&key.n), text(&key.e));
            }
        }
        jwk
    }

    /// The RFC 7638 thumbprint: SHA-256 of the required members in a fixed form, as base64url.
    pub fn thumbprint(&self) -> String {
        let jwk = self.to_jwk();
        let known = |member: &Option<String>| member.clone().unwrap_or_default();
        let (x, y, n, e) = (known(&jwk.x), known(&jwk.y), known(&jwk.n), known(&jwk.e));
        let crv = known(&jwk.crv);
        // Base64url and the names of curves need no escaping.
        let canonical = match jwk.kty.as_str() {
            "RSA" => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            "OKP" => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
            _ => format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#),
        };
        BASE64URL.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// The members that only a private or a symmetric key has (RFC 7518 §6.2.2, §6.3.2, §6.4; RFC 8037 §2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A set of public keys.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    ignored: usize,
}

impl KeySet {
    /// The longest text that is read: 1 MiB.
    pub const LONGEST: usize = 1 << 20;
    /// The most entries that a set may have.
    pub const MOST: usize = 256;
    /// The most keys that are tried for one token.
    const TRIED: usize = 8;

    /// Reads a JWK Set. Entries that are not for this use, or not understood, are left out.
    pub fn parse(json: &[u8], purpose: KeyUse) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let unusable = |reason: String| KeyError::Unusable {
            key: "JWK Set".into(),
            reason,
        };
        if json.len() > Self::LONGEST {
            return Err(unusable(format!("it is longer than {} bytes", Self::LONGEST)));
        }
        let raw: Raw<'_> = serde_json::from_slice(json)
            .map_err(|_| unusable("it is no JSON object with an array `keys`".into()))?;
        if raw.keys.len() > Self::MOST {
            return Err(unusable(format!("it has more than {} keys", Self::MOST)));
        }
        let mut set = Self::default();
        for entry in &raw.keys {
            let entry = entry.get();
            let members = jose::members(entry.as_bytes()).unwrap_or_default();
            if PRIVATE.iter().any(|name| members.contains(*name)) {
                return Err(unusable(
                    "it contains a private key: whoever publishes it has to replace that key".into(),
                ));
            }
            let jwk = serde_json::from_str::<Jwk>(entry)
                .ok()
                .filter(|jwk| !members.is_empty() && purpose.admits(jwk));
            match jwk.as_ref().and_then(VerifyingKey::from_jwk) {
                Some(key) => set.keys.push(key),
                None => set.ignored += 1,
            }
        }
        Ok(set)
    }

    /// A set of these keys.
    pub fn of(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            ignored: 0,
        }
    }

    /// The keys that a token with this header could be signed by, at most eight. A named key has to
    /// have the name; without a name each key with the algorithm is a candidate.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &VerifyingKey> {
        self.keys
            .iter()
            .filter(move |key| {
                kid.is_none_or(|kid| key.id.as_ref().is_some_and(|id| &*id.0 == kid))
                    && key.accepts(algorithm)
            })
            .take(Self::TRIED)
    }

    /// Whether some key has this name.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys
            .iter()
            .any(|key| key.id.as_ref().is_some_and(|id| &*id.0 == kid))
    }

    /// The keys.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// How many entries were left out when the set was read.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The set for publishing.
    pub fn to_json(&self) -> String {
        let keys: Vec<Jwk> = self.keys.iter().map(VerifyingKey::to_jwk).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

impl KeyUse {
    fn admits(self, jwk: &Jwk) -> bool {
        let verifies = || {
            jwk.key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"))
        };
        match (self, jwk.use_.as_deref()) {
            (Self::Signature, None | Some("sig")) => verifies(),
            (Self::JwtSvid, Some("jwt-svid")) => jwk.kid.is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// RFC 7638 §3.1.
    const RFC_7638_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    /// RFC 8037 appendix A.2.
    const ED25519_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn rsa() -> Value {
        json!({"kty": "RSA", "n": RFC_7638_N, "e": "AQAB", "kid": "2011-04-29"})
    }

    fn ed() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519_X, "kid": "ed"})
    }

    fn with(mut jwk: Value, name: &str, value: impl Into<Value>) -> Value {
        jwk[name] = value.into();
        jwk
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeyError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), KeyUse::Signature)
    }

    #[test]
    fn thumbprints_are_those_of_the_rfcs() {
        let set = parse(&[rsa(), ed()]).unwrap();
        let prints: Vec<_> = set.keys().iter().map(VerifyingKey::thumbprint).collect();
        assert_eq!(
            prints,
            [
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
                "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
            ]
        );
    }

    #[test]
    fn a_key_has_the_algorithm_that_it_names_or_those_of_its_shape() {
        let key = |jwk| parse(&[jwk]).unwrap().keys()[0].clone();
        let open = key(rsa());
        assert!(RSA.iter().all(|alg| open.accepts(*alg)));
        assert!(!open.accepts(Algorithm::Es256) && !open.accepts(Algorithm::EdDsa));
        let fixed = key(with(rsa(), "alg", "PS256"));
        assert!(fixed.accepts(Algorithm::Ps256) && !fixed.accepts(Algorithm::Rs256));
        for alg in ["ES256", "HS256", "none", "RSA-OAEP"] {
            assert!(
                parse(&[with(rsa(), "alg", alg)]).unwrap().keys().is_empty(),
                "{alg}"
            );
        }
    }

    #[test]
    fn leaves_out_what_it_does_not_understand_and_keeps_the_rest() {
        let short = BASE64URL.encode([0xff; 128]);
        let strange = [
            json!({"kty": "LATTICE", "x": "AA"}),
            json!({"kty": "OKP", "crv": "X25519", "x": ED25519_X}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            json!({"kty": 7}),
            json!("text"),
            with(rsa(), "n", short),
            with(rsa(), "e", ""),
            with(ed(), "x", format!("{ED25519_X}=")),
            with(ed(), "use", "enc"),
            with(ed(), "use", "jwt-svid"),
            with(ed(), "key_ops", json!(["sign"])),
        ];
        for jwk in strange {
            let set = parse(&[jwk.clone(), ed()]).unwrap();
            assert_eq!((set.keys().len(), set.ignored()), (1, 1), "{jwk}");
        }
        assert_eq!(parse(&[with(ed(), "use", "sig")]).unwrap().keys().len(), 1);
    }

    #[test]
    fn refuses_a_set_with_a_private_or_symmetric_key() {
        for name in PRIVATE {
            assert!(parse(&[with(ed(), name, "AAAA")]).is_err(), "{name}");
        }
        assert!(parse(&[json!({"kty": "oct", "k": "AAAA"}), ed()]).is_err());
    }

    #[test]
    fn refuses_sets_that_are_too_large_or_none() {
        assert!(parse(&vec![ed(); KeySet::MOST]).is_ok());
        assert!(parse(&vec![ed(); KeySet::MOST + 1]).is_err());
        let long = format!(r#"{{"keys":[],"x":"{}"}}"#, "a".repeat(KeySet::LONGEST));
        assert!(KeySet::parse(long.as_bytes(), KeyUse::Signature).is_err());
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(
                KeySet::parse(text.as_bytes(), KeyUse::Signature).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_trust_bundle_gives_only_named_keys_for_jwt_svids() {
        let nameless = json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519_X, "use": "jwt-svid"});
        let bundle = json!({"keys": [
            with(ed(), "use", "jwt-svid"), ed(), with(ed(), "use", "x509-svid"), with(ed(), "use", "sig"), nameless,
        ]});
        let set = KeySet::parse(bundle.to_string().as_bytes(), KeyUse::JwtSvid).unwrap();
        assert_eq!((set.keys().len(), set.ignored()), (1, 4));
    }

    #[test]
    fn finds_by_name_or_by_algorithm_and_never_more_than_a_few() {
        let set = parse(&[rsa(), ed()]).unwrap();
        let found = |kid, alg| set.find(kid, alg).count();
        assert_eq!(found(Some("ed"), Algorithm::EdDsa), 1);
        assert_eq!(found(Some("ed"), Algorithm::Rs256), 0);
        assert_eq!(found(Some("other"), Algorithm::EdDsa), 0);
        assert_eq!(found(None, Algorithm::Ps512), 1);
        assert!(set.knows("ed") && !set.knows("other"));
        let many = parse(&vec![ed(); 100]).unwrap();
        assert_eq!(many.find(None, Algorithm::EdDsa).count(), KeySet::TRIED);
    }

    #[test]
    fn what_is_published_reads_back_as_the_same_keys() {
        let set = parse(&[with(rsa(), "alg", "RS256"), ed()]).unwrap();
        let again = KeySet::parse(set.to_json().as_bytes(), KeyUse::Signature).unwrap();
        for (one, other) in set.keys().iter().zip(again.keys()) {
            assert_eq!(one.thumbprint(), other.thumbprint());
            assert_eq!(one.id(), other.id());
        }
        assert_eq!(again.keys().len(), 2);
        assert!(!again.keys()[0].accepts(Algorithm::Ps256));
    }
}
