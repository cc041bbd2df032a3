//! Whether the configuration and the registry fit each other: what each names, the other has.

use crate::model::attestation::EvidenceKind;
use crate::model::document::problem::Problem;
use crate::registry::{DAYFLY, Registry};

use super::Config;

/// What was found. Nothing can start with problems; it can with warnings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fit {
    /// Tools that nobody could mint for.
    pub problems: Vec<Problem>,
    /// Agents that nobody could be, and lives that are cut short.
    pub warnings: Vec<Problem>,
}

/// Compares the two.
pub fn fit(config: &Config, registry: &Registry) -> Fit {
    let mut fit = Fit::default();
    for tool in registry.tools().filter(|tool| tool.name.as_str() != DAYFLY) {
        let file = config.registry.tools.join(format!("{}.toml", tool.name));
        let file = file.display().to_string();
        let provider = &tool.binding.provider;
        if !config.providers.iter().any(|known| known.name == *provider) {
            let message = format!("`provider`: no provider is called `{provider}`");
            let help = "name one of the `[[provider]]` sections of dayfly.toml, or add one";
            fit.problems.push(Problem::about(&file, message).help(help));
        }
        if tool.max_ttl > config.tokens.max_ttl {
            let message = format!(
                "`max_ttl`: no credential lives longer than {}",
                config.tokens.max_ttl
            );
            let help = "lower it, or raise `max_ttl` in [tokens] of dayfly.toml";
            fit.warnings.push(Problem::about(&file, message).help(help));
        }
    }
    let unknown = registry
        .rules()
        .filter(|(rule, _)| !vouches(config, rule.kind(), rule.authority()));
    fit.warnings.extend(unknown.map(|(rule, agent)| {
        let file = config.registry.agents.join(format!("{agent}.toml"));
        let message = format!("`match`: nobody's word is taken for `{}`", rule.authority());
        let help = "name a trust domain, cluster or issuer of [identity] of dayfly.toml, or add it there";
        Problem::about(file.display().to_string(), message).help(help)
    }));
    fit.warnings.sort();
    fit
}

fn vouches(config: &Config, kind: EvidenceKind, authority: &str) -> bool {
    let identity = &config.identity;
    match kind {
        EvidenceKind::JwtSvid | EvidenceKind::X509Svid => {
            let mut domains = identity.trust_domains.iter();
            domains.any(|domain| domain.name.as_str() == authority)
        }
        EvidenceKind::Kubernetes => identity.clusters.iter().any(|cluster| cluster.name == authority),
        EvidenceKind::Oidc => identity.issuers.iter().any(|issuer| issuer.issuer == authority),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::registry::files;

    fn check(text: &str) -> Fit {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let config = super::super::parse("dayfly.toml", &here, text).unwrap();
        let loaded = files::load(&config.registry.agents, &config.registry.tools).unwrap();
        assert_eq!(loaded.warnings, []);
        fit(&config, &loaded.registry)
    }

    #[test]
    fn the_examples_fit_each_other() {
        assert_eq!(check(include_str!("../../config/dayfly.toml")), Fit::default());
        assert_eq!(
            check(include_str!("../../config/dayfly.production.toml")),
            Fit::default()
        );
    }

    #[test]
    fn says_what_one_names_and_the_other_lacks() {
        let found = check(
            "[[identity.trust_domain]]\nname = 'other.org'\nbundle_file = 'b'\n\
             [tokens]\nmax_ttl = '10m'\n[[provider]]\nname = 'other'\nkind = 'jwt'\n",
        );
        let messages = |problems: &[Problem]| {
            let problems = problems.iter().map(ToString::to_string);
            problems.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(found.problems.len(), 3);
        assert!(messages(&found.problems).contains("crm.toml: `provider`: no provider is called `jwt`"));
        let warnings = messages(&found.warnings);
        assert!(warnings.contains("support-bot.toml: `match`: nobody's word is taken for `example.org`"));
        assert!(warnings.contains("crm.toml: `max_ttl`: no credential lives longer than 10m"));
        assert!(!warnings.contains("payments.toml"), "{warnings}");
    }
}
