//! The adapters that keep the contract without a server, and the machine that stands for those that
//! have one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dayfly::entropy::OsEntropy;
use dayfly::keys::Algorithm;
use dayfly::keys::jose::Unverified;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::Provider;
use dayfly::provider::jwt::JwtProvider;

use super::{Subject, a_tool};
use crate::world::vending::Vending;
use crate::world::{ISSUER, access};

#[async_trait]
impl Subject for Arc<Vending> {
    fn provider(&self) -> Arc<dyn Provider> {
        self.clone()
    }

    fn tool(&self) -> Tool {
        a_tool("vending", serde_json::json!({}))
    }

    fn access(&self) -> Access {
        access("orders:read")
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read@slots/sold-out"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        let Credential::Bearer(coin) = credential else {
            return false;
        };
        self.takes(coin)
    }

    async fn pass(&self, by: Duration) -> bool {
        self.wait(by);
        true
    }

    async fn fail_half_way(&self) -> bool {
        self.jam();
        true
    }
}

provider_contract!(
    vending,
    Some(async { std::sync::Arc::new(crate::world::vending::Vending::default()) })
);

pub(crate) struct Jwt(Arc<KeyRing>);

impl Jwt {
    pub(crate) fn new() -> Self {
        let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        Self(Arc::new(KeyRing::of(Arc::new(signer))))
    }
}

#[async_trait]
impl Subject for Jwt {
    fn provider(&self) -> Arc<dyn Provider> {
        let most = Ttl::from_secs(3600).unwrap();
        Arc::new(JwtProvider::new(ISSUER, self.0.clone(), most).unwrap())
    }

    fn tool(&self) -> Tool {
        a_tool("jwt", serde_json::json!({}))
    }

    fn access(&self) -> Access {
        access("orders:read@customers/42")
    }

    async fn works(&self, credential: &Credential) -> bool {
        let Credential::Bearer(token) = credential else {
            return false;
        };
        Unverified::parse(token.expose(), 4096)
            .is_ok_and(|token| token.verify_with(&self.0.key_set()).is_ok())
    }
}

provider_contract!(jwt, Some(async { super::Jwt::new() }));
