//! Database logins for libpq, which has no command to ask for a password: a password file and a service file, for
//! their owner alone, written anew whenever a login is.

use std::sync::Arc;

use super::environment::Environment;
use super::folder::Folder;
use super::wallet::Wallet;
use crate::model::credential::Credential;

const KIND: &str = "database_login";
const PASSWORDS: &str = "pgpass";
const SERVICES: &str = "pg_service.conf";

/// A login, with the name that its service has.
struct Login {
    service: String,
    host: String,
    port: u16,
    database: String,
    username: String,
    password: String,
}

/// Writes the files, and says in the environment where they are. Whether there is anything to write.
pub(super) fn give(wallet: &Wallet, folder: &Folder, environment: &mut Environment) -> anyhow::Result<bool> {
    let logins = logins(wallet);
    if logins.is_empty() {
        return Ok(false);
    }
    write(&logins, folder)?;
    environment.set("PGPASSFILE", folder.path(PASSWORDS));
    environment.set("PGSERVICEFILE", folder.path(SERVICES));
    if let [only] = logins.as_slice() {
        environment.set("PGSERVICE", only.service.clone());
        environment.set("PGHOST", only.host.clone());
        environment.set("PGPORT", only.port.to_string());
        environment.set("PGDATABASE", only.database.clone());
        environment.set("PGUSER", only.username.clone());
    }
    Ok(true)
}

/// Writes the files again with each change, for as long as it is polled.
pub(super) async fn follow(wallet: Arc<Wallet>, folder: Arc<Folder>, tell: impl Fn(String)) {
    let mut changes = wallet.changes();
    while changes.changed().await.is_ok() {
        if let Err(error) = write(&logins(&wallet), &folder) {
            tell(format!("the new password cannot be written down: {error:#}"));
        }
    }
}

fn logins(wallet: &Wallet) -> Vec<Login> {
    let login = |entry: &super::wallet::Entry| match entry.issued().credential {
        Credential::DatabaseLogin {
            host,
            port,
            database,
            username,
            password,
        } => Some(Login {
            service: entry.name().to_owned(),
            host,
            port,
            database,
            username,
            password: password.expose().to_owned(),
        }),
        _ => None,
    };
    wallet.of_kind(KIND).filter_map(login).collect()
}

/// The password first: whoever reads a new name in the service file finds its password.
fn write(logins: &[Login], folder: &Folder) -> anyhow::Result<()> {
    folder.write(PASSWORDS, &logins.iter().map(password_line).collect::<String>())?;
    folder.write(SERVICES, &logins.iter().map(service).collect::<String>())?;
    Ok(())
}

/// A line of the password file: `host:port:database:user:password`, with `:` and `\` after a `\`.
fn password_line(login: &Login) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    // A socket's folder is called this there.
    let host = match login.host.starts_with('/') {
        true => "localhost".to_owned(),
        false => escaped(&login.host),
    };
    let (port, database) = (login.port, escaped(&login.database));
    let (username, password) = (escaped(&login.username), escaped(&login.password));
    format!("{host}:{port}:{database}:{username}:{password}\n")
}

fn service(login: &Login) -> String {
    let Login {
        service,
        host,
        port,
        database,
        username,
        ..
    } = login;
    format!("[{service}]\nhost={host}\nport={port}\ndbname={database}\nuser={username}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_two_files_and_the_password_is_in_one_of_them() {
        let login = Login {
            service: "orders".into(),
            host: "db.example.org".into(),
            port: 5432,
            database: "orders".into(),
            username: "dayfly_1".into(),
            password: r"a:b\c".into(),
        };
        assert_eq!(
            password_line(&login),
            "db.example.org:5432:orders:dayfly_1:a\\:b\\\\c\n"
        );
        let service = service(&login);
        assert!(
            service.starts_with("[orders]\nhost=db.example.org\nport=5432\n"),
            "{service}"
        );
        assert!(!service.contains("a:b"), "{service}");
        let local = Login {
            host: "/run/postgresql".into(),
            ..login
        };
        assert!(password_line(&local).starts_with("localhost:5432:"));
    }
}
