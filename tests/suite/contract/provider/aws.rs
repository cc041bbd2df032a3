//! The AWS STS provider with a deny slot, against an account in this process, and against moto where
//! there is one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dayfly::clock::Clock as _;
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::provider::Provider;
use dayfly::provider::aws_sts::{AwsSts, DenySlot};

use super::Subject;
use crate::aws::account::Account;
use crate::aws::moto::{Estate, reason};
use crate::world::access;

pub(crate) struct Sts(Arc<Account>, Arc<AwsSts>, Option<DenySlot>);

impl Sts {
    pub(crate) async fn new() -> Self {
        Self::with(Some(DenySlot {
            role_wide_when_full: false,
        }))
        .await
    }

    /// Nothing recalls its sessions.
    pub(crate) async fn without_slot() -> Self {
        Self::with(None).await
    }

    async fn with(slot: Option<DenySlot>) -> Self {
        let account = Account::open().await;
        let provider = account.provider(slot);
        Self(account, provider, slot)
    }
}

#[async_trait]
impl Subject for Sts {
    fn provider(&self) -> Arc<dyn Provider> {
        self.1.clone()
    }

    fn reborn(&self) -> Arc<dyn Provider> {
        self.0.provider(self.2)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn tool(&self) -> Tool {
        crate::aws::tool()
    }

    fn access(&self) -> Access {
        access("orders:read@customers/42")
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read"))
    }

    /// What was permitted, and not what was not.
    async fn works(&self, credential: &Credential) -> bool {
        self.0.latest(|session| {
            assert!(session.name.starts_with("lse_"), "{}", session.name);
            assert_eq!(session.source_identity, "support-bot");
            assert_eq!(session.tags["dayfly:lease"], session.name);
            assert_eq!(session.tags["dayfly:agent"], "support-bot");
            assert!(session.tags["dayfly:task"].starts_with("tsk_"));
        });
        let lets = |action, resource| self.0.lets(credential, action, resource);
        assert!(!lets("s3:PutObject", "arn:aws:s3:::acme/customers/42"));
        assert!(!lets("s3:GetObject", "arn:aws:s3:::acme/customers/43"));
        lets("s3:GetObject", "arn:aws:s3:::acme/customers/42")
    }

    async fn pass(&self, by: Duration) -> bool {
        self.0.pass(by);
        true
    }

    /// STS keeps no list of its sessions.
    fn lists(&self) -> bool {
        false
    }
}

provider_contract!(aws_sts, Some(super::Sts::new()));

/// Where the moto server is, if there is one.
fn moto() -> Option<impl Future<Output = Moto>> {
    let estate = Estate::new()?;
    Some(async { Moto(estate.await) })
}

/// Sessions that sign their calls, and a server that looks at signatures and at what the role may.
struct Moto(Estate);

#[async_trait]
impl Subject for Moto {
    fn provider(&self) -> Arc<dyn Provider> {
        self.0.provider()
    }

    fn tool(&self) -> Tool {
        self.0.tool()
    }

    fn access(&self) -> Access {
        access(&format!("orders:read@{}", self.0.role))
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        let outside = self.0.session(credential).list_users().send().await;
        assert_eq!(reason(&outside.unwrap_err()), "AccessDenied");
        match self.0.lets(credential).await {
            Ok(()) => true,
            Err(reason) if reason == "AccessDenied" => false,
            Err(reason) => panic!("{reason}"),
        }
    }

    fn begins_at(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// STS keeps no list of its sessions.
    fn lists(&self) -> bool {
        false
    }

    /// moto reads no condition of the slot, so one entry denies every session of the role.
    fn ends_one_by_one(&self) -> bool {
        false
    }
}

provider_contract!(aws_moto, super::moto());
