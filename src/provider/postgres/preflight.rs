//! Whether everything that will be needed is allowed: it is done, all of it, on a login that nobody
//! ever sees, and rolled back. What is missing is said as the statement that would grant it.

use std::time::Duration;

use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::fault::Fault;
use super::link::{LIMITS, Session, value, values};
use super::sql::Ident;
use crate::entropy::draw;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;

/// By how much the clocks may differ: far less than a login may be late.
const DRIFT: Duration = Duration::from_secs(10);

/// Roles through which a login would reach past the database, and past its end.
const REACHES_PAST: &str = "s.rolsuper OR s.rolcreaterole OR s.rolreplication OR s.rolbypassrls OR s.rolname IN \
    ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_signal_backend')";

impl Postgres {
    pub(super) async fn try_out(&self) -> Result<(), ProviderError> {
        let session = self.link.session().await?;
        self.check_server(&session).await?;
        let groups = self.groups();
        check_groups(&session, &groups).await?;
        let random = draw(&*self.entropy).map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let login = self.settings.prefix.trial(u64::from_be_bytes(random));
        // Never committed: the session ends with this function, however it ends.
        session.say(&format!("BEGIN; {LIMITS}")).await?;
        let tried = self.try_login(&session, &login, &groups).await;
        session.say("ROLLBACK").await?;
        tried
    }

    async fn check_server(&self, session: &Session) -> Result<(), ProviderError> {
        let question = "SELECT pg_is_in_recovery() AS standby, \
            (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now, \
            current_setting('server_version_num') AS version;";
        let rows = session.say(question).await?;
        if value(&rows, "standby") != Some("f") {
            return Err(ProviderError::Unavailable("the server is a standby".into()));
        }
        let version: u32 = number(&rows, "version").unwrap_or_default();
        if version < 140_000 {
            return Err(ProviderError::Refused(
                "the server is older than PostgreSQL 14, which cannot wait for the end of a session".into(),
            ));
        }
        let theirs = Timestamp::from_millis(number(&rows, "now").unwrap_or_default());
        let ours = self.clock.now();
        let drift = theirs.since(ours).max(ours.since(theirs));
        if drift > DRIFT {
            return Err(ProviderError::Refused(format!(
                "the clocks of this machine and of the server are {} s apart: set them",
                drift.as_secs()
            )));
        }
        Ok(())
    }

    /// All that the life of a login takes, and what to grant where one of it is refused.
    async fn try_login(
        &self,
        session: &Session,
        login: &Ident,
        groups: &[Ident],
    ) -> Result<(), ProviderError> {
        let admin = &self.settings.username;
        let createrole = format!("ALTER ROLE {admin} CREATEROLE;");
        let create = format!("CREATE ROLE {login} LOGIN CONNECTION LIMIT 1 VALID UNTIL '2000-01-01';");
        attempt(session, &create, "make a login", &createrole).await?;
        let mut missing = Vec::new();
        for group in groups {
            let grant = format!("GRANT {group} TO {login};");
            let remedy = format!("GRANT {group} TO {admin} WITH ADMIN OPTION;");
            match attempt(session, &grant, "", &remedy).await {
                Err(ProviderError::Refused(_)) => missing.push(remedy),
                other => other?,
            }
        }
        if !missing.is_empty() {
            return Err(ProviderError::Refused(format!(
                "it cannot put a login into every group role that tools name; run: {}",
                missing.join(" ")
            )));
        }
        let longer =
            format!("ALTER ROLE {login} VALID UNTIL '2000-01-02' NOLOGIN; GRANT {login} TO CURRENT_USER;");
        attempt(session, &longer, "change a login", &createrole).await?;
        let rows = session
            .say(&format!(
                "SELECT pg_has_role(CURRENT_USER, {}, 'USAGE') AS ends;",
                login.as_literal()
            ))
            .await?;
        if value(&rows, "ends") != Some("t") {
            return Err(refused(
                "end the sessions of a login",
                &format!("ALTER ROLE {admin} INHERIT;"),
            ));
        }
        let remedy = match &self.settings.reassign_to {
            Some(heir) => format!("GRANT {heir} TO {admin};"),
            None => createrole,
        };
        let drop = format!("{} DROP ROLE {login};", self.disown(login));
        attempt(session, &drop, "drop a login", &remedy).await
    }
}

/// Each group role has to be there and must not reach past the database.
async fn check_groups(session: &Session, groups: &[Ident]) -> Result<(), ProviderError> {
    if groups.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = groups
        .iter()
        .map(|group| group.as_literal().to_string())
        .collect();
    let names = names.join(", ");
    let question = format!(
        "SELECT rolname AS there FROM pg_roles WHERE rolname IN ({names}); \
         SELECT g.rolname AS reaches, s.rolname AS past FROM pg_roles g, pg_roles s WHERE g.rolname IN ({names}) \
         AND ({REACHES_PAST}) AND pg_has_role(g.oid, s.oid, 'MEMBER') LIMIT 1;"
    );
    let rows = session.say(&question).await?;
    let there: Vec<&str> = values(&rows, "there").collect();
    let create: Vec<String> = groups
        .iter()
        .filter(|group| !there.contains(&group.as_str()))
        .map(|group| format!("CREATE ROLE {group} NOLOGIN;"))
        .collect();
    if !create.is_empty() {
        return Err(ProviderError::Refused(format!(
            "group roles that tools name are not there; run: {}",
            create.join(" ")
        )));
    }
    match (value(&rows, "reaches"), value(&rows, "past")) {
        (Some(group), Some(past)) => Err(ProviderError::Refused(format!(
            "a login in the group role `{group}` could become `{past}`, which reaches past the database: \
             name a group role that is not"
        ))),
        _ => Ok(()),
    }
}

fn number<T: std::str::FromStr>(rows: &[SimpleQueryRow], column: &str) -> Option<T> {
    value(rows, column).and_then(|text| text.parse().ok())
}

fn refused(what: &str, remedy: &str) -> ProviderError {
    ProviderError::Refused(format!("it cannot {what}; run: {remedy}"))
}

/// Does it behind a savepoint, so that what is refused spoils nothing else.
async fn attempt(session: &Session, batch: &str, what: &str, remedy: &str) -> Result<(), ProviderError> {
    session.say("SAVEPOINT attempt").await?;
    match session.say(batch).await {
        Ok(_) => Ok(()),
        Err(fault)
            if fault.is(&SqlState::INSUFFICIENT_PRIVILEGE) || fault.is(&SqlState::UNDEFINED_OBJECT) =>
        {
            session.say("ROLLBACK TO SAVEPOINT attempt").await?;
            Err(refused(what, remedy))
        }
        Err(fault @ Fault::Said { .. }) => {
            session.say("ROLLBACK TO SAVEPOINT attempt").await?;
            Err(fault.into())
        }
        Err(fault) => Err(fault.into()),
    }
}
