//! What a tool says about itself: the database, the group roles that its actions stand for, and what
//! is set for each login. Everything is parsed at load; nothing is left to find out at a mint.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::sql::{Ident, Literal};
use crate::model::access::{Access, ResourcePath};
use crate::model::ids::LeaseId;
use crate::model::name::Operation;
use crate::model::tool::Tool;
use crate::provider::ProviderError;

/// Where the resource goes in the name of a group role.
const RESOURCE: &str = "{resource}";
/// How many sessions a login may have at a time, unless the tool says otherwise.
const SESSIONS: u16 = 5;
/// The most sessions that a tool may allow to a login.
const MOST_SESSIONS: u16 = 100;
/// The most group roles of one action, and the most statements of a tool.
const MOST: usize = 16;

/// The predefined roles that a login may be in. The others reach past the database.
const PREDEFINED: [&str; 6] = [
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_monitor",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_stat_scan_tables",
];

/// What a tool's parameters say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parameters {
    pub(super) database: Ident,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) connection_limit: u16,
    roles: BTreeMap<Operation, Vec<GroupRole>>,
    create: Vec<Template>,
}

/// A group role, or one for each resource.
#[derive(Clone, PartialEq, Eq, Debug)]
enum GroupRole {
    Fixed(Ident),
    ForResource { before: String, after: String },
}

/// A statement with places for names.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Template(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    database: String,
    roles: BTreeMap<Operation, Vec<String>>,
    connection_limit: Option<u16>,
    host: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    create: Vec<String>,
}

impl Parameters {
    /// Reads a tool's parameters, or says what is wrong with them and what to write.
    pub(super) fn of(tool: &Tool) -> Result<Self, ProviderError> {
        Self::read(tool).map_err(|problem| {
            ProviderError::Refused(format!("the parameters of the tool `{}`: {problem}", tool.name))
        })
    }

