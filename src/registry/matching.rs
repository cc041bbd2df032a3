//! Match rules: from what was attested to a registered agent.

use crate::model::attestation::Attestation;

/// One rule.
#[derive(Debug, Clone)]
pub struct MatchRule;

impl MatchRule {
    /// Whether the rule fits.
    pub fn matches(&self, _attestation: &Attestation) -> bool {
        false
    }
}
