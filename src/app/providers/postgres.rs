//! The PostgreSQL provider from its configuration.

use std::fmt::Display;
use std::sync::Arc;

use super::Ambient;
use crate::config::providers::postgres::PostgresConfig;
use crate::provider::ProviderError;
use crate::provider::postgres::{Ident, Postgres, Security, Settings};

pub(super) fn build(config: &PostgresConfig, ambient: &Ambient) -> Result<Postgres, ProviderError> {
    let settings = Settings {
        host: config.host.clone(),
        port: config.port,
        database: ident(&config.database)?,
        username: ident(&config.username)?,
        password_file: config.password_file.clone(),
        security: match &config.ca_file {
            Some(authorities) => Security::Tls {
                authorities: authorities.clone(),
            },
            None => Security::Plain,
        },
        prefix: config.role_prefix.parse().map_err(refused)?,
        reassign_to: config.reassign_to.as_deref().map(ident).transpose()?,
        mint_connections: config.mint_connections,
        end_connections: config.end_connections,
        most: config.max_ttl,
    };
    Postgres::new(settings, Arc::clone(&ambient.clock), Arc::clone(&ambient.entropy))
}

fn ident(name: &str) -> Result<Ident, ProviderError> {
    name.parse().map_err(refused)
}

fn refused(error: impl Display) -> ProviderError {
    ProviderError::Refused(error.to_string())
}
