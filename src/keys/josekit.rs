//! What ring lacks, by josekit (OpenSSL): ES512 signatures, and credentials sealed to a workload's key.
//!
//! Sealing only. Nothing here opens a JWE: inflating or decrypting what an outsider sends is a way in,
//! and Dayfly needs neither.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use josekit::jwe::alg::ecdh_es::{EcdhEsJweAlgorithm, EcdhEsJweEncrypter};
use josekit::jwe::{self, JweHeader};
use josekit::jwk::Jwk as JosekitJwk;
use josekit::jws::JwsVerifier as _;
use josekit::jws::alg::ecdsa::{EcdsaJwsAlgorithm, EcdsaJwsVerifier};

use super::jwk::Jwk;
use super::{KeyError, jose};
use crate::model::secret::Secret;

/// A public key on P-521, for ES512.
pub struct P521Key {
    verifier: EcdsaJwsVerifier,
    x: String,
    y: String,
}

impl P521Key {
    /// From a JWK; `None` when its point is not on the curve.
    pub fn new(jwk: &Jwk) -> Option<Self> {
        let (x, y) = (coordinate(&jwk.x, 66)?, coordinate(&jwk.y, 66)?);
        let theirs = public_jwk("EC", "P-521", &x, Some(&y))?;
        let verifier = EcdsaJwsAlgorithm::Es512.verifier_from_jwk(&theirs).ok()?;
        Some(Self { verifier, x, y })
    }

    /// Whether this key signed the message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifier.verify(message, signature).is_ok()
    }

    /// Both coordinates of its point, as base64url.
    pub fn coordinates(&self) -> (&str, &str) {
        (&self.x, &self.y)
    }
}

/// Somebody whom a credential can be sealed to: the public key of a workload, on P-256 or X25519.
#[derive(Clone)]
pub struct Recipient {
    encrypter: EcdhEsJweEncrypter,
}

impl Recipient {
    /// Reads a public JWK (RFC 7517). `use`, where it is given, is `enc`; `alg` is `ECDH-ES+A256KW`,
    /// which is also the default, or `ECDH-ES` (RFC 7518 §4.6).
    pub fn parse(json: &[u8]) -> Result<Self, KeyError> {
        let unusable = |reason: &str| KeyError::Unusable {
            key: "recipient".into(),
            reason: reason.into(),
        };
        if json.len() > 4096 {
            return Err(unusable("it is longer than 4096 bytes"));
        }
        let members = jose::members(json).map_err(|e| unusable(&e))?;
        if members.contains("d") || members.contains("k") {
            return Err(unusable(
                "it is a private key: send the public part, and replace that key",
            ));
        }
        let jwk: Jwk = serde_json::from_slice(json).map_err(|_| unusable("it is no JWK"))?;
        if jwk.use_.as_deref().is_some_and(|use_| use_ != "enc") {
            return Err(unusable("its `use` is not `enc`"));
        }
        let algorithm = match jwk.alg.as_deref() {
            None | Some("ECDH-ES+A256KW") => EcdhEsJweAlgorithm::EcdhEsA256kw,
            Some("ECDH-ES") => EcdhEsJweAlgorithm::EcdhEs,
            Some(_) => return Err(unusable("its `alg` is neither `ECDH-ES+A256KW` nor `ECDH-ES`")),
        };
        let theirs = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => coordinate(&jwk.x, 32)
                .zip(coordinate(&jwk.y, 32))
                .and_then(|(x, y)| public_jwk("EC", "P-256", &x, Some(&y))),
            ("OKP", Some("X25519")) => {
                coordinate(&jwk.x, 32).and_then(|x| public_jwk("OKP", "X25519", &x, None))
            }
            _ => return Err(unusable("it is no key on P-256 or X25519")),
        };
        let mut encrypter = theirs
            .and_then(|theirs| algorithm.encrypter_from_jwk(&theirs).ok())
            .ok_or_else(|| unusable("its point is not on its curve"))?;
        if let Some(kid) = jwk.kid {
            encrypter.set_key_id(kid);
        }
        Ok(Self { encrypter })
    }

    /// Seals a secret so that only the recipient can read it: a compact JWE (RFC 7516 §7.1) with
    /// A256GCM and without compression, which would leak through the length.
    pub fn seal(&self, secret: &Secret) -> Result<String, KeyError> {
        let mut header = JweHeader::new();
        header.set_content_encryption("A256GCM");
        jwe::serialize_compact(secret.expose().as_bytes(), &header, &self.encrypter)
            .map_err(|_| KeyError::Unavailable("the credential could not be sealed".into()))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipient").finish_non_exhaustive()
    }
}

/// A coordinate of exactly so many bytes; a shorter one is not what RFC 7518 §6.2.1.2 writes.
fn coordinate(member: &Option<String>, length: usize) -> Option<String> {
    let text = member.as_deref()?;
    (BASE64URL.decode(text).ok()?.len() == length).then(|| text.to_owned())
}

