//! `[[provider]]`: who mints. Tools name the provider that mints for them.
//!
//! The settings of a kind stand in a section of its name below the provider: `[provider.aws_sts]`.

pub mod aws_sts;
pub mod postgres;
pub mod vault;
pub mod webhook;

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::model::document::Section;
use crate::model::name::ProviderName;

use super::read::Base;
use aws_sts::AwsStsConfig;
use postgres::PostgresConfig;
use vault::VaultConfig;
use webhook::WebhookConfig;

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
    /// Sessions of AWS roles.
    AwsSts(Box<AwsStsConfig>),
    /// Logins of a PostgreSQL server.
    Postgres(Box<PostgresConfig>),
    /// Secrets of a Vault or OpenBao server.
    Vault(Box<VaultConfig>),
    /// Whatever a receiver makes that is asked over HTTPS.
    Webhook(Box<WebhookConfig>),
}

/// The words for the kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Jwt,
    AwsSts,
    Postgres,
    Vault,
    Webhook,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::AwsSts => "aws_sts",
            Self::Postgres => "postgres",
            Self::Vault => "vault",
            Self::Webhook => "webhook",
        }
    }

    /// Whether this binary has it.
    const fn is_built(self) -> bool {
        match self {
            Self::Jwt | Self::Webhook => true,
            Self::AwsSts => cfg!(feature = "aws"),
            Self::Postgres => cfg!(feature = "postgres"),
            Self::Vault => cfg!(feature = "vault"),
        }
    }
}

/// The providers; without any section, `jwt` alone.
pub(super) fn read(sections: Vec<Section<'_>>, base: Base<'_>) -> Vec<ProviderConfig> {
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
        if let Some(kind) = kind
            && !Kind::is_built(kind)
        {
            let word = kind.as_str();
            let message = format!("this Dayfly was built without `{word}`");
            section.blame("kind", message, "build it with its default features");
        }
        let aws_sts = settings(&mut section, kind, Kind::AwsSts)
            .and_then(|mut settings| aws_sts::read(&mut settings, base));
        let postgres = settings(&mut section, kind, Kind::Postgres)
            .and_then(|mut settings| postgres::read(&mut settings, base));
        let vault = settings(&mut section, kind, Kind::Vault)
            .and_then(|mut settings| vault::read(&mut settings, base));
        let webhook = settings(&mut section, kind, Kind::Webhook)
            .and_then(|mut settings| webhook::read(&mut settings, base));
        let kind = kind.and_then(|kind| {
            Some(match kind {
                Kind::Jwt => ProviderKind::Jwt,
                Kind::AwsSts => ProviderKind::AwsSts(Box::new(aws_sts?)),
                Kind::Postgres => ProviderKind::Postgres(Box::new(postgres?)),
                Kind::Vault => ProviderKind::Vault(Box::new(vault?)),
                Kind::Webhook => ProviderKind::Webhook(Box::new(webhook?)),
            })
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

/// The section with the settings of a kind, where the provider is of that kind. Elsewhere it may not be.
fn settings<'d>(section: &mut Section<'d>, kind: Option<Kind>, of: Kind) -> Option<Section<'d>> {
    let key = of.as_str();
    if section.has(key) && kind.is_some_and(|kind| kind != of) {
        section.blame(
            key,
            "the provider is of another kind",
            &format!("write `kind = \"{key}\"`, or leave this out"),
        );
        return Some(section.section(key));
    }
    (kind == Some(of)).then(|| section.section(key))
}
