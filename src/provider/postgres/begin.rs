//! Making a login and letting it live on.

use super::fault::LATE;
use super::link::{LIMITS, LONGEST, Lane, one_at_a_time, value};
use super::parameters::Parameters;
use super::sql::{Ident, Literal};
use super::{Postgres, scram};
use crate::ledger::reservation::Reservation;
use crate::ledger::rules::MINT_TIME;
use crate::model::access::Access;
use crate::model::credential::Credential;
use crate::model::lease::{Handle, Lease};
use crate::model::time::Timestamp;
use crate::provider::{Minted, ProviderError, Renewed};

/// Everything that a login must never be, whatever the defaults of the server are.
const PLAIN: &str = "LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";

/// What a lease asks for.
pub(super) fn access(lease: &Lease) -> Result<Access, ProviderError> {
    Access::new(lease.tool.clone(), lease.actions.clone(), lease.resources.clone())
        .map_err(|error| ProviderError::Refused(error.to_string()))
}

impl Postgres {
    pub(super) async fn begin(&self, reservation: &Reservation) -> Result<Minted, ProviderError> {
        let lease = reservation.lease();
        let parameters = Parameters::of(&reservation.permit().request().tool)?;
        let groups = parameters.groups(&access(lease)?)?;
        let login = self.settings.prefix.login(lease.id);
        let (password, verifier) =
            scram::password(&*self.entropy).map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let names: Vec<String> = groups.iter().map(Ident::to_string).collect();
        // After that the reaper comes, and must not find nothing because it came first.
        let latest = lease.issued_at.plus(MINT_TIME).minus(LONGEST);
        let mut batch = format!(
            "{LIMITS} {} DO $dayfly$ BEGIN IF clock_timestamp() >= {} THEN \
             RAISE EXCEPTION 'late' USING ERRCODE = '{LATE}'; END IF; END $dayfly$; \
             CREATE ROLE {login} {PLAIN} CONNECTION LIMIT {} PASSWORD {} VALID UNTIL {} IN ROLE {};",
            one_at_a_time(&login),
            Literal::of_instant(latest.min(lease.expires_at)),
            parameters.connection_limit,
            Literal::of_verifier(&verifier),
            Literal::of_instant(lease.expires_at),
            names.join(", "),
        );
        for statement in parameters.statements(&login, lease.id) {
            batch.extend([" ", &statement, ";"]);
        }
        self.link.say(Lane::Mint, &batch).await.map_err(|fault| {
            let unknown = fault.is(&tokio_postgres::error::SqlState::UNDEFINED_OBJECT);
            match ProviderError::from(fault) {
                // Which resources there are is the caller's to know, not the catalogue's.
                ProviderError::Refused(_) if unknown && !lease.resources.is_empty() => ProviderError::Unfit {
                    pointer: "/resources",
                    reason: "there is no such resource in this database: ask for another".into(),
                },
                error => error,
            }
        })?;
        Ok(Minted {
            credential: Credential::DatabaseLogin {
                host: parameters.host.unwrap_or_else(|| self.settings.host.clone()),
                port: parameters.port.unwrap_or(self.settings.port),
                database: parameters.database.as_str().to_owned(),
                username: login.as_str().to_owned(),
                password,
            },
            handle: Handle(login.as_str().to_owned()),
            expires_at: lease.expires_at,
        })
    }

    /// The password stays. Looking and changing are one transaction, so a login that is being ended
    /// does not come back.
    pub(super) async fn live_on(&self, reservation: &Reservation) -> Result<Renewed, ProviderError> {
        let lease = reservation.lease();
        let login = self.login(&lease.held())?;
        let (name, until) = (login.as_literal(), Literal::of_instant(lease.expires_at));
        let batch = format!(
            "{LIMITS} {} DO $dayfly$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = {name} \
             AND rolcanlogin AND rolvaliduntil < {until}) THEN \
             ALTER ROLE {login} VALID UNTIL {until}; END IF; END $dayfly$; \
             SELECT (extract(epoch FROM rolvaliduntil) * 1000)::bigint AS until FROM pg_roles \
             WHERE rolname = {name} AND rolcanlogin;",
            one_at_a_time(&login),
        );
        let rows = self.link.say(Lane::Mint, &batch).await?;
        let until = value(&rows, "until").and_then(|millis| millis.parse().ok());
        let until = until
            .ok_or_else(|| ProviderError::Refused("the login has ended: ask for a new credential".into()))?;
        Ok(Renewed {
            credential: None,
            expires_at: Timestamp::from_millis(until),
        })
    }
}