fn public_jwk(kty: &str, crv: &str, x: &str, y: Option<&str>) -> Option<JosekitJwk> {
    let mut jwk = JosekitJwk::new(kty);
    for (name, value) in [("crv", Some(crv)), ("x", Some(x)), ("y", y)] {
        jwk.set_parameter(name, value.map(Into::into)).ok()?;
    }
    Some(jwk)
}

#[cfg(test)]
mod tests {
    use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
    use josekit::jwk::alg::ecx::{EcxCurve, EcxKeyPair};
    use josekit::jws::alg::eddsa::EddsaJwsAlgorithm;
    use josekit::jws::alg::rsassa::RsassaJwsAlgorithm;
    use josekit::jws::{JwsHeader, JwsSigner, JwsVerifier};
    use serde_json::{Value, json};

    use super::super::jose::{JoseError, Unverified, sign};
    use super::super::jwk::{KeySet, KeyUse};
    use super::super::ring_keys::{RingSigner, generate_pkcs8};
    use super::super::{Algorithm, Signer as _};
    use super::*;
    use crate::entropy::OsEntropy;

    fn set(jwk: &JosekitJwk) -> KeySet {
        let keys = json!({ "keys": [jwk.to_public_key().unwrap()] });
        KeySet::parse(keys.to_string().as_bytes(), KeyUse::Signature).unwrap()
    }

