//! A trust domain that signs for whoever asks: for the demo, for development and for tests. In
//! earnest this is what SPIRE, or another SPIFFE implementation, does after it looked at the workload.

use std::path::Path;

use serde::Serialize;

use crate::entropy::OsEntropy;
use crate::keys::file::KeyDirectory;
use crate::keys::jose;
use crate::keys::jwk::Jwk;
use crate::keys::ring_keys::RingSigner;
use crate::keys::{Algorithm, KeyError, Signer as _};
use crate::model::name::InvalidName;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

/// A trust domain with one ES256 key.
#[derive(Debug)]
pub struct DevTrustDomain {
    name: TrustDomain,
    key: RingSigner,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// There is no such SPIFFE ID.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The key does not work.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl DevTrustDomain {
    /// A new trust domain whose key is kept nowhere.
    pub fn generate(name: TrustDomain, entropy: &OsEntropy) -> Result<Self, KeyError> {
        let key = RingSigner::generate(Algorithm::Es256, entropy)?;
        Ok(Self { name, key })
    }

    /// The trust domain whose key is kept in a directory; made when there is none.
    pub fn open(name: TrustDomain, directory: &Path, entropy: &OsEntropy) -> Result<Self, KeyError> {
        let directory = KeyDirectory::open(directory, entropy)?;
        let kept = directory.keys()?.into_iter().map(|(_, key)| key);
        let key = match kept.into_iter().find(|key| key.algorithm() == Algorithm::Es256) {
            Some(key) => key,
            None => directory.create(Algorithm::Es256)?,
        };
        Ok(Self { name, key })
    }

    /// Its name.
    pub fn name(&self) -> &TrustDomain {
        &self.name
    }

    /// The SPIFFE ID of a workload in this trust domain, with or without the slash before the path.
    pub fn id(&self, path: &str) -> Result<SpiffeId, InvalidName> {
        let path = path.strip_prefix('/').unwrap_or(path);
        format!("spiffe://{}/{path}", self.name).parse()
    }

    /// A JWT-SVID (SPIFFE JWT-SVID §2 and §3) for the workload at this path.
    pub async fn svid(
        &self,
        path: &str,
        audience: &str,
        now: Timestamp,
        ttl: Ttl,
    ) -> Result<String, NotSigned> {
        #[derive(Serialize)]
        struct Claims<'a> {
            sub: SpiffeId,
            aud: [&'a str; 1],
            iat: u64,
            exp: u64,
        }
        let claims = Claims {
            sub: self.id(path)?,
            aud: [audience],
            iat: now.as_secs(),
            exp: now.plus(ttl.as_duration()).as_secs(),
        };
        Ok(self.sign(&claims).await?)
    }

    /// Any claims at all, signed like a JWT-SVID: for tests of what has to be refused.
    pub async fn sign<C: Serialize + Sync>(&self, claims: &C) -> Result<String, KeyError> {
        jose::sign(&self.key, "JWT", claims).await
    }

    /// The trust bundle (SPIFFE Trust Domain and Bundle §4), as JSON.
    pub fn bundle(&self) -> String {
        let key = Jwk {
            use_: Some("jwt-svid".into()),
            ..self.key.public_key().to_jwk()
        };
        serde_json::json!({ "keys": [key], "spiffe_sequence": 1, "spiffe_refresh_hint": 60 }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::jose::Unverified;
    use crate::keys::jwk::{KeySet, KeyUse};

    const NOW: Timestamp = Timestamp::from_secs(1_795_329_000);

    fn name() -> TrustDomain {
        "example.org".parse().unwrap()
    }

    #[tokio::test]
    async fn an_svid_verifies_by_the_bundle_and_says_who_for_whom_and_until_when() {
        let domain = DevTrustDomain::generate(name(), &OsEntropy::new()).unwrap();
        let ttl = Ttl::from_secs(60).unwrap();
        let svid = domain.svid("/ns/prod/sa/bot", "dayfly", NOW, ttl).await.unwrap();
        let svid = Unverified::parse(&svid, 4096).unwrap();
        let keys = KeySet::parse(domain.bundle().as_bytes(), KeyUse::JwtSvid).unwrap();
        assert_eq!(svid.verify_with(&keys), Ok(()));
        assert_eq!(svid.header().members().collect::<Vec<_>>(), ["alg", "kid", "typ"]);
        assert_eq!(
            svid.claims::<Value>().unwrap(),
            json!({
                "sub": "spiffe://example.org/ns/prod/sa/bot", "aud": ["dayfly"],
                "iat": NOW.as_secs(), "exp": NOW.as_secs() + 60,
            })
        );
    }

    #[tokio::test]
    async fn signs_only_for_spiffe_ids_of_its_own() {
        let domain = DevTrustDomain::generate(name(), &OsEntropy::new()).unwrap();
        for path in ["", "/", "//", "/a//b", "/a/..", "/a b", "/a?b"] {
            let outcome = domain.svid(path, "dayfly", NOW, Ttl::MIN).await;
            assert!(matches!(outcome, Err(NotSigned::Name(_))), "{path}");
        }
        for path in ["bot", "/bot", ".evil.example/bot"] {
            assert_eq!(domain.id(path).unwrap().trust_domain(), domain.name(), "{path}");
        }
    }

    #[test]
    fn a_kept_trust_domain_has_the_same_bundle_after_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let open = || DevTrustDomain::open(name(), temp.path(), &OsEntropy::new()).unwrap();
        assert_eq!(open().bundle(), open().bundle());
    }
}
