//! What the environment says in place of a document: where secrets are, and nothing else.
//!
//! `DAYFLY__LEDGER__REDIS__PASSWORD_FILE=/run/secrets/redis` stands for `password_file` in `[ledger.redis]`. Two
//! underscores part the steps of the way; one of several sections is named by its `name`, in which all but letters and
//! digits become `_`: `DAYFLY__PROVIDER__ORDERS_DB__POSTGRES__PASSWORD_FILE`. What goes wrong is a problem, as in a file.

use std::ffi::OsString;
use std::path::Path;

use super::problem::{Problem, Problems};

/// What all of them start with. Other variables of Dayfly's have one underscore there.
const PREFIX: &str = "DAYFLY__";
/// What problems call the place.
const PLACE: &str = "the environment";
/// Keys of files that everybody may see: they belong with the rest.
const PUBLIC: [&str; 4] = ["ca_file", "cert_file", "bundle_file", "jwks_file"];

/// A file that is somewhere else than the document says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// As it is written.
    variable: String,
    /// The section, step by step.
    pub(super) section: Vec<String>,
    /// The key in it.
    pub(super) key: String,
    /// The path.
    pub(super) path: String,
}

impl Override {
    pub(super) fn problem(&self, message: &str) -> Problem {
        Problem::about(PLACE, format!("`{}`: {message}", self.variable))
    }
}

/// The overrides among variables, or all that is wrong with them. Never says what a variable holds that is no path:
/// it may be the secret.
pub fn overrides(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, Problems> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (variable, value) in variables {
        let Some(variable) = variable.to_str().filter(|variable| variable.starts_with(PREFIX)) else {
            continue;
        };
        match read(variable, &value) {
            Ok(one) => found.push(one),
            Err((message, help)) => {
                let message = format!("`{variable}`: {message}");
                problems.push(Problem::about(PLACE, message).help(help));
            }
        }
    }
    Problems::settle(PLACE, Some(found), problems)
}

fn read(variable: &str, value: &OsString) -> Result<Override, (&'static str, String)> {
    let way = variable.strip_prefix(PREFIX).unwrap_or_default();
    let mut section: Vec<String> = way.split("__").map(step).collect();
    let key = section.pop().unwrap_or_default();
    if !key.ends_with("_file") {
        let help = format!(
            "put what is secret into a file and name it in `{variable}_FILE`; everything else stands in the configuration"
        );
        return Err(("only files of secrets come from the environment", help));
    }
    if PUBLIC.contains(&key.as_str()) {
        let help = format!("write `{key}` into the configuration");
        return Err(("it names a file that holds no secret", help));
    }
    match value.to_str().filter(|path| Path::new(path).is_absolute()) {
        Some(path) => Ok(Override {
            variable: variable.to_owned(),
            section,
            key,
            path: path.to_owned(),
        }),
        None => {
            let help = "write where the file is, beginning with `/`".to_owned();
            Err(("it is no absolute path", help))
        }
    }
}

