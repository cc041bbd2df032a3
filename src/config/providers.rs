//! `[[provider]]`: who mints. Tools name the provider that mints for them.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::model::document::Section;
use crate::model::name::ProviderName;

/// A configured provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProviderConfig {
    /// What tools call it.
    pub name: ProviderName,
    /// What it is.
    pub kind: ProviderKind,
}

/// What a provider is, with the settings of its kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProviderKind {
    /// Tokens that Dayfly signs with its own keys.
    Jwt,
}

/// The words for the kinds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Jwt,
}

/// The providers; without any section, `jwt` alone.
pub(super) fn read(sections: Vec<Section<'_>>) -> Vec<ProviderConfig> {
    if sections.is_empty() {
        let jwt = "jwt".parse().ok().map(|name| ProviderConfig {
            name,
            kind: ProviderKind::Jwt,
        });
        return jwt.into_iter().collect();
    }
    let mut names = BTreeSet::new();
    let providers = sections.into_iter().filter_map(|mut section| {
        let name: Option<ProviderName> =
            section.required("name", "write what tools call it: `name = \"jwt\"`");
        let kind = section.required("kind", "write what it is: `kind = \"jwt\"`");
        let kind = kind.map(|kind| match kind {
            Kind::Jwt => ProviderKind::Jwt,
        });
        let name = name?;
        if !names.insert(name.clone()) {
            section.blame(
                "name",
                format!("`{name}` stands there twice"),
                "keep one of the two sections",
            );
        }
        Some(ProviderConfig { name, kind: kind? })
    });
    providers.collect()
}
