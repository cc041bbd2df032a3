//! From what a transmitter calls somebody to what we do, and about whom it may speak at all.
//!
//! Whoever runs one stream must not end what another's users hold, so a stream speaks about nobody unless
//! its configuration says so: whose names it may use, which users these are here, and which agents.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::Whom;
use super::identifier::{Format, Identifier, Role};
use crate::model::acting::UserPattern;
use crate::model::name::{AgentName, Environment, InvalidName, UserId};
use crate::model::spiffe::SpiffeId;

/// How a user is called here who is named by one text there: some text around it, such as `idp|{sub}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    before: String,
    behind: String,
}

impl Template {
    /// A template for this format: a text in which its member stands once, in braces.
    pub fn parse(format: Format, text: &str) -> Result<Self, InvalidName> {
        let slot = format!("{{{}}}", format.member());
        let parts = text.split_once(&slot);
        let parts = parts.filter(|(before, behind)| !format!("{before}{behind}").contains(['{', '}']));
        // With a letter in its place it has to be a user.
        let parts = parts.filter(|(before, behind)| format!("{before}x{behind}").parse::<UserId>().is_ok());
        let (before, behind) = parts.ok_or_else(|| {
            InvalidName::new(
                "template of user ids",
                text,
                "write a user id in which the member of the format stands once, such as `idp|{sub}`, `{email}` or `{id}`",
            )
        })?;
        Ok(Self {
            before: before.to_owned(),
            behind: behind.to_owned(),
        })
    }

    fn fill(&self, text: &str) -> Option<UserId> {
        format!("{}{text}{}", self.before, self.behind).parse().ok()
    }
}

/// Who is meant by an identifier.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// How users are called, by the format that they are named in. Formats that are not here name no user.
    pub users: BTreeMap<Format, Template>,
    /// Whose `iss_sub` names count.
    pub issuers: Vec<String>,
    /// The `iss` of our own tokens, whose `jti` names a lease.
    pub our_issuer: String,
    /// Which tenants of the transmitter are which environments. When there are any, a subject of another
    /// tenant is not this stream's to speak about.
    pub tenants: BTreeMap<String, Environment>,
}

/// Why an identifier means nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotHere {
    /// It names nobody whom there could be here.
    Unknown(&'static str),
    /// It names somebody of whom this stream may not speak.
    Foreign(String),
}

const UNKNOWN: NotHere = NotHere::Unknown("it is about nobody that this stream's configuration maps");

impl Mapping {
    /// Everybody who is meant. `principal` is what the subject is, or which part of a complex one the event
    /// is about, where it says so (CAEP 1.0 §3.8).
    pub fn whom(&self, identifier: &Identifier, principal: Option<&str>) -> Result<Vec<Whom>, NotHere> {
        match identifier {
            Identifier::Complex(parts) => self.of_complex(parts, principal),
            simple => match principal.map(Role::of) {
                None => self.of(simple, Role::User),
                Some(Some(role)) => self.of(simple, role),
                Some(None) => Err(UNKNOWN),
            },
        }
    }

    fn of_complex(
        &self,
        parts: &BTreeMap<Role, Identifier>,
        principal: Option<&str>,
    ) -> Result<Vec<Whom>, NotHere> {
        let tenant = parts.get(&Role::Tenant).map(|tenant| self.tenant(tenant));
        let tenant = tenant.transpose()?.flatten();
        // The event is about one of them, and the others say which one. The narrowest that we know, and
        // the user before whatever the user uses.
        const ORDER: [Role; 5] = [
            Role::Session,
            Role::User,
            Role::Workload,
            Role::Application,
            Role::Device,
        ];
        let named = principal.and_then(Role::of);
        for role in named
            .as_slice()
            .iter()
            .chain(if named.is_some() { &[] } else { &ORDER[..] })
        {
            if let Some(part) = parts.get(role) {
                match self.of(part, *role) {
                    Err(NotHere::Unknown(_)) => {}
                    found => return found,
                }
            }
        }
        let about_tenant = named.is_none_or(|role| role == Role::Tenant);
        let alone = parts.len() == 1 || named == Some(Role::Tenant);
        tenant
            .filter(|_| about_tenant && alone)
            .map(|environment| vec![Whom::Environment(environment)])
            .ok_or(UNKNOWN)
    }