    fn their_token(signer: &dyn JwsSigner) -> String {
        josekit::jws::serialize_compact(br#"{"sub":"a"}"#, &JwsHeader::new(), signer).unwrap()
    }

    /// Both ways: josekit reads what we sign, and we read what josekit signs, with the same key.
    async fn agree(ours: RingSigner, signer: &dyn JwsSigner, verifier: &dyn JwsVerifier, jwk: &JosekitJwk) {
        let token = sign(&ours, "JWT", &json!({"sub": "a"})).await.unwrap();
        let (payload, header) = josekit::jws::deserialize_compact(&token, verifier).unwrap();
        assert_eq!(payload, br#"{"sub":"a"}"#);
        assert_eq!(header.claim("kid"), Some(&Value::from(&*ours.key_id().0)));

        let theirs = their_token(signer);
        let read = Unverified::parse(&theirs, 4096).unwrap();
        assert_eq!(read.verify(ours.public_key()), Ok(()));
        assert_eq!(read.verify_with(&set(jwk)), Ok(()));
    }

    #[tokio::test]
    async fn josekit_and_we_agree_on_es256() {
        // Made by ring, which wants the public part in the document; josekit leaves it out.
        let der = generate_pkcs8(Algorithm::Es256, &OsEntropy::new()).unwrap();
        let pair = EcdsaJwsAlgorithm::Es256.key_pair_from_der(&der).unwrap();
        let jwk = pair.to_jwk_key_pair();
        let ours = RingSigner::from_pkcs8(&der, &OsEntropy::new()).unwrap();
        let signer = EcdsaJwsAlgorithm::Es256.signer_from_der(&der).unwrap();
        let verifier = EcdsaJwsAlgorithm::Es256
            .verifier_from_jwk(&jwk.to_public_key().unwrap())
            .unwrap();
        agree(ours, &signer, &verifier, &jwk).await;
    }

    #[tokio::test]
    async fn josekit_and_we_agree_on_rs256() {
        let pair = RsassaJwsAlgorithm::Rs256.generate_key_pair(2048).unwrap();
        let der = pair.to_der_private_key();
        let jwk = pair.to_jwk_key_pair();
        let ours = RingSigner::from_pkcs8(&der, &OsEntropy::new()).unwrap();
        assert_eq!(ours.algorithm(), Algorithm::Rs256);
        let signer = RsassaJwsAlgorithm::Rs256.signer_from_der(&der).unwrap();
        let verifier = RsassaJwsAlgorithm::Rs256
            .verifier_from_jwk(&jwk.to_public_key().unwrap())
            .unwrap();
        agree(ours, &signer, &verifier, &jwk).await;
    }

    #[tokio::test]
    async fn josekit_and_we_agree_on_eddsa() {
        let pair = EddsaJwsAlgorithm::Eddsa
            .generate_key_pair(josekit::jwk::alg::ed::EdCurve::Ed25519)
            .unwrap();
        let der = pair.to_der_private_key();
        let jwk = pair.to_jwk_key_pair();
        let ours = RingSigner::from_pkcs8(&der, &OsEntropy::new()).unwrap();
        let signer = EddsaJwsAlgorithm::Eddsa.signer_from_der(&der).unwrap();
        let verifier = EddsaJwsAlgorithm::Eddsa
            .verifier_from_jwk(&jwk.to_public_key().unwrap())
            .unwrap();
        agree(ours, &signer, &verifier, &jwk).await;
    }

    #[test]
    fn every_other_algorithm_of_the_jwt_svid_list_verifies() {
        use josekit::jws::{ES384, ES512, PS256, PS384, PS512, RS384, RS512};
        let mut rsa = RsassaJwsAlgorithm::Rs256
            .generate_key_pair(2048)
            .unwrap()
            .to_jwk_key_pair();
        rsa.set_parameter("alg", None).unwrap();
        let p384 = ES384.generate_key_pair().unwrap().to_jwk_key_pair();
        let p521 = ES512.generate_key_pair().unwrap().to_jwk_key_pair();
        let cases: [(Box<dyn JwsSigner>, &JosekitJwk); 7] = [
            (Box::new(ES384.signer_from_jwk(&p384).unwrap()), &p384),
            (Box::new(ES512.signer_from_jwk(&p521).unwrap()), &p521),
            (Box::new(RS384.signer_from_jwk(&rsa).unwrap()), &rsa),
            (Box::new(RS512.signer_from_jwk(&rsa).unwrap()), &rsa),
            (Box::new(PS256.signer_from_jwk(&rsa).unwrap()), &rsa),
            (Box::new(PS384.signer_from_jwk(&rsa).unwrap()), &rsa),
            (Box::new(PS512.signer_from_jwk(&rsa).unwrap()), &rsa),
        ];
        for (signer, jwk) in cases {
            let name = signer.algorithm().name().to_owned();
            let token = their_token(&*signer);
            let read = Unverified::parse(&token, 4096).unwrap();
            assert_eq!(read.verify_with(&set(jwk)), Ok(()), "{name}");
            let changed = token.replacen(".ey", ".eyA", 1);
            let changed = Unverified::parse(&changed, 4096).and_then(|read| read.verify_with(&set(jwk)));
            assert!(changed.is_err(), "{name}");
        }
    }

    #[test]
    fn an_es512_key_refuses_signatures_of_zeros_and_of_other_lengths() {
        let jwk = EcKeyPair::generate(EcCurve::P521).unwrap().to_jwk_key_pair();
        let keys = set(&jwk);
        assert_eq!(keys.keys().len(), 1);
        for length in [0, 1, 64, 131, 132, 133] {
            let token = format!(
                "{}.e30.{}",
                BASE64URL.encode(r#"{"alg":"ES512"}"#),
                BASE64URL.encode(vec![0; length])
            );
            let read = Unverified::parse(&token, 4096).unwrap();
            assert_eq!(read.verify_with(&keys), Err(JoseError::BadSignature), "{length}");
        }
        let published = KeySet::parse(keys.to_json().as_bytes(), KeyUse::Signature).unwrap();
        assert_eq!(published.keys()[0].thumbprint(), keys.keys()[0].thumbprint());
    }

    #[test]
    fn only_the_recipient_can_open_what_was_sealed() {
        let p256 = EcKeyPair::generate(EcCurve::P256).unwrap().to_jwk_key_pair();
        let x25519 = EcxKeyPair::generate(EcxCurve::X25519).unwrap().to_jwk_key_pair();
        for (mut jwk, alg) in [
            (p256.clone(), None),
            (p256.clone(), Some("ECDH-ES")),
            (x25519, Some("ECDH-ES+A256KW")),
        ] {
            jwk.set_parameter("use", None).unwrap();
            jwk.set_parameter("alg", alg.map(Into::into)).unwrap();
            jwk.set_key_id("workload");
            let mut public = jwk.to_public_key().unwrap();
            public.set_key_id("workload");
            public.set_parameter("alg", alg.map(Into::into)).unwrap();
            let public = serde_json::to_vec(public.as_ref()).unwrap();
            let sealed = Recipient::parse(&public)
                .unwrap()
                .seal(&Secret::new("hunter2"))
                .unwrap();

            let algorithm = match alg {
                Some("ECDH-ES") => jwe::ECDH_ES,
                _ => jwe::ECDH_ES_A256KW,
            };
            let (opened, header) =
                jwe::deserialize_compact(&sealed, &algorithm.decrypter_from_jwk(&jwk).unwrap()).unwrap();
            assert_eq!(opened, b"hunter2");
            assert_eq!(header.content_encryption(), Some("A256GCM"));
            assert_eq!((header.key_id(), header.compression()), (Some("workload"), None));

            let other = EcKeyPair::generate(EcCurve::P256).unwrap().to_jwk_key_pair();
            let other = algorithm.decrypter_from_jwk(&other).unwrap();
            assert!(jwe::deserialize_compact(&sealed, &other).is_err());
        }
    }

    #[test]
    fn refuses_recipients_that_are_private_foreign_or_off_the_curve() {
        let pair = EcKeyPair::generate(EcCurve::P256).unwrap();
        let public: Value = serde_json::to_value(pair.to_jwk_public_key().as_ref()).unwrap();
        let with = |name: &str, value: Value| {
            let mut jwk = public.clone();
            jwk[name] = value;
            jwk.to_string()
        };
        for bad in [
            serde_json::to_string(pair.to_jwk_key_pair().as_ref()).unwrap(),
            with("use", "sig".into()),
            with("alg", "RSA1_5".into()),
            with("crv", "P-384".into()),
            with("kty", "RSA".into()),
            with("x", "AA".into()),
            with("y", BASE64URL.encode([7; 32]).into()),
            "{}".into(),
        ] {
            let error = Recipient::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("the key `recipient` cannot be used"), "{error}");
        }
    }
}
