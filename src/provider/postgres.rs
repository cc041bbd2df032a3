//! The PostgreSQL provider: one login role for each lease.
//!
//! A login is named after its lease, is in the group roles that the actions of the lease stand for,
//! and is granted nothing itself: however many logins there were, no access list grows. It can be
//! ended at once, sessions and all. [`docs/guides/postgres.md`] says what the server has to allow.
//!
//! [`docs/guides/postgres.md`]: https://github.com/dayfly/dayfly/blob/main/docs/guides/postgres.md

mod begin;
mod end;
mod fault;
mod link;
mod parameters;
mod preflight;
mod scram;
mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::json;

use super::{Minted, Presence, Promise, Provider, ProviderError, Renewed};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::ledger::reservation::Reservation;
use crate::model::access::Access;
use crate::model::ids::LeaseId;
use crate::model::lease::{Ending, Handle, Held};
use crate::model::name::ToolName;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;

use link::Link;
use parameters::Parameters;
pub use sql::{Ident, Prefix};

/// How the server is reached, and on which terms.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name or address, or the folder of its socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that Dayfly itself works in.
    pub database: Ident,
    /// The role that Dayfly works as. It needs `CREATEROLE`, no more.
    pub username: Ident,
    /// The file with its password, read at each new connection.
    pub password_file: Option<PathBuf>,
    /// Whether and how the way there is protected.
    pub security: Security,
    /// What the names of logins begin with.
    pub prefix: Prefix,
    /// Who gets what a login made; without anybody it is dropped.
    pub reassign_to: Option<Ident>,
    /// How many connections make logins, at most.
    pub mint_connections: usize,
    /// How many connections end them, at most.
    pub end_connections: usize,
    /// The longest life of a login.
    pub most: Ttl,
}

/// How the way to the server is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Security {
    /// TLS, to a server that one of the authorities in this file vouches for.
    Tls {
        /// Certificates in PEM.
        authorities: PathBuf,
    },
    /// Nothing is encrypted: for sockets and for this machine.
    Plain,
}

/// Makes and ends logins.
pub struct Postgres {
    settings: Settings,
    link: Link,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// The group roles that the tools name, for the preflight.
    tools: Mutex<BTreeMap<ToolName, BTreeSet<Ident>>>,
}

impl Postgres {
    /// A provider that reaches for its server when it is first asked. The clock is compared with the
    /// server's, which decides when a login expires.
    pub fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, ProviderError> {
        Ok(Self {
            link: Link::new(&settings)?,
            settings,
            clock,
            entropy,
            tools: Mutex::default(),
        })
    }

    /// The login that is held. A name that was written down counts, since the prefix may have been
    /// another then; but only if it bears the mark of the lease.
    fn login(&self, held: &Held) -> Result<Ident, ProviderError> {
        let Some(Handle(name)) = &held.handle else {
            return Ok(self.settings.prefix.login(held.lease));
        };
        name.parse()
            .ok()
            .filter(|login: &Ident| sql::bears_mark(login.as_str(), held.lease))
            .ok_or_else(|| {
                ProviderError::Refused(format!("the name of {} is not one that a login has", held.lease))
            })
    }

    /// The group roles that every accepted tool names.
    fn groups(&self) -> Vec<Ident> {
        let tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let groups: BTreeSet<&Ident> = tools.values().flatten().collect();
        groups.into_iter().cloned().collect()
    }
}

#[async_trait]
impl Provider for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn promise(&self, _: &Tool) -> Promise {
        Promise {
            ending: Ending::Immediate,
            least: Ttl::MIN,
            most: self.settings.most,
            self_contained: false,
            renewable: true,
        }
    }

    fn accepts(&self, tool: &Tool) -> Result<(), ProviderError> {
        let parameters = Parameters::of(tool)?;
        if parameters.fixed().any(|group| *group == self.settings.username) {
            return Err(ProviderError::Refused(format!(
                "the tool `{}` would put logins into `{}`, which makes them: name another group role",
                tool.name,
                self.settings.username.as_str()
            )));
        }
        let groups = parameters.fixed().cloned().collect();
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        tools.insert(tool.name.clone(), groups);
        Ok(())
    }

    fn explain(&self, tool: &Tool, access: &Access) -> Result<Option<serde_json::Value>, ProviderError> {
        let parameters = Parameters::of(tool)?;
        let groups = parameters.groups(access)?;
        let groups: Vec<&str> = groups.iter().map(Ident::as_str).collect();
        Ok(Some(json!({
            "database": parameters.database.as_str(),
            "member_of": groups,
            "connection_limit": parameters.connection_limit,
        })))
    }

    fn handle(&self, lease: LeaseId) -> Option<Handle> {
        let login = self.settings.prefix.login(lease);
        Some(Handle(login.as_str().to_owned()))
    }

    async fn mint(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        self.begin(reservation).await
    }

    async fn renew(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        self.live_on(reservation).await
    }

    async fn revoke(&self, held: &Held) -> Result<(), ProviderError> {
        self.end(held).await
    }

    async fn probe(&self, held: &Held) -> Result<Presence, ProviderError> {
        self.look(&self.login(held)?).await
    }

    async fn inventory(&self) -> Result<Vec<Held>, ProviderError> {
        self.list().await
    }

    async fn preflight(&self) -> Result<(), ProviderError> {
        self.try_out().await
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
