//! `ready`: whether anything could be issued now.

use super::Broker;
use super::error::BrokerError;

impl Broker {
    /// Proves that the ledger can be written and that the journal has kept everything up to now.
    pub async fn ready(&self) -> Result<(), BrokerError> {
        self.parts.ledger.ping().await?;
        self.parts.journal.checkpoint().await?;
        Ok(())
    }
}
