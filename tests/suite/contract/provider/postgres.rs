//! The PostgreSQL provider against a real server, where there is one: `integration/postgres start`
//! starts one, and `eval "$(integration/postgres env)"` says where it is.

mod ends;
mod faults;
mod guide;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::provider::Provider;

use super::lossy::Lossy;
use super::{Lab, Subject, a_tool};
use crate::postgres_server::{Estate, log_in, now};
use crate::world::access;

/// An estate, and a provider that works there.
pub(crate) struct Served {
    estate: Arc<Estate>,
    provider: Arc<Lossy>,
    tool: Tool,
    access: Access,
    begins_at: Timestamp,
}

impl Served {
    /// With an estate and a provider as they come.
    pub(crate) fn new() -> Option<impl Future<Output = Self>> {
        let estate = Estate::new()?;
        Some(async {
            let estate = Arc::new(estate.await);
            let provider = estate.provider();
            Self::by(estate, provider)
        })
    }

    fn by(estate: Arc<Estate>, provider: Arc<dyn Provider>) -> Self {
        Self {
            tool: a_tool("orders-db", estate.parameters()),
            provider: Lossy::new(provider),
            access: access("orders:read"),
            begins_at: now(),
            estate,
        }
    }
}

#[async_trait]
impl Subject for Served {
    fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    fn reborn(&self) -> Arc<dyn Provider> {
        self.estate.provider()
    }

    fn tool(&self) -> Tool {
        self.tool.clone()
    }

    fn access(&self) -> Access {
        self.access.clone()
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read@customers/42"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        let Ok(session) = log_in(credential).await else {
            return false;
        };
        session
            .simple_query("SELECT count(*) FROM customers")
            .await
            .is_ok()
    }

    fn begins_at(&self) -> Timestamp {
        self.begins_at
    }

    async fn pass(&self, by: Duration) -> bool {
        tokio::time::sleep(by).await;
        true
    }

    async fn fail_half_way(&self) -> bool {
        self.provider.lose();
        true
    }
}

provider_contract!(against_a_server, super::Served::new());
