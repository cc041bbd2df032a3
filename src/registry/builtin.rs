//! The tool that stands for Dayfly itself. It is in every registry, and no file can replace it.

use std::collections::BTreeMap;

use crate::model::name::{InvalidName, Operation};
use crate::model::tool::{Binding, Effect, Risk, Sensitivity, Tool};
use crate::model::ttl::Ttl;

use super::DAYFLY;

/// What callers can do here beside their own tasks, and what each of it does to the world.
const ACTIONS: [(&str, Effect); 11] = [
    ("inspect", Effect::Read),
    ("revoke", Effect::Write),
    ("delegate", Effect::Write),
    ("fact", Effect::Write),
    ("reload", Effect::Write),
    ("reconcile", Effect::Write),
    ("retry", Effect::Write),
    ("abandon", Effect::Write),
    ("journal", Effect::Read),
    ("follow", Effect::Read),
    ("introspect", Effect::Read),
];

/// The tool [`DAYFLY`]. No credential is minted for it: its binding names a provider that cannot be
/// configured.
#[expect(
    clippy::expect_used,
    reason = "the names are literals here, and a test builds it"
)]
pub(super) fn dayfly() -> Tool {
    build().expect("the built-in names are valid")
}

fn build() -> Result<Tool, InvalidName> {
    let actions: Result<BTreeMap<Operation, Effect>, _> = ACTIONS
        .iter()
        .map(|(name, effect)| Ok((name.parse()?, *effect)))
        .collect();
    Ok(Tool {
        name: DAYFLY.parse()?,
        description: "Dayfly itself".into(),
        owner: "Dayfly".parse()?,
        actions: actions?,
        risk: Risk::High,
        sensitivity: Sensitivity::Confidential,
        zone: DAYFLY.parse()?,
        environment: DAYFLY.parse()?,
        audience: "urn:dayfly".into(),
        origins: [].into(),
        binding: Binding {
            provider: DAYFLY.parse()?,
            parameters: BTreeMap::new(),
        },
        max_ttl: "5m".parse::<Ttl>()?,
        default_ttl: "5m".parse::<Ttl>()?,
        live_credentials: Some(0),
        facts: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn is_in_every_registry_and_holds_no_credentials() {
        let registry = Registry::default();
        let tool = registry.tool(&DAYFLY.parse().unwrap()).unwrap();
        assert_eq!(tool.actions.len(), ACTIONS.len());
        assert_eq!(tool.live_credentials, Some(0));
    }
}
