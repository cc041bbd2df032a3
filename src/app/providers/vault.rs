//! The Vault provider from its configuration.

use std::sync::Arc;

use super::Ambient;
use crate::config::Config;
use crate::config::providers::vault::{VaultAuth, VaultConfig};
use crate::provider::ProviderError;
use crate::provider::vault::{Login, Reach, Settings, VaultProvider};

/// A provider of the server that is configured.
pub(super) fn build(
    config: &Config,
    vault: &VaultConfig,
    ambient: &Ambient,
) -> Result<VaultProvider, ProviderError> {
    let authorities = vault.ca_file.as_deref().map(|path| {
        std::fs::read(path)
            .map_err(|error| ProviderError::Refused(format!("cannot read {}: {error}", path.display())))
    });
    let settings = Settings {
        reach: Reach {
            address: vault.address.clone(),
            authorities: authorities.transpose()?,
            namespace: vault.namespace.clone(),
            timeout: vault.timeout,
            concurrency: vault.concurrency,
        },
        login: login(config, &vault.auth, ambient),
        issuer: config.server.public_url.clone(),
        token_role: vault.token_role.clone(),
        margin: vault.margin,
        most: config.tokens.max_ttl,
    };
    VaultProvider::new(settings, Arc::clone(&ambient.clock))
}

fn login(config: &Config, auth: &VaultAuth, ambient: &Ambient) -> Login {
    match auth.clone() {
        VaultAuth::Jwt {
            mount,
            role,
            audience,
        } => Login::Jwt {
            mount,
            role,
            audience,
            issuer: config.server.public_url.clone(),
            keys: Arc::clone(&ambient.keys),
        },
        VaultAuth::Kubernetes {
            mount,
            role,
            token_file,
        } => Login::Kubernetes {
            mount,
            role,
            token_file,
        },
        VaultAuth::AppRole {
            mount,
            role_id_file,
            secret_id_file,
        } => Login::AppRole {
            mount,
            role_id_file,
            secret_id_file,
        },
        VaultAuth::Token { file } => Login::Token { file },
    }
}