    /// The environment of a tenant. None where this stream does not tell tenants apart.
    fn tenant(&self, identifier: &Identifier) -> Result<Option<Environment>, NotHere> {
        if self.tenants.is_empty() {
            return Ok(None);
        }
        let known = match identifier {
            Identifier::Simple { text, .. } => self.tenants.get(text),
            _ => None,
        };
        known.cloned().map(Some).ok_or_else(|| {
            NotHere::Foreign("it is about a tenant that this stream may not speak about".into())
        })
    }

    fn of(&self, identifier: &Identifier, role: Role) -> Result<Vec<Whom>, NotHere> {
        let Identifier::Aliases(aliases) = identifier else {
            return self.one(identifier, role).map(|whom| vec![whom]);
        };
        let mut all = Vec::new();
        for alias in aliases {
            match self.one(alias, role) {
                Ok(whom) if !all.contains(&whom) => all.push(whom),
                Ok(_) | Err(NotHere::Unknown(_)) => {}
                Err(foreign) => return Err(foreign),
            }
        }
        if all.is_empty() { Err(UNKNOWN) } else { Ok(all) }
    }

    fn one(&self, identifier: &Identifier, role: Role) -> Result<Whom, NotHere> {
        match identifier {
            Identifier::JwtId { issuer, jti } if *issuer == self.our_issuer => {
                jti.parse().map(Whom::Lease).map_err(|_| UNKNOWN)
            }
            Identifier::Simple { format, issuer, text } => {
                if let Some(issuer) = issuer
                    && !self.issuers.contains(issuer)
                {
                    return Err(NotHere::Foreign(
                        "it names its subject by an `iss` that this stream may not speak for".into(),
                    ));
                }
                if *format == Format::Uri
                    && let Ok(id) = text.parse::<SpiffeId>()
                {
                    return Ok(Whom::Workload(id));
                }
                match role {
                    Role::Application | Role::Workload => agent(*format, text).ok_or(UNKNOWN),
                    Role::User => {
                        let template = self.users.get(format);
                        template
                            .and_then(|it| it.fill(text))
                            .map(Whom::User)
                            .ok_or(UNKNOWN)
                    }
                    _ => Err(UNKNOWN),
                }
            }
            _ => Err(UNKNOWN),
        }
    }
}

/// An agent by its own name.
fn agent(format: Format, text: &str) -> Option<Whom> {
    (format == Format::Opaque)
        .then(|| text.parse().ok())
        .flatten()
        .map(Whom::Agent)
}

/// An agent's name as a whole, or what it begins with and `*`: `support-bot`, `support-*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentPattern(String);

impl AgentPattern {
    fn matches(&self, name: &AgentName) -> bool {
        match self.0.strip_suffix('*') {
            Some(before) => name
                .as_str()
                .strip_prefix(before)
                .is_some_and(|rest| !rest.is_empty()),
            None => name.as_str() == self.0,
        }
    }
}

impl FromStr for AgentPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sound = match text.strip_suffix('*') {
            Some(before) => before.ends_with(['-', '_', '.']) && before.parse::<AgentName>().is_ok(),
            None => text.parse::<AgentName>().is_ok(),
        };
        sound.then(|| Self(text.to_owned())).ok_or_else(|| {
            InvalidName::new(
                "pattern of agents",
                text,
                "write an agent's whole name, or end it in `-*`, `_*` or `.*`: `support-*`",
            )
        })
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// About whom a stream may speak. Empty, it may speak about nobody.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Confinement {
    /// These users.
    pub users: Vec<UserPattern>,
    /// These agents.
    pub agents: Vec<AgentPattern>,
    /// These environments, and every agent in them.
    pub environments: Vec<Environment>,
}

impl Confinement {
    /// Whether it may speak about this user.
    pub fn has_user(&self, user: &UserId) -> bool {
        self.users.iter().any(|pattern| pattern.matches(user))
    }

