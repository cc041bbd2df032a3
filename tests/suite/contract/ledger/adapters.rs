//! The adapters that keep the contract.

use std::sync::Arc;

use async_trait::async_trait;
use dayfly::ledger::Ledger;
use dayfly::ledger::embedded::{Config, Embedded};

use super::{Fixture, RETENTION};

struct InMemory;

#[async_trait]
impl Fixture for InMemory {
    async fn ledger(&self) -> Arc<dyn Ledger> {
        let config = Config {
            retention: RETENTION,
            ..Config::default()
        };
        Arc::new(Embedded::in_memory(config).unwrap())
    }
}

ledger_contract!(embedded, Some(super::InMemory));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_decisions_becomes_one_about_everything() {
    super::context::a_flood_of_decisions_becomes_one_about_everything(InMemory.ledger().await).await;
}