/// How a step of the way is written, and the name of a section.
pub(super) fn step(name: &str) -> String {
    name.chars()
        .map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter.to_ascii_lowercase(),
            false => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;

    type Read = (Option<String>, Vec<(String, Option<String>)>);

    fn from(variables: &[(&str, &str)]) -> Result<Vec<Override>, Problems> {
        overrides(
            variables
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into())),
        )
    }

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Read, String> {
        let document = Document::new("a.toml", text).over(from(variables).unwrap());
        let read = document.root().map(|mut root| {
            let redis = root.section("ledger").section("redis").optional("password_file");
            let providers = root.sections("provider").into_iter().map(|mut provider| {
                let name = provider.or("name", String::new());
                let file = provider.section("postgres").required("password_file", "write it");
                (name, file)
            });
            (redis, providers.collect())
        });
        document.finish(read).map_err(|problems| problems.to_string())
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        from(variables).unwrap_err().to_string()
    }

    #[test]
    fn stands_for_what_is_written_and_for_what_is_not() {
        let text = "[ledger.redis]\npassword_file = 'old'\n[[provider]]\nname = 'orders-db'\n[[provider]]\nname = 'b'\n\
                    [provider.postgres]\npassword_file = 'kept'\n";
        let variables = [
            ("DAYFLY__LEDGER__REDIS__PASSWORD_FILE", "/run/redis"),
            (
                "DAYFLY__PROVIDER__ORDERS_DB__POSTGRES__PASSWORD_FILE",
                "/run/orders",
            ),
            ("DAYFLY_EVIDENCE_FILE", "another matter"),
        ];
        let (redis, providers) = read(text, &variables).unwrap();
        assert_eq!(redis.as_deref(), Some("/run/redis"));
        let file = |text: &str| Some(text.to_owned());
        assert_eq!(
            providers,
            [
                ("orders-db".to_owned(), file("/run/orders")),
                ("b".to_owned(), file("kept"))
            ]
        );
        let (redis, _) = read("", &variables[..1]).unwrap();
        assert_eq!(
            redis.as_deref(),
            Some("/run/redis"),
            "a section need not be written"
        );
    }

    #[test]
    fn what_stands_for_nothing_is_an_error_as_an_unknown_key_is() {
        for (variable, said) in [
            ("DAYFLY__LEDGR__REDIS__PASSWORD_FILE", "no section of a.toml"),
            (
                "DAYFLY__PROVIDER__C__POSTGRES__PASSWORD_FILE",
                "no section of a.toml",
            ),
            (
                "DAYFLY__LEDGER__REDIS__PASWORD_FILE",
                "`pasword_file` is no key of [ledger.redis]",
            ),
        ] {
            let problems = read(
                "[[provider]]\nname = 'b'\npostgres.password_file = 'x'",
                &[(variable, "/x")],
            );
            let problems = problems.unwrap_err();
            assert!(
                problems.starts_with(&format!("the environment: `{variable}`: ")) && problems.contains(said),
                "{problems}"
            );
            assert_eq!(problems.matches("the environment").count(), 1, "{problems}");
        }
        let twice = "[[provider]]\nname = 'a-b'\npostgres = {}\n[[provider]]\nname = 'a_b'\npostgres = {}\n";
        let variable = "DAYFLY__PROVIDER__A_B__POSTGRES__PASSWORD_FILE";
        let problems = read(twice, &[(variable, "/x")]).unwrap_err();
        assert!(problems.contains("it stands for 2 sections"), "{problems}");
    }

    #[test]
    fn a_document_that_is_none_hides_nothing_else() {
        let problems = read("a = ", &[("DAYFLY__LEDGER__REDIS__PASSWORD_FILE", "/x")]).unwrap_err();
        assert!(!problems.contains("the environment"), "{problems}");
    }

    #[test]
    fn takes_paths_of_secrets_and_never_tells_what_else_it_was_given() {
        let said = refused(&[
            ("DAYFLY__LEDGER__REDIS__PASSWORD", "hunter2"),
            ("DAYFLY__LEDGER__REDIS__PASSWORD_FILE", "hunter2"),
            ("DAYFLY__LEDGER__REDIS__CA_FILE", "/ca.pem"),
            ("DAYFLY__SERVER__LISTEN", "0.0.0.0:1"),
        ]);
        assert!(!said.contains("hunter2"), "{said}");
        assert!(
            said.contains("name it in `DAYFLY__LEDGER__REDIS__PASSWORD_FILE`"),
            "{said}"
        );
        assert!(
            said.contains("`DAYFLY__LEDGER__REDIS__PASSWORD_FILE`: it is no absolute path"),
            "{said}"
        );
        assert!(said.contains("write `ca_file` into the configuration"), "{said}");
        assert_eq!(said.matches("the environment: ").count(), 4, "{said}");
    }
}
