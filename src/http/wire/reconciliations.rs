//! What comparing providers with the ledger found.

use serde::Serialize;
use utoipa::ToSchema;

use crate::broker::reconciler::Compared;
use crate::model::name::ProviderName;

/// What was found and done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reconciliation {
    /// Each provider.
    pub providers: Vec<ComparedAnswer>,
}

/// What was found and done at one provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Compared)]
pub struct ComparedAnswer {
    /// The provider.
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// How much it holds that bears Dayfly's mark.
    pub listed: usize,
    /// What the ledger does not know.
    pub orphans: usize,
    /// What the ledger says is gone.
    pub undead: usize,
    /// Active leases of what is gone; they were turned to their end.
    pub ghosts: usize,
    /// How many orphans and undead are proven to be gone now.
    pub ended: usize,
    /// How many are still there, or could not be looked at. They are found again.
    pub failed: usize,
    /// Why it was not compared to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<Vec<Compared>> for Reconciliation {
    fn from(compared: Vec<Compared>) -> Self {
        let providers = compared.into_iter().map(|one| ComparedAnswer {
            provider: one.provider,
            listed: one.listed,
            orphans: one.orphans,
            undead: one.undead,
            ghosts: one.ghosts,
            ended: one.ended,
            failed: one.failed,
            error: one.error,
        });
        Self {
            providers: providers.collect(),
        }
    }
}