    fn read(tool: &Tool) -> Result<Self, String> {
        let members = tool.binding.parameters.clone().into_iter().collect();
        let raw: Raw = serde_json::from_value(Value::Object(members)).map_err(|error| error.to_string())?;
        if let Some(unknown) = raw.roles.keys().find(|name| !tool.actions.contains_key(*name)) {
            return Err(format!("`roles.{unknown}` is no action of the tool"));
        }
        if let Some(missing) = tool.actions.keys().find(|name| !raw.roles.contains_key(*name)) {
            return Err(format!(
                "the action `{missing}` has no group roles: write `{missing} = [\"…\"]` below [parameters.roles]"
            ));
        }
        let connection_limit = raw.connection_limit.unwrap_or(SESSIONS);
        if !(1..=MOST_SESSIONS).contains(&connection_limit) {
            return Err(format!(
                "`connection_limit` is a number from 1 to {MOST_SESSIONS}"
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
        if raw
            .host
            .as_ref()
            .is_some_and(|host| host.is_empty() || !host.chars().all(plain))
        {
            return Err("`host` is not the name or the address of a host".into());
        }
        if raw.create.len() > MOST {
            return Err(format!("`create` has more than {MOST} statements"));
        }
        let mut roles = BTreeMap::new();
        for (action, names) in raw.roles {
            if names.is_empty() || names.len() > MOST {
                return Err(format!(
                    "`roles.{action}` names no group role, or more than {MOST}"
                ));
            }
            let names: Result<_, _> = names.iter().map(|name| GroupRole::parse(name)).collect();
            roles.insert(action, names?);
        }
        Ok(Self {
            database: raw
                .database
                .parse()
                .map_err(|error| format!("`database`: {error}"))?,
            host: raw.host,
            port: raw.port,
            connection_limit,
            roles,
            create: raw
                .create
                .iter()
                .map(|text| Template::parse(text))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The group roles that are named whole.
    pub(super) fn fixed(&self) -> impl Iterator<Item = &Ident> {
        self.roles.values().flatten().filter_map(|role| match role {
            GroupRole::Fixed(name) => Some(name),
            GroupRole::ForResource { .. } => None,
        })
    }

    /// The group roles that an access stands for. What they cannot express is refused: a login is
    /// never in more than what was asked for.
    pub(super) fn groups(&self, access: &Access) -> Result<BTreeSet<Ident>, ProviderError> {
        let unfit = |reason: String| ProviderError::Unfit {
            pointer: "/resources",
            reason,
        };
        let mut groups = BTreeSet::new();
        for action in access.actions() {
            let roles = self.roles.get(action).ok_or_else(|| ProviderError::Unfit {
                pointer: "/actions",
                reason: format!("the action `{action}` has no role in the database: ask for another"),
            })?;
            let by_resource = roles
                .iter()
                .any(|role| matches!(role, GroupRole::ForResource { .. }));
            if access.resources().is_empty() && by_resource {
                return Err(unfit(format!("`{action}` is given by resource here: name some")));
            }
            if !access.resources().is_empty() && !by_resource {
                return Err(unfit(format!(
                    "`{action}` cannot be limited to resources here: ask for it without resources"
                )));
            }
            for role in roles {
                match role {
                    GroupRole::Fixed(name) => {
                        groups.insert(name.clone());
                    }
                    GroupRole::ForResource { before, after } => {
                        for resource in access.resources() {
                            groups.insert(for_resource(before, resource, after).map_err(unfit)?);
                        }
                    }
                }
            }
        }
        Ok(groups)
    }

    /// The statements that follow the making of a login.
    pub(super) fn statements(&self, login: &Ident, lease: LeaseId) -> impl Iterator<Item = String> {
        let lease = Literal::of_lease(lease);
        self.create.iter().map(move |Template(text)| {
            text.replace("{role}", &login.to_string())
                .replace("{database}", &self.database.to_string())
                .replace("{lease}", &lease.to_string())
        })
    }
}

impl GroupRole {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some((before, after)) = text.split_once(RESOURCE) {
            let example = format!("{before}x{after}");
            example
                .parse::<Ident>()
                .map_err(|error| format!("a group role: {error}"))?;
            if before.is_empty() || example.starts_with("pg_") {
                return Err("a group role has to begin with a name of your own before `{resource}`".into());
            }
            let (before, after) = (before.to_owned(), after.to_owned());
            return Ok(Self::ForResource { before, after });
        }
        let name: Ident = text.parse().map_err(|error| format!("a group role: {error}"))?;
        if text.starts_with("pg_") && !PREDEFINED.contains(&text) {
            return Err(format!(
                "no login may be in `{text}`, which reaches past the database"
            ));
        }
        Ok(Self::Fixed(name))
    }
}

fn for_resource(before: &str, resource: &ResourcePath, after: &str) -> Result<Ident, String> {
    let text = resource.as_str();
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let name = format!("{before}{text}{after}");
    match name.parse() {
        Ok(name) if text.bytes().all(letter) => Ok(name),
        _ => Err(format!(
            "the resource `{text}` cannot be part of a role's name: use a few lower-case letters, digits and `_`"
        )),
    }
}

impl Template {
    /// Only what belongs to the login and goes with it. Rights come from group roles alone.
    fn parse(text: &str) -> Result<Self, String> {
        const BEGINNINGS: [&str; 3] = [
            "ALTER ROLE {role} SET ",
            "ALTER ROLE {role} IN DATABASE {database} SET ",
            "COMMENT ON ROLE {role} IS ",
        ];
        let bare = ["{role}", "{database}", "{lease}"]
            .iter()
            .fold(text.to_owned(), |text, place| text.replace(place, ""));
        let problem = if !BEGINNINGS.iter().any(|beginning| text.starts_with(beginning)) {
            Some(
                "it begins with `ALTER ROLE {role} SET`, `ALTER ROLE {role} IN DATABASE {database} SET` or `COMMENT ON ROLE {role} IS`",
            )
        } else if bare.contains(['{', '}']) {
            Some("it has places for `{role}`, `{database}` and `{lease}` only")
        } else if bare.contains([';', '\\', '$', '"']) || bare.contains("--") || bare.contains("/*") {
            Some("it is one statement, without `;`, `\\`, `$`, `\"` and comments")
        } else if bare.matches('\'').count() % 2 != 0 || text.len() > 500 || !printable(text) {
            Some("it is one line of at most 500 characters of ASCII, with its quotes closed")
        } else {
            None
        };
        match problem {
            None => Ok(Self(text.to_owned())),
            Some(problem) => Err(format!("a statement of `create` is refused: {problem}")),
        }
    }
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::model::tool::{Binding, Effect, Risk, Sensitivity};
    use crate::model::ttl::Ttl;

    fn tool(parameters: Value) -> Tool {
        Tool {
            name: "orders".parse().unwrap(),
            description: String::new(),
            owner: "orders team".parse().unwrap(),
            actions: [("read", Effect::Read), ("write", Effect::Write)]
                .map(|(name, effect)| (name.parse().unwrap(), effect))
                .into(),
            risk: Risk::Low,
            sensitivity: Sensitivity::Public,
            zone: "internal".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            audience: "urn:example:orders".into(),
            origins: [].into(),
            binding: Binding {
                provider: "orders-db".parse().unwrap(),
                parameters: serde_json::from_value(parameters).unwrap(),
            },
            max_ttl: Ttl::MAX,
            default_ttl: Ttl::MAX,
            live_credentials: None,
            facts: BTreeMap::new(),
        }
    }

    fn read(parameters: Value) -> Result<Parameters, String> {
        Parameters::of(&tool(parameters)).map_err(|error| error.to_string())
    }

    fn with(key: &str, value: Value) -> Result<Parameters, String> {
        let mut parameters =
            json!({"database": "orders", "roles": {"read": ["reader"], "write": ["writer"]}});
        parameters[key] = value;
        read(parameters)
    }

    fn access(actions: &[&str], resources: &[&str]) -> Access {
        Access::new(
            "orders".parse().unwrap(),
            actions.iter().map(|name| name.parse().unwrap()).collect(),
            resources.iter().map(|path| path.parse().unwrap()).collect(),
        )
        .unwrap()
    }

    fn groups(parameters: &Parameters, actions: &[&str], resources: &[&str]) -> Option<Vec<String>> {
        let groups = parameters.groups(&access(actions, resources)).ok()?;
        Some(groups.iter().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn actions_are_group_roles() {
        let parameters = with("connection_limit", json!(2)).unwrap();
        assert_eq!(groups(&parameters, &["read"], &[]).unwrap(), ["reader"]);
        assert_eq!(
            groups(&parameters, &["read", "write"], &[]).unwrap(),
            ["reader", "writer"]
        );
        assert_eq!(
            groups(&parameters, &["read"], &["customers"]),
            None,
            "not limited"
        );
        assert_eq!(groups(&parameters, &["drop"], &[]), None);
        assert_eq!(parameters.connection_limit, 2);
    }

    #[test]
    fn a_resource_is_a_part_of_a_name_and_of_nothing_else() {
        let parameters = with(
            "roles",
            json!({"read": ["base", "orders_{resource}_reader"], "write": ["writer"]}),
        )
        .unwrap();
        assert_eq!(
            groups(&parameters, &["read"], &["sales", "hr_2"]).unwrap(),
            ["base", "orders_hr_2_reader", "orders_sales_reader"]
        );
        assert_eq!(
            groups(&parameters, &["read"], &[]),
            None,
            "the whole tool is no role"
        );
        assert_eq!(
            groups(&parameters, &["read", "write"], &["sales"]),
            None,
            "write is not limited"
        );
        let long = "a".repeat(60);
        for bad in ["Sales", "a/b", "a-b", "a.b", "a:b", "a@b", "a=b", &long] {
            assert_eq!(groups(&parameters, &["read"], &[bad]), None, "{bad}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_parameters() {
        for (key, value, says) in [
            ("schema", json!("x"), "unknown field `schema`"),
            ("database", json!("a;b"), "`database`"),
            ("database", json!(7), "invalid type"),
            ("connection_limit", json!(0), "from 1 to 100"),
            ("connection_limit", json!(-1), "invalid value"),
            ("host", json!("a b"), "`host`"),
            (
                "roles",
                json!({"read": ["reader"]}),
                "the action `write` has no group roles",
            ),
            (
                "roles",
                json!({"read": ["a"], "write": ["b"], "drop": ["c"]}),
                "`roles.drop`",
            ),
            ("roles", json!({"read": [], "write": ["b"]}), "`roles.read`"),
            (
                "roles",
                json!({"read": ["pg_execute_server_program"], "write": ["b"]}),
                "past the database",
            ),
            (
                "roles",
                json!({"read": ["{resource}"], "write": ["b"]}),
                "a name of your own",
            ),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("the tool `orders`"), "{error}");
        }
    }

    #[test]
    fn names_that_would_be_more_than_a_name_are_refused() {
        for bad in [
            "a\"; DROP ROLE postgres; --",
            "a'b",
            "a\nb",
            "*",
            "ä",
            "{role}",
            "a{resource}{resource}",
            "a b",
            "",
            "a{resource}\"",
            "pg_{resource}",
        ] {
            assert!(
                with("roles", json!({"read": [bad], "write": ["b"]})).is_err(),
                "{bad:?}"
            );
            assert!(with("database", json!(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_statement_is_about_the_login_and_ends_with_it() {
        let text = "ALTER ROLE {role} IN DATABASE {database} SET statement_timeout = '30s'";
        let parameters = with("create", json!([text, "COMMENT ON ROLE {role} IS {lease}"])).unwrap();
        let at = Timestamp::from_secs(1);
        let lease = LeaseId::new(crate::model::ids::TaskId::new(at, [0; 10]), at, [0; 10]);
        let login: Ident = "dayfly_1".parse().unwrap();
        let statements: Vec<String> = parameters.statements(&login, lease).collect();
        assert_eq!(
            statements,
            [
                "ALTER ROLE \"dayfly_1\" IN DATABASE \"orders\" SET statement_timeout = '30s'".to_owned(),
                format!("COMMENT ON ROLE \"dayfly_1\" IS '{lease}'"),
            ]
        );
        for bad in [
            "DROP TABLE customers",
            "GRANT ALL ON customers TO {role}",
            "ALTER ROLE {role} SUPERUSER",
            "ALTER ROLE {role} SET a = 'b'; DROP TABLE c",
            "ALTER ROLE {role} SET a = 'b",
            "ALTER ROLE {role} SET a = {password}",
            "ALTER ROLE {role} SET a = $$b$$",
            "ALTER ROLE {role} SET a = 1 -- b",
            "ALTER ROLE {role} SET a = 1 /* b */",
            "ALTER ROLE {role} SET a = 'b\\'",
            "ALTER ROLE {role} SET a =\n1",
            "ALTER ROLE {role} SET a = 'ä'",
            "ALTER ROLE postgres SET a = 1",
        ] {
            assert!(with("create", json!([bad])).is_err(), "{bad}");
        }
    }
}
