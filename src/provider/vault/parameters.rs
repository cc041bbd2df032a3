//! What the catalogue says about a tool, as the provider understands it.
//!
//! ```toml
//! provider = "vault"
//!
//! [parameters]
//! policies = ["orders-read"]
//!
//! [parameters.secret.read]
//! kind = "leased"
//! path = "database/creds/orders-{resource}"
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::template::{Filling, Template, checked};
use crate::model::access::ResourcePath;
use crate::model::lease::Ending;
use crate::model::name::Operation;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;
use crate::provider::ProviderError;

/// What a secret is, by how it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Vault made it, keeps a lease on it, and ends it.
    Leased,
    /// Vault made it, and it ends by itself: an STS session, a signed key, a certificate.
    Expiring,
    /// Vault keeps it, and it goes on working: an entry of a key/value store.
    Stored,
    /// A token of Vault itself.
    Token,
}

impl Kind {
    /// What can be promised for it.
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Leased | Self::Token => Ending::Immediate,
            Self::Expiring => Ending::AtExpiry,
            Self::Stored => Ending::Never,
        }
    }

    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Expiring => "expiring",
            Self::Stored => "stored",
            Self::Token => "token",
        }
    }
}

/// How a secret is had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    /// `GET`.
    #[default]
    Read,
    /// `POST`.
    Write,
}

/// A tool's secrets.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plan {
    /// How they end. All of a tool's end the same way.
    pub(super) kind: Kind,
    /// So long a secret can live in all by being renewed.
    pub(super) renew_for: Option<Ttl>,
    /// Hand out a token that fetches the secret once, for so long.
    pub(super) wrap_ttl: Option<Ttl>,
    /// The shortest life that can be had.
    pub(super) least_ttl: Option<Ttl>,
    secrets: BTreeMap<Operation, Recipe>,
}

/// How to come by the secret of an action.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Recipe {
    /// All that the token of the lease may do.
    pub(super) policies: Vec<String>,
    /// Where it is; nowhere for a token.
    pub(super) path: Option<Template>,
    /// How it is had.
    pub(super) method: Method,
    body: Body,
    /// Where in the answer's `data` it is, as a JSON pointer.
    pub(super) select: Option<String>,
    /// What of it is handed out; everything if nothing is said.
    pub(super) fields: Vec<String>,
    /// The field of the answer's `data` that says when it ends.
    pub(super) expires: Option<String>,
}

/// A request that is ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filled {
    /// Where to.
    pub(super) path: String,
    /// How.
    pub(super) method: Method,
    /// With what.
    pub(super) body: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    policies: Vec<String>,
    renew_for: Option<Ttl>,
    wrap_ttl: Option<Ttl>,
    least_ttl: Option<Ttl>,
    #[serde(default)]
    secret: BTreeMap<String, WrittenSecret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSecret {
    kind: Kind,
    policies: Option<Vec<String>>,
    path: Option<String>,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    body: Map<String, Value>,
    select: Option<String>,
    #[serde(default)]
    fields: Vec<String>,
    expires: Option<String>,
}

impl Plan {
    /// Reads and checks the parameters of a tool.
    pub(super) fn of(tool: &Tool) -> Result<Self, ProviderError> {
        read(tool).map_err(|reason| {
            ProviderError::Refused(format!("the parameters of the tool `{}`: {reason}", tool.name))
        })
    }

    /// The one secret that is this access, and the one resource in it.
    pub(super) fn recipe<'p, 'r>(
        &'p self,
        actions: &BTreeSet<Operation>,
        resources: &'r BTreeSet<ResourcePath>,
    ) -> Result<(&'p Recipe, Option<&'r str>), ProviderError> {
        let mut recipes = actions.iter().map(|action| self.secrets.get(action));
        let recipe = recipes.next().flatten();
        let recipe = recipe.filter(|recipe| recipes.all(|other| other == Some(*recipe)));
        let recipe = recipe.ok_or_else(|| ProviderError::Unfit {
            pointer: "/actions",
            reason: "no one secret is good for all of these actions: ask for one action at a time".into(),
        })?;
        let unfit = |reason: &str| ProviderError::Unfit {
            pointer: "/resources",
            reason: reason.into(),
        };
        let mut resources = resources.iter().map(ResourcePath::as_str);
        let resource = resources.next();
        match (recipe.names_the_resource(), resource) {
            (true, None) => Err(unfit("a credential for this tool is for one resource: name it")),
            (true, Some(_)) if resources.next().is_some() => Err(unfit(
                "a credential for this tool is for one resource: ask for each of them",
            )),
            (true, Some(resource)) => Ok((recipe, Some(checked(resource)?))),
            (false, None) => Ok((recipe, None)),
            (false, Some(_)) => Err(unfit(
                "a credential for this tool is for the tool as a whole: ask for it without resources",
            )),
        }
    }
}