    /// Whether it may speak about this agent, which runs there.
    pub fn has_agent(&self, name: &AgentName, environment: &Environment) -> bool {
        self.has_environment(environment) || self.agents.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether it may hear that there is nobody of this name, or no agent behind this workload.
    pub fn may_know_of_none(&self, whom: &Whom) -> bool {
        match whom {
            Whom::Agent(name) => self.agents.iter().any(|pattern| pattern.matches(name)),
            _ => !self.agents.is_empty() || !self.environments.is_empty(),
        }
    }

    /// Whether it may speak about this environment.
    pub fn has_environment(&self, environment: &Environment) -> bool {
        self.environments.contains(environment)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::signal::testing::{IDP, US, mapping};

    fn whom(mapping: &Mapping, subject: Value, principal: Option<&str>) -> Result<Vec<Whom>, NotHere> {
        mapping.whom(&Identifier::read(Some(&subject), false).unwrap(), principal)
    }

    fn user(id: &str) -> Whom {
        Whom::User(id.parse().unwrap())
    }

    fn foreign(found: &Result<Vec<Whom>, NotHere>) -> bool {
        matches!(found, Err(NotHere::Foreign(_)))
    }

    const LEASE: &str = "lse_01m813ts6pez4sgbypd2e3wtmy";

    #[test]
    fn everybody_is_called_as_the_stream_says() {
        let mapping = mapping();
        let spiffe = "spiffe://example.org/agents/a";
        for (subject, meant) in [
            (
                json!({"format": "iss_sub", "iss": IDP, "sub": "ann"}),
                user("idp|ann"),
            ),
            (
                json!({"format": "email", "email": "ann@example.org"}),
                user("ann@example.org"),
            ),
            (json!({"format": "opaque", "id": "4711"}), user("4711")),
            (
                json!({"format": "uri", "uri": spiffe}),
                Whom::Workload(spiffe.parse().unwrap()),
            ),
            (
                json!({"format": "jwt_id", "iss": US, "jti": LEASE}),
                Whom::Lease(LEASE.parse().unwrap()),
            ),
        ] {
            assert_eq!(
                whom(&mapping, subject.clone(), None).unwrap(),
                [meant],
                "{subject}"
            );
        }
        for subject in [
            json!({"format": "account", "uri": "acct:ann@example.org"}),
            json!({"format": "phone_number", "phone_number": "+12065550100"}),
            json!({"format": "uri", "uri": "https://example.org/ann"}),
            json!({"format": "jwt_id", "iss": IDP, "jti": LEASE}),
            json!({"format": "jwt_id", "iss": US, "jti": "x"}),
            json!({"format": "opaque", "id": "a\nb"}),
            json!({"format": "opaque", "id": "x".repeat(300)}),
        ] {
            assert_eq!(whom(&mapping, subject.clone(), None), Err(UNKNOWN), "{subject}");
        }
        let theirs = json!({"format": "iss_sub", "iss": "https://other.example.org", "sub": "ann"});
        assert!(foreign(&whom(&mapping, theirs, None)));
    }

    #[test]
    fn all_names_of_one_subject_count_and_one_that_is_foreign_spoils_them() {
        let mapping = mapping();
        let aliases = |of: Value| json!({"format": "aliases", "identifiers": of});
        let email = json!({"format": "email", "email": "ann@example.org"});
        let found = whom(
            &mapping,
            aliases(
                json!([email, {"format": "iss_sub", "iss": IDP, "sub": "ann"}, {"format": "did", "url": "did:a:b"}, email]),
            ),
            None,
        );
        assert_eq!(found.unwrap(), [user("ann@example.org"), user("idp|ann")]);
        let theirs = json!({"format": "iss_sub", "iss": "https://other.example.org", "sub": "ann"});
        assert!(foreign(&whom(&mapping, aliases(json!([email, theirs])), None)));
        assert_eq!(
            whom(
                &mapping,
                aliases(json!([{"format": "did", "url": "did:a:b"}])),
                None
            ),
            Err(UNKNOWN)
        );
    }

    #[test]
    fn of_a_complex_subject_the_narrowest_part_counts_or_the_one_that_the_event_is_about() {
        let mapping = mapping();
        let ann = json!({"format": "opaque", "id": "ann"});
        let lease = json!({"format": "jwt_id", "iss": US, "jti": LEASE});
        let session = json!({"format": "opaque", "id": "session-7"});
        let bot = json!({"format": "opaque", "id": "support-bot"});
        let agent = Whom::Agent("support-bot".parse().unwrap());
        let complex = |parts: Value| {
            let mut parts = parts;
            parts["format"] = "complex".into();
            parts
        };
        for (parts, principal, meant) in [
            (json!({"user": ann, "session": session}), None, user("ann")),
            (
                json!({"user": ann, "session": lease}),
                None,
                Whom::Lease(LEASE.parse().unwrap()),
            ),
            (json!({"user": ann, "application": bot}), None, user("ann")),
            (
                json!({"application": bot, "device": session}),
                None,
                agent.clone(),
            ),
            (json!({"workload": bot}), None, agent.clone()),
            (
                json!({"user": ann, "application": bot}),
                Some("APPLICATION"),
                agent,
            ),
            (json!({"user": ann, "session": lease}), Some("USER"), user("ann")),
        ] {
            let subject = complex(parts);
            assert_eq!(
                whom(&mapping, subject.clone(), principal).unwrap(),
                [meant],
                "{subject}"
            );
        }
        for (parts, principal) in [
            (json!({"device": ann}), None),
            (json!({"user": ann, "device": session}), Some("DEVICE")),
            (json!({"user": ann}), Some("GROUP")),
            (json!({"tenant": ann}), None),
            (
                json!({"application": {"format": "opaque", "id": "Not An Agent"}}),
                None,
            ),
        ] {
            let subject = complex(parts);
            assert_eq!(
                whom(&mapping, subject.clone(), principal),
                Err(UNKNOWN),
                "{subject}"
            );
        }
        // What a simple subject is may be said too.
        assert_eq!(whom(&mapping, ann.clone(), Some("USER")).unwrap(), [user("ann")]);
        assert_eq!(whom(&mapping, ann.clone(), Some("DEVICE")), Err(UNKNOWN));
        assert_eq!(whom(&mapping, ann, Some("ROBOT")), Err(UNKNOWN));
    }

    #[test]
    fn tenants_are_told_apart_where_the_stream_says_which_there_are() {
        let production: Environment = "production".parse().unwrap();
        let mapping = Mapping {
            tenants: BTreeMap::from([("acme".to_owned(), production.clone())]),
            ..mapping()
        };
        let subject = |tenant: &str, user: bool| {
            let mut subject = json!({"format": "complex", "tenant": {"format": "opaque", "id": tenant}});
            if user {
                subject["user"] = json!({"format": "opaque", "id": "ann"});
            }
            subject
        };
        assert_eq!(
            whom(&mapping, subject("acme", true), None).unwrap(),
            [user("ann")]
        );
        let environment = [Whom::Environment(production)];
        assert_eq!(whom(&mapping, subject("acme", false), None).unwrap(), environment);
        assert_eq!(
            whom(&mapping, subject("acme", true), Some("TENANT")).unwrap(),
            environment
        );
        for user in [true, false] {
            assert!(foreign(&whom(&mapping, subject("globex", user), None)));
        }
    }

    #[test]
    fn a_template_has_one_place_for_one_member() {
        for (format, text) in [
            (Format::IssSub, "idp|{sub}"),
            (Format::Email, "{email}"),
            (Format::Opaque, "user:{id}@example.org"),
        ] {
            assert!(Template::parse(format, text).is_ok(), "{text}");
        }
        for (format, text) in [
            (Format::IssSub, ""),
            (Format::IssSub, "ann"),
            (Format::IssSub, "{email}"),
            (Format::IssSub, "{sub}{sub}"),
            (Format::IssSub, "{iss}|{sub}"),
            (Format::IssSub, "a\n{sub}"),
        ] {
            assert!(Template::parse(format, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_speaks_about_nobody_unless_it_is_said() {
        let (ann, bot): (UserId, AgentName) = ("idp|ann".parse().unwrap(), "support-bot".parse().unwrap());
        let here: Environment = "production".parse().unwrap();
        let nobody = Confinement::default();
        assert!(!nobody.has_user(&ann) && !nobody.has_agent(&bot, &here) && !nobody.has_environment(&here));
        let some = Confinement {
            users: vec!["idp|*".parse().unwrap()],
            agents: vec!["support-*".parse().unwrap()],
            environments: vec!["staging".parse().unwrap()],
        };
        assert!(some.has_user(&ann) && !some.has_user(&"ann".parse().unwrap()));
        assert!(some.has_agent(&bot, &here) && !some.has_agent(&"report-bot".parse().unwrap(), &here));
        assert!(some.has_agent(&"report-bot".parse().unwrap(), &"staging".parse().unwrap()));
        assert!(!some.has_environment(&here));
        for text in ["*", "", "support*", "Support-*", "*-bot", "a-*-*"] {
            assert!(text.parse::<AgentPattern>().is_err(), "{text}");
        }
        assert!(
            !"support-*"
                .parse::<AgentPattern>()
                .unwrap()
                .matches(&"support-".parse().unwrap())
        );
    }
}
