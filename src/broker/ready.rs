//! `ready`: whether requests can be served now. In quarantine they can: somebody has to end things.

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
