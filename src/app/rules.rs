//! Policies, agents and tools from their files: loaded as one revision, checked whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use ring::digest::{Context, SHA256};

use crate::broker::load::{Fingerprint, Given, Source, Unloadable};
use crate::broker::rules::Ruleset;
use crate::config::Config;
use crate::config::fit::fit;
use crate::model::document::problem::Problems;
use crate::policy::cedar::{CedarEngine, PolicySource};
use crate::policy::shadow::Shadowed;
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
    /// Policies that are asked and not obeyed.
    pub shadow: Option<CedarEngine>,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Loads and checks policies, agents and tools. Nothing is taken from a set in which anything is wrong.
pub fn check(config: &Config) -> anyhow::Result<Checked> {
    let loaded = files::load(&config.registry.agents, &config.registry.tools)?;
    settle(
        config,
        loaded,
        policies_in(&config.policy.dirs)?,
        policies_in(&config.policy.shadow_dirs)?,
    )
}

/// Every policy file of these directories.
fn policies_in(directories: &[PathBuf]) -> anyhow::Result<Vec<files::Text>> {
    let mut policies = Vec::new();
    for directory in directories {
        for path in files::files_in(directory, "cedar").map_err(Problems::from)? {
            policies.push(files::Text {
                shown: path.display().to_string(),
                stem: name(&path),
                text: read_text(&path, LARGEST_POLICY).map_err(Problems::from)?,
            });
        }
    }
    Ok(policies)
}

/// The same of files that somebody sent, by their paths: `agents/….toml`, `tools/….toml` and
/// `policies/….cedar`.
fn check_given(config: &Config, given: Vec<Given>) -> anyhow::Result<Checked> {
    let (mut agents, mut tools, mut policies) = (Vec::new(), Vec::new(), Vec::new());
    for Given { path, text } in given {
        let (role, file) = path.split_once('/').unwrap_or_default();
        let (shelf, stem) = match role {
            "agents" => (&mut agents, file.strip_suffix(".toml")),
            "tools" => (&mut tools, file.strip_suffix(".toml")),
            "policies" => (&mut policies, Some(file).filter(|file| file.ends_with(".cedar"))),
            _ => (&mut policies, None),
        };
        let stem = stem.filter(|stem| !stem.is_empty() && !stem.contains('/'));
        let stem = stem.with_context(|| {
            format!("`{path}` is no such file: send `agents/….toml`, `tools/….toml` and `policies/….cedar`")
        })?;
        let stem = stem.to_owned();
        shelf.push(files::Text {
            shown: path,
            stem,
            text,
        });
    }
    settle(config, files::build(agents, tools)?, policies, Vec::new())
}

/// Policies and registry as one revision, if they fit each other and the configuration.
fn settle(
    config: &Config,
    loaded: files::Loaded,
    policies: Vec<files::Text>,
    shadow: Vec<files::Text>,
) -> anyhow::Result<Checked> {
    let mut sources = loaded.sources;
    let mut gather = |role: &str, texts: Vec<files::Text>| -> Vec<PolicySource> {
        let policies = texts.into_iter().map(|policy| {
            sources.push(SourceFile {
                path: format!("{role}/{}", policy.stem),
                bytes: policy.text.clone().into_bytes(),
            });
            PolicySource {
                name: policy.shown,
                text: policy.text,
            }
        });
        policies.collect()
    };
    let policies = gather("policies", policies);
    let shadow = gather("shadow", shadow);
    let revision = revision(&sources);
    let engine = CedarEngine::load(&policies, &loaded.registry, revision.clone())?;
    let shadow = match config.policy.shadow_dirs.is_empty() || shadow.is_empty() {
        true => None,
        false => Some(CedarEngine::load(&shadow, &loaded.registry, revision)?),
    };
    let fit = fit(config, &loaded.registry);
    let unfit = Problems::settle("the configuration", Some(fit.warnings), fit.problems)?;
    let warnings = loaded.warnings.iter().chain(&unfit).map(ToString::to_string);
    let warnings = warnings
        .chain(engine.warnings().iter().map(ToString::to_string))
        .collect();
    Ok(Checked {
        registry: loaded.registry,
        engine,
        shadow,
        warnings,
    })
}

/// The same as one revision, with every tool accepted by its provider.
pub fn load(config: &Config, providers: &Providers) -> anyhow::Result<(Ruleset, Vec<String>)> {
    put_together(check(config)?, providers)
}

fn put_together(checked: Checked, providers: &Providers) -> anyhow::Result<(Ruleset, Vec<String>)> {
    let Checked {
        registry,
        engine,
        shadow,
        warnings,
    } = checked;
    accepted(&registry, providers)?;
    let revision = engine.revision().clone();
    Ok((
        Ruleset {
            registry,
            engine: match shadow {
                Some(shadow) => Box::new(Shadowed::new(Box::new(engine), Box::new(shadow))),
                None => Box::new(engine),
            },
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

/// The files that the configuration names, read anew each time.
pub(super) struct Files {
    pub(super) config: Arc<Config>,
    pub(super) providers: Providers,
}

#[async_trait]
impl Source for Files {
    async fn load(&self, given: Option<Vec<Given>>) -> Result<Ruleset, Unloadable> {
        let (config, providers) = (Arc::clone(&self.config), self.providers.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let checked = match given {
                Some(given) => check_given(&config, given),
                None => check(&config),
            }?;
            put_together(checked, &providers)
        });
        match loading
            .await
            .map_err(anyhow::Error::from)
            .and_then(|loaded| loaded)
        {
            Ok((ruleset, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                Ok(ruleset)
            }
            Err(problems) => Err(Unloadable(format!("{problems:#}"))),
        }
    }

    async fn fingerprint(&self) -> Option<Fingerprint> {
        let config = Arc::clone(&self.config);
        tokio::task::spawn_blocking(move || fingerprint(&config))
            .await
            .ok()?
    }
}

/// Names, lengths and times of the files.
fn fingerprint(config: &Config) -> Option<Fingerprint> {
    let registry = [&config.registry.agents, &config.registry.tools];
    let registry = registry.into_iter().map(|directory| (directory, "toml"));
    let policies = config.policy.dirs.iter().chain(&config.policy.shadow_dirs);
    let policies = policies.map(|directory| (directory, "cedar"));
    let mut context = Context::new(&SHA256);
    for (directory, extension) in registry.chain(policies) {
        for path in files::files_in(directory, extension).ok()? {
            let about = std::fs::metadata(&path).ok()?;
            let changed = about.modified().ok()?;
            context.update(format!("{} {} {changed:?}\n", path.display(), about.len()).as_bytes());
        }
    }
    context.finish().as_ref().try_into().ok()
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
