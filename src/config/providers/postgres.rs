//! `[provider.postgres]`: logins of a PostgreSQL server, one for each lease.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::read::{Base, seconds, within};
use crate::model::document::Section;
use crate::model::ttl::Ttl;

/// How the server is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostgresConfig {
    /// Its name or address, or the folder of its socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that Dayfly works in.
    pub database: String,
    /// The role that Dayfly works as.
    pub username: String,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
    /// The only authorities that may vouch for the server. None means that nothing is encrypted.
    pub ca_file: Option<PathBuf>,
    /// What the names of logins begin with.
    pub role_prefix: String,
    /// Who gets what a login made.
    pub reassign_to: Option<String>,
    /// How many connections make logins, at most.
    pub mint_connections: usize,
    /// How many connections end them, at most.
    pub end_connections: usize,
    /// The longest life of a login.
    pub max_ttl: Ttl,
}

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> Option<PostgresConfig> {
    let host: Option<String> =
        section.required("host", "write where the server is: `host = \"db.example.org\"`");
    let port = section.or("port", 5432);
    let database = name(section, "database", "postgres");
    let username = name(section, "username", "dayfly");
    let password_file = base.optional_path(section, "password_file");
    let ca_file = base.optional_path(section, "ca_file");
    let plaintext = section.or("danger_plaintext", false);
    let near = host.as_ref().is_some_and(|host| is_near(host));
    if ca_file.is_some() && (plaintext || host.as_ref().is_some_and(|host| host.starts_with('/'))) {
        let message = "it is of no use where nothing is encrypted";
        section.blame(
            "ca_file",
            message,
            "remove it, or `danger_plaintext` and the socket",
        );
    } else if ca_file.is_none() && !plaintext && !near {
        section.blame(
            "ca_file",
            "it is missing, and the server is on another machine",
            "write the file of the authorities that vouch for the server, such as \
             `ca_file = \"/etc/ssl/certs/ca-certificates.crt\"`",
        );
    }
    let role_prefix: String = section.or("role_prefix", "dayfly".into());
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let begins = role_prefix.starts_with(|c: char| c.is_ascii_lowercase()) && !role_prefix.starts_with("pg_");
    if !begins || role_prefix.len() > 30 || !role_prefix.bytes().all(letter) {
        let help = "write 1 to 30 lower-case letters, digits or `_`, starting with a letter";
        section.blame("role_prefix", "the name of a login cannot begin with it", help);
    }
    let reassign_to = section
        .has("reassign_to")
        .then(|| name(section, "reassign_to", ""));
    Some(PostgresConfig {
        port,
        database,
        username,
        password_file,
        ca_file,
        role_prefix,
        reassign_to,
        mint_connections: within(section, "mint_connections", 8, 1, 64),
        end_connections: within(section, "end_connections", 8, 1, 64),
        max_ttl: section.or("max_ttl", seconds(3600)),
        host: host?,
    })
}

/// The name of a database or a role, as it can stand in a statement.
fn name(section: &mut Section<'_>, key: &'static str, default: &str) -> String {
    let name: String = section.or(key, default.into());
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || name.len() > 63 || !name.bytes().all(letter) {
        let help = "write 1 to 63 letters, digits, `_` or `-` of ASCII, starting with a letter or `_`";
        section.blame(key, "it is not a name that Dayfly takes", help);
    }
    name
}

/// Whether nothing of the way there is a network.
fn is_near(host: &str) -> bool {
    host.starts_with('/') || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::path::Path;

    use crate::config::providers::ProviderKind;
    use crate::config::{Config, parse};

    fn read(lines: &str) -> Result<Config, String> {
        let text = format!(
            "[[provider]]\nname = 'orders-db'\nkind = 'postgres'\n[provider.postgres]\n{lines}\n\
             [[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n"
        );
        parse("dayfly.toml", Path::new("/etc/dayfly"), &text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_server_elsewhere_has_to_be_vouched_for() {
        for good in [
            "host = '/run/postgresql'",
            "host = 'localhost'",
            "host = '::1'",
            "host = 'db.example.org'\nca_file = 'ca.pem'",
            "host = 'db.example.org'\ndanger_plaintext = true",
        ] {
            assert!(read(good).is_ok(), "{good}: {:?}", read(good));
        }
        for (bad, says) in [
            ("", "`provider.postgres.host`: it is missing"),
            (
                "host = 'db.example.org'",
                "`provider.postgres.ca_file`: it is missing",
            ),
            ("host = '10.0.0.7'", "`provider.postgres.ca_file`: it is missing"),
            (
                "host = 'h'\nca_file = 'ca.pem'\ndanger_plaintext = true",
                "it is of no use",
            ),
            ("host = '/run'\nca_file = 'ca.pem'", "it is of no use"),
            (
                "host = '::1'\nrole_prefix = 'pg_a'",
                "`provider.postgres.role_prefix`",
            ),
            ("host = '::1'\nusername = 'a\"b'", "`provider.postgres.username`"),
            (
                "host = '::1'\nreassign_to = ''",
                "`provider.postgres.reassign_to`",
            ),
            ("host = '::1'\nmint_connections = 0", "from 1 to 64"),
            ("host = '::1'\npassword = 'x'", "unknown key `password`"),
        ] {
            let problems = read(bad).unwrap_err();
            assert!(problems.contains(says), "{problems}");
        }
    }

    #[test]
    fn paths_are_below_the_folder_of_the_file() {
        let config = read("host = '::1'\npassword_file = 'a'\nca_file = '/b'").unwrap();
        let ProviderKind::Postgres(settings) = &config.providers[0].kind else {
            panic!("{:?}", config.providers);
        };
        assert_eq!(
            settings.password_file.as_deref(),
            Some(Path::new("/etc/dayfly/a"))
        );
        assert_eq!(settings.ca_file.as_deref(), Some(Path::new("/b")));
        assert_eq!(settings.role_prefix, "dayfly");
    }
}