impl Recipe {
    fn names_the_resource(&self) -> bool {
        let path = self.path.as_ref().is_some_and(Template::names_the_resource);
        path || self.body.any(&Template::names_the_resource)
    }

    /// Whether the engine is asked for the life that the lease has.
    pub(super) fn asks_for_a_life(&self) -> bool {
        self.body.any(&Template::names_the_life)
    }

    /// The request, with its places filled in; nothing for a token, which is there already.
    pub(super) fn fill(&self, filling: &Filling<'_>) -> Result<Option<Filled>, ProviderError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let body = match self.method {
            Method::Read => Vec::new(),
            Method::Write => self.body.fill(filling)?.to_string().into_bytes(),
        };
        Ok(Some(Filled {
            path: path.fill(filling)?,
            method: self.method,
            body,
        }))
    }
}

/// JSON whose texts are templates.
#[derive(Clone, PartialEq, Debug)]
enum Body {
    Plain(Value),
    Text(Template),
    List(Vec<Body>),
    Map(BTreeMap<String, Body>),
}

impl Body {
    fn parse(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(&text)?),
            Value::Array(items) => Self::List(items.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::Object(entries) => Self::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Ok((key, Self::parse(value)?)))
                    .collect::<Result<_, String>>()?,
            ),
            plain => Self::Plain(plain),
        })
    }

    fn any(&self, test: &dyn Fn(&Template) -> bool) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Text(template) => test(template),
            Self::List(items) => items.iter().any(|item| item.any(test)),
            Self::Map(entries) => entries.values().any(|entry| entry.any(test)),
        }
    }

    fn fill(&self, filling: &Filling<'_>) -> Result<Value, ProviderError> {
        Ok(match self {
            Self::Plain(value) => value.clone(),
            Self::Text(template) => template.fill(filling)?.into(),
            Self::List(items) => Value::Array(
                items
                    .iter()
                    .map(|item| item.fill(filling))
                    .collect::<Result<_, _>>()?,
            ),
            Self::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, entry)| Ok((key.clone(), entry.fill(filling)?)))
                    .collect::<Result<_, ProviderError>>()?,
            ),
        })
    }
}

fn read(tool: &Tool) -> Result<Plan, String> {
    let written = Value::Object(tool.binding.parameters.clone().into_iter().collect());
    let written: Written = serde_path_to_error::deserialize(written).map_err(|error| {
        let path = error.path().to_string();
        format!("`{path}`: {}", error.into_inner())
    })?;
    let mut secrets = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for (action, secret) in written.secret {
        let about = |reason: String| format!("`secret.{action}`: {reason}");
        let action: Operation = action.parse().map_err(|error| about(format!("{error}")))?;
        if !tool.actions.contains_key(&action) {
            return Err(about("the tool has no such action".into()));
        }
        kinds.insert(secret.kind.as_str(), secret.kind);
        secrets.insert(action.clone(), recipe(secret, &written.policies).map_err(about)?);
    }
    if let Some(action) = tool.actions.keys().find(|action| !secrets.contains_key(*action)) {
        return Err(format!(
            "nothing says how to come by the secret of `{action}`: add `[parameters.secret.{action}]`"
        ));
    }
    let mut kinds = kinds.into_values();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err("its secrets end in different ways: make a tool of each `kind`".into());
    };
    if written.renew_for.is_some() && !matches!(kind, Kind::Leased | Kind::Token) {
        return Err("`renew_for`: only what is `leased` and tokens can be renewed".into());
    }
    if written.wrap_ttl.is_some_and(|ttl| ttl.as_secs() > 3600) {
        return Err("`wrap_ttl`: write at most 1h".into());
    }
    Ok(Plan {
        kind,
        renew_for: written.renew_for,
        wrap_ttl: written.wrap_ttl,
        least_ttl: written.least_ttl,
        secrets,
    })
}

