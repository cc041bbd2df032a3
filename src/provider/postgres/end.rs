//! Ending a login, and looking what is there.
//!
//! Three exchanges, each harmless when repeated: no new session can begin; those that there are end;
//! what the login owns goes, and the login with it. Only the last one waits for a disk.

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::fault::Fault;
use super::link::{LIMITS, LONGEST, Lane, one_at_a_time, value, values};
use super::sql::Ident;
use crate::model::lease::{Handle, Held};
use crate::model::time::Timestamp;
use crate::provider::{Presence, ProviderError};

/// How long the sessions of a login are waited for, in milliseconds.
const FAREWELL: u32 = 1500;

impl Postgres {
    pub(super) async fn end(&self, held: &Held) -> Result<(), ProviderError> {
        let login = self.login(held)?;
        let late = || Fault::Unreachable("it did not answer in time".into());
        let take_down = async |lane| {
            let ended = timeout(LONGEST, self.take_down(&login, lane)).await;
            ended.unwrap_or_else(|_| Err(late()))
        };
        let mut ended = take_down(Lane::End).await;
        // A session of the server may go by a list of its memberships from before our last one: it reads
        // them while others change them. One that begins now knows better.
        if ended
            .as_ref()
            .is_err_and(|fault| fault.is(&SqlState::INSUFFICIENT_PRIVILEGE))
        {
            ended = take_down(Lane::Own).await;
        }
        match ended {
            Ok(()) => Ok(()),
            // Somebody else was faster, or it never was; or it was made just now, and can be ended. A missing role of
            // another name is a fault, and stays one.
            Err(fault) if fault.is(&SqlState::UNDEFINED_OBJECT) => match self.look(&login).await? {
                Presence::Present => Ok(take_down(Lane::End).await?),
                Presence::Absent | Presence::Unknown => Ok(()),
            },
            Err(fault) => Err(fault.into()),
        }
    }

    async fn take_down(&self, login: &Ident, lane: Lane) -> Result<(), Fault> {
        self.link.say(lane, &shut(login)).await?;
        let rows = self.link.say(lane, &disconnect(login)).await?;
        let sessions = value(&rows, "sessions").unwrap_or_default();
        if sessions != "0" {
            return Err(Fault::Unreachable(format!(
                "{sessions} sessions of the login did not end in time"
            )));
        }
        let own = self.settings.database.as_str();
        for database in values(&rows, "database").filter(|database| *database != own) {
            self.link
                .say_in(database, &format!("{LIMITS} {}", self.disown(login)))
                .await?;
        }
        let last = format!(
            "{LIMITS} {} {} DROP ROLE {login};",
            one_at_a_time(login),
            self.disown(login)
        );
        self.link.say(lane, &last).await.map(drop)
    }

    /// In the database at hand, and what belongs to no database. `RESTRICT` is the default: what others
    /// built on it is not taken from them.
    pub(super) fn disown(&self, login: &Ident) -> String {
        match &self.settings.reassign_to {
            Some(heir) => format!("REASSIGN OWNED BY {login} TO {heir}; DROP OWNED BY {login};"),
            None => format!("DROP OWNED BY {login};"),
        }
    }

    pub(super) async fn look(&self, login: &Ident) -> Result<Presence, ProviderError> {
        let name = login.as_literal();
        let question = format!(
            "{LIMITS} SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) \
             OR EXISTS (SELECT FROM pg_stat_activity WHERE usename = {name}) AS there;"
        );
        let rows = self.link.say(Lane::End, &question).await?;
        match value(&rows, "there") {
            Some("t") => Ok(Presence::Present),
            Some("f") => Ok(Presence::Absent),
            _ => Ok(Presence::Unknown),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<Held>, ProviderError> {
        let question = format!(
            "{LIMITS} SELECT rolname AS login, (extract(epoch FROM rolvaliduntil) * 1000)::bigint AS until \
             FROM pg_roles WHERE starts_with(rolname, {});",
            self.settings.prefix.as_literal()
        );
        let rows = self.link.say(Lane::End, &question).await?;
        let held = rows.iter().filter_map(|row| {
            let login = row.try_get("login").ok()??;
            let until = row.try_get("until").ok().flatten();
            Some(Held {
                lease: self.settings.prefix.lease(login)?,
                handle: Some(Handle(login.to_owned())),
                expires_at: until
                    .and_then(|until| until.parse().ok())
                    .map(Timestamp::from_millis),
            })
        });
        Ok(held.collect())
    }
}

/// Nobody logs in any more, and we are a member of the login: that is the right to end its sessions
/// and to drop what it owns, without any right over other roles. The server need not wait for its
/// disk: should it forget, the login is still there and the end is tried again.
fn shut(login: &Ident) -> String {
    format!(
        "{LIMITS} SET LOCAL synchronous_commit = off; {} ALTER ROLE {login} NOLOGIN; GRANT {login} TO CURRENT_USER;",
        one_at_a_time(login)
    )
}

/// All sessions are told first, and waited for afterwards. Then: which are left, and where it owns
/// something or was granted something by itself.
fn disconnect(login: &Ident) -> String {
    let name = login.as_literal();
    format!(
        "{LIMITS} SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {name}; \
         SELECT pg_terminate_backend(pid, {FAREWELL}) FROM pg_stat_activity WHERE usename = {name}; \
         SELECT pg_stat_clear_snapshot(); \
         SELECT count(*) AS sessions FROM pg_stat_activity WHERE usename = {name}; \
         SELECT DISTINCT datname AS database FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid \
         WHERE refclassid = 'pg_authid'::regclass \
         AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = {name});"
    )
}
