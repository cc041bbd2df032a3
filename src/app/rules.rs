//! Policies, agents and tools from their files: loaded as one revision, checked whole.

use std::path::Path;

use anyhow::Context as _;

use crate::broker::rules::Ruleset;
use crate::config::Config;
use crate::config::fit::fit;
use crate::model::document::problem::Problems;
use crate::policy::cedar::{CedarEngine, PolicySource};
use crate::provider::Providers;
use crate::registry::Registry;
use crate::registry::files::{self, read_text};
use crate::registry::revision::{SourceFile, revision};

/// The largest policy file, in bytes.
const LARGEST_POLICY: u64 = 4 * 1024 * 1024;

/// Everything that decides, and what works and is probably not meant.
pub struct Checked {
    /// Agents and tools.
    pub registry: Registry,
    /// Policies, checked against the registry.
    pub engine: CedarEngine,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Loads and checks policies, agents and tools. Nothing is taken from a set in which anything is wrong.
pub fn check(config: &Config) -> anyhow::Result<Checked> {
    let loaded = files::load(&config.registry.agents, &config.registry.tools)?;
    let mut sources = loaded.sources;
    let mut policies = Vec::new();
    for directory in &config.policy.dirs {
        for path in files::files_in(directory, "cedar").map_err(Problems::from)? {
            let text = read_text(&path, LARGEST_POLICY).map_err(Problems::from)?;
            let name = name(&path);
            sources.push(SourceFile {
                path: format!("policies/{name}"),
                bytes: text.clone().into_bytes(),
            });
            policies.push(PolicySource {
                name: path.display().to_string(),
                text,
            });
        }
    }
    let engine = CedarEngine::load(&policies, &loaded.registry, revision(&sources))?;
    let fit = fit(config, &loaded.registry);
    let unfit = Problems::settle("the configuration", Some(fit.warnings), fit.problems)?;
    let warnings = loaded.warnings.iter().chain(&unfit).map(ToString::to_string);
    let warnings = warnings
        .chain(engine.warnings().iter().map(ToString::to_string))
        .collect();
    Ok(Checked {
        registry: loaded.registry,
        engine,
        warnings,
    })
}

/// The same as one revision, with every tool accepted by its provider.
pub fn load(config: &Config, providers: &Providers) -> anyhow::Result<(Ruleset, Vec<String>)> {
    let Checked {
        registry,
        engine,
        warnings,
    } = check(config)?;
    accepted(&registry, providers)?;
    let revision = engine.revision().clone();
    Ok((
        Ruleset {
            registry,
            engine: Box::new(engine),
            revision,
        },
        warnings,
    ))
}

/// Whether each tool's provider is configured and can serve it.
pub fn accepted(registry: &Registry, providers: &Providers) -> anyhow::Result<()> {
    for tool in registry
        .tools()
        .filter(|tool| tool.name.as_str() != crate::registry::DAYFLY)
    {
        let accepted = providers
            .get(&tool.binding.provider)
            .and_then(|provider| provider.accepts(tool));
        accepted.with_context(|| format!("the tool `{}` cannot be served", tool.name))?;
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