fn recipe(written: WrittenSecret, usual: &[String]) -> Result<Recipe, String> {
    let policies = written.policies.unwrap_or_else(|| usual.to_vec());
    let named = |policy: &String| {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        !policy.is_empty() && policy != "root" && policy.chars().all(letter)
    };
    if policies.is_empty() || policies.len() > 32 || !policies.iter().all(named) {
        return Err(
            "`policies`: name the policies that allow this and no more, in lower case, such as `policies = [\"orders-read\"]`; `root` is none of them"
                .into(),
        );
    }
    let path = written.path.as_deref().map(Template::parse_path).transpose()?;
    let kind = written.kind;
    let token = kind == Kind::Token;
    match (&path, token) {
        (None, false) => {
            return Err("`path`: write where the secret is, such as `database/creds/orders`".into());
        }
        (Some(_), true) => return Err("`path`: a token is at no path; leave it out".into()),
        _ => {}
    }
    let reads = written.method == Method::Read;
    if reads && !written.body.is_empty() {
        return Err("`body`: nothing is sent with `method = \"read\"`; write `method = \"write\"`".into());
    }
    if token && (!reads || written.select.is_some() || !written.fields.is_empty()) {
        return Err("a token has `kind` and `policies` only".into());
    }
    if written
        .select
        .as_ref()
        .is_some_and(|pointer| !pointer.starts_with('/'))
    {
        return Err("`select`: write a JSON pointer such as `/data`".into());
    }
    if written.expires.is_some() && kind != Kind::Expiring {
        return Err("`expires`: only what is `expiring` says itself when it ends".into());
    }
    Ok(Recipe {
        policies,
        path,
        method: written.method,
        body: Body::parse(Value::Object(written.body))?,
        select: written.select,
        fields: written.fields,
        expires: written.expires,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::vault::testing::{lease, tool};

    fn plan(parameters: Value) -> Result<Plan, String> {
        Plan::of(&tool(parameters)).map_err(|error| error.to_string())
    }

    fn one(secret: Value) -> Result<Plan, String> {
        plan(json!({"policies": ["orders-read"], "secret": {"read": secret}}))
    }

    #[test]
    fn reads_how_to_come_by_a_secret() {
        let plan = one(json!({
            "kind": "leased", "method": "write", "path": "pki/issue/{agent}",
            "body": {"common_name": "{resource}.example.org", "ttl": "{ttl}", "n": 1, "list": ["{lease}"]},
        }))
        .unwrap();
        let mut lease = lease();
        lease.resources = ["web".parse().unwrap()].into();
        let (recipe, resource) = plan.recipe(&lease.actions, &lease.resources).unwrap();
        assert!(recipe.asks_for_a_life());
        let filling = Filling {
            lease: &lease,
            resource,
            seconds: 90,
        };
        let filled = recipe.fill(&filling).unwrap().unwrap();
        assert_eq!(filled.path, "pki/issue/support-bot");
        assert_eq!(
            serde_json::from_slice::<Value>(&filled.body).unwrap(),
            json!({"common_name": "web.example.org", "ttl": "90s", "n": 1, "list": [lease.id.to_string()]})
        );
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let leased = json!({"kind": "leased", "path": "database/creds/orders"});
        for (parameters, said) in [
            (json!({}), "[parameters.secret.read]"),
            (json!({"policy": ["a"]}), "unknown field `policy`"),
            (
                json!({"secret": {"read": leased}}),
                "`policies`: name the policies",
            ),
            (
                json!({"policies": ["root"], "secret": {"read": leased}}),
                "`root` is none of them",
            ),
            (
                json!({"policies": ["a"], "secret": {"write": leased}}),
                "the tool has no such action",
            ),
            (
                json!({"policies": ["a"], "secret": {"read": {"kind": "dynamic"}}}),
                "`secret.read.kind`",
            ),
            (
                json!({"policies": ["a"], "secret": {"read": {"kind": "leased"}}}),
                "`path`: write where",
            ),
            (
                json!({"policies": ["a"], "secret": {"read": {"kind": "token", "path": "a/b"}}}),
                "a token is at no path",
            ),
            (
                json!({"policies": ["a"], "secret": {"read": {"kind": "leased", "path": "a/b", "body": {"a": 1}}}}),
                "method = \"write\"",
            ),
            (
                json!({"policies": ["a"], "renew_for": "1h", "secret": {"read": {"kind": "stored", "path": "a/b"}}}),
                "`renew_for`",
            ),
        ] {
            let error = plan(parameters).unwrap_err();
            assert!(error.contains(said) && error.contains("`crm`"), "{error}");
        }
    }

    #[test]
    fn an_access_that_no_one_secret_is_good_for_is_unfit() {
        let plan = one(json!({"kind": "stored", "path": "kv/data/{resource}"})).unwrap();
        let mut lease = lease();
        for resources in [vec![], vec!["a", "b"]] {
            lease.resources = resources.iter().map(|path| path.parse().unwrap()).collect();
            assert!(matches!(
                plan.recipe(&lease.actions, &lease.resources),
                Err(ProviderError::Unfit {
                    pointer: "/resources",
                    ..
                })
            ));
        }
        let whole = one(json!({"kind": "stored", "path": "kv/data/all"})).unwrap();
        lease.resources = ["a".parse().unwrap()].into();
        assert!(
            whole.recipe(&lease.actions, &lease.resources).is_err(),
            "it would be wider than what was permitted"
        );
        lease.resources.clear();
        assert!(whole.recipe(&lease.actions, &lease.resources).is_ok());
        lease.actions.insert("write".parse().unwrap());
        assert!(matches!(
            whole.recipe(&lease.actions, &lease.resources),
            Err(ProviderError::Unfit {
                pointer: "/actions",
                ..
            })
        ));
    }
}
